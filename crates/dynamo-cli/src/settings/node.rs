//! A value of the configuration file that knows the line of each of its parts.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

/// A value, and the line of each member and element, the first line being 1.
#[derive(Debug)]
pub(super) enum Node {
    Scalar(Value),
    Array(Vec<(u64, Self)>),
    Object(Vec<(String, u64, Self)>),
}

impl Node {
    /// Notes the line of each member and element by its JSON pointer. `pointer` is that of this value.
    pub(super) fn note_lines(&self, pointer: &mut String, lines: &mut BTreeMap<String, u64>) {
        let mut note = |token: &str, line: u64, node: &Self| {
            let length = pointer.len();
            add_token(pointer, token);
            lines.insert(pointer.clone(), line);
            node.note_lines(pointer, lines);
            pointer.truncate(length);
        };
        match self {
            Self::Scalar(_) => {}
            Self::Array(elements) => {
                for (at, (line, node)) in elements.iter().enumerate() {
                    note(&at.to_string(), *line, node);
                }
            }
            Self::Object(members) => {
                for (name, line, node) in members {
                    note(name, *line, node);
                }
            }
        }
    }

    /// The value without its lines.
    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Scalar(value) => value,
            Self::Array(elements) => {
                elements.into_iter().map(|(_, node)| node.into_value()).collect()
            }
            Self::Object(members) => {
                let members = members.into_iter().map(|(name, _, node)| (name, node.into_value()));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}

/// Makes a JSON pointer that of a member, or of an element, of what it pointed to.
pub(super) fn add_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = elements.next_element::<Spanned<Node>>()? {
            all.push((element.referenced.line(), element.value));
        }
        Ok(Node::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(name) = members.next_key::<Spanned<String>>()? {
            all.push((name.value, name.referenced.line(), members.next_value()?));
        }
        Ok(Node::Object(all))
    }
}
