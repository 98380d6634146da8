//! Whose usage of tokens is shared.

use dynamo_discovery::{GroupName, UsageGroup};
use dynamo_namespace::NamespaceScope;

use super::given::Given;
use super::scope;
use super::store::Etcd;
use super::table::Counted;
use crate::failure::Failure;

/// The group that was named, else that of the scope's name.
///
/// # Errors
///
/// When there is no such name: all namespaces are discovered, or a namespace has a name that is none
/// of a group.
pub(crate) fn group(
    given: &Given,
    scope: &NamespaceScope,
    etcd: &Etcd,
) -> Result<UsageGroup, Failure> {
    let named = Counted::read(given)?.usage_group.take();
    let name = match named {
        Some(name) => name,
        None => of_scope(scope).ok_or_else(|| {
            Failure::usage(format!(
                "--usage-group is needed: this scope ({scope}) has no name that could be that of a \
                 group of frontends"
            ))
        })?,
    };
    Ok(UsageGroup::new(&etcd.root, &name))
}

fn of_scope(scope: &NamespaceScope) -> Option<GroupName> {
    match scope {
        NamespaceScope::All | NamespaceScope::AnyOf(_) => None,
        scope => scope::home(scope).as_str().parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_with_a_name_is_a_group_and_all_namespaces_are_none() {
        let of = |scope: NamespaceScope| of_scope(&scope).map(|name| name.to_string());
        let name = || "team-a".parse().unwrap();
        assert_eq!(of(NamespaceScope::Only(name())).as_deref(), Some("team-a"));
        assert_eq!(of(NamespaceScope::Generations(name())).as_deref(), Some("team-a"));
        assert_eq!(of(NamespaceScope::Prefix("team".into())).as_deref(), Some("team"));
        assert_eq!(of(NamespaceScope::All), None);
    }
}
