//! All aliases of a front door, checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use dynamo_discovery::check_model_name;

use super::definition::{Alias, AliasTarget};

/// Aliases that can be used together.
///
/// ```
/// use dynamo_http::{Alias, AliasTable, AliasTarget};
///
/// let alias = |name, model| Alias::new(name, [AliasTarget::new(model)]);
/// assert!(AliasTable::new([alias("gpt-4o", "m"), alias("gpt-4o-mini", "m")]).is_ok());
/// // A target is a model. So an alias may hide the model that it stands for, and no chain is possible.
/// assert!(AliasTable::new([alias("m", "m")]).is_ok());
/// assert!(AliasTable::new([alias("a", "b"), alias("b", "m")]).is_err());
/// ```
#[derive(Clone, Debug, Default)]
pub struct AliasTable(BTreeMap<Arc<str>, Arc<Alias>>);

/// Aliases cannot be used, or not together. The message quotes the name escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAliases {
    /// An alias has a name that no model can have.
    #[error("{alias:?} is no name of a model")]
    Name {
        /// The name.
        alias: String,
    },
    /// A target has a name that no model can have.
    #[error("a target of {alias:?} has {model:?}, which is no name of a model")]
    TargetName {
        /// The alias.
        alias: String,
        /// The target's model.
        model: String,
    },
    /// Two aliases have the same name.
    #[error("there are two aliases {alias:?}")]
    SameName {
        /// The name.
        alias: String,
    },
    /// No target of an alias has a weight above 0.
    #[error("{alias:?} needs a target with a weight above 0")]
    NoTarget {
        /// The alias.
        alias: String,
    },
    /// An alias names the same model, in the same namespace, twice.
    #[error("{alias:?} names {model:?} twice, with the same namespace")]
    SameTarget {
        /// The alias.
        alias: String,
        /// The target's model.
        model: String,
    },
    /// A target of an alias is another alias.
    #[error("{alias:?} has the target {model:?}, which is an alias itself: name its models")]
    Chain {
        /// The alias.
        alias: String,
        /// The target's name.
        model: String,
    },
}

impl InvalidAliases {
    /// The name of the alias at fault.
    pub fn alias(&self) -> &str {
        match self {
            Self::Name { alias }
            | Self::TargetName { alias, .. }
            | Self::SameName { alias }
            | Self::NoTarget { alias }
            | Self::SameTarget { alias, .. }
            | Self::Chain { alias, .. } => alias,
        }
    }
}

impl AliasTable {
    /// A table of these aliases. A target with the weight 0 is left out.
    ///
    /// # Errors
    ///
    /// When a name cannot be a model's, when two aliases have the same name, when an alias has no
    /// target with a weight above 0, names a target twice, or has another alias as a target.
    pub fn new(aliases: impl IntoIterator<Item = Alias>) -> Result<Self, InvalidAliases> {
        let mut table = BTreeMap::new();
        for mut alias in aliases {
            check(&alias)?;
            alias.targets.retain(|target| target.weight() > 0);
            if alias.targets.is_empty() {
                return Err(InvalidAliases::NoTarget { alias: alias.name().into() });
            }
            let name: Arc<str> = alias.name().into();
            if table.insert(name, Arc::new(alias.clone())).is_some() {
                return Err(InvalidAliases::SameName { alias: alias.name().into() });
            }
        }
        for alias in table.values() {
            let is_other = |target: &&AliasTarget| {
                target.model() != alias.name() && table.contains_key(target.model())
            };
            if let Some(target) = alias.targets.iter().chain(&alias.fallback).find(is_other) {
                let (alias, model) = (alias.name().into(), target.model().into());
                return Err(InvalidAliases::Chain { alias, model });
            }
        }
        Ok(Self(table))
    }

    /// How many aliases there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no alias.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The alias of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Alias>> {
        self.0.get(name)
    }

    /// The aliases by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Alias>> {
        self.0.values()
    }
}

/// Checks what needs no other alias.
fn check(alias: &Alias) -> Result<(), InvalidAliases> {
    let name = || alias.name().to_owned();
    if check_model_name(alias.name()).is_err() {
        return Err(InvalidAliases::Name { alias: name() });
    }
    let all: Vec<_> = alias.targets.iter().chain(&alias.fallback).collect();
    for (at, target) in all.iter().enumerate() {
        let model = || target.model().to_owned();
        if check_model_name(target.model()).is_err() {
            return Err(InvalidAliases::TargetName { alias: name(), model: model() });
        }
        if all[..at].iter().any(|before| before.is_same(target)) {
            return Err(InvalidAliases::SameTarget { alias: name(), model: model() });
        }
    }
    Ok(())
}
