//! A request's body as `serde_json` reads it, duplicates and all.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// A document whose members are in the order in which they stand there.
pub(crate) struct Document {
    pub(crate) is_object: bool,
    members: Vec<(String, Value)>,
}

/// Why it is none.
pub(crate) enum Refused {
    /// `serde_json` reads numbers, and JSON has no largest one; nor has it a deepest nesting.
    BeyondLimits,
    NoJson(String),
}

/// Reads all of it.
pub(crate) fn read(bytes: &[u8]) -> Result<Document, Refused> {
    let refused = |error: serde_json::Error| match error.to_string() {
        text if text.starts_with("number out of range") => Refused::BeyondLimits,
        text if text.starts_with("recursion limit") => Refused::BeyondLimits,
        text => Refused::NoJson(text),
    };
    let value: Value = serde_json::from_slice(bytes).map_err(refused)?;
    if !value.is_object() {
        return Ok(Document { is_object: false, members: Vec::new() });
    }
    serde_json::from_slice(bytes).map_err(refused)
}

impl Document {
    pub(crate) fn all(&self, name: &str) -> Vec<&Value> {
        self.members.iter().filter(|member| member.0 == name).map(|member| &member.1).collect()
    }

    /// Whether both have the same members, but for the values of those of this name.
    pub(crate) fn differs_in_values_of(&self, name: &str, other: &Self) -> bool {
        let is_same = |(one, other): (&(String, Value), &(String, Value))| {
            one == other || one.0 == name && other.0 == name
        };
        self.members.len() == other.members.len()
            && self.members.iter().zip(&other.members).all(is_same)
    }

    pub(crate) fn first_of(&self, names: &[&str]) -> Option<&Value> {
        self.members.iter().find(|member| names.contains(&&*member.0)).map(|member| &member.1)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Document { is_object: true, members })
    }
}
