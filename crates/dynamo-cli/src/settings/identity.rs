//! Under which endpoint id a worker registers.

use dynamo_namespace::{EndpointId, GLOBAL_NAMESPACE, Namespace, NamespaceScope, names};
use tracing::warn;

use super::given::Given;
use super::table::Identity;
use crate::failure::Failure;

/// Resolves as Dynamo's vLLM backend does.
///
/// # Errors
///
/// When a name is invalid.
pub(crate) fn read(given: &Given) -> Result<EndpointId, Failure> {
    let identity = Identity::read(given)?;
    let mut namespace = identity.namespace.take();
    if namespace.is_empty() {
        namespace = GLOBAL_NAMESPACE.to_owned();
    }
    if let Some(suffix) = identity.namespace_worker_suffix.take() {
        let base = std::mem::take(&mut namespace);
        namespace = format!("{base}-{suffix}");
        let is_seen = |base: Namespace| {
            let namespace = namespace.parse::<Namespace>();
            let generations = NamespaceScope::Generations(base);
            namespace.is_ok_and(|namespace| generations.contains(&namespace))
        };
        if !base.parse().is_ok_and(is_seen) {
            warn!(
                namespace,
                "a frontend with --namespace-prefix {base} does not see this worker: generations end \
                 in 8 lowercase hexadecimal digits; one with --namespace-prefix-literal does"
            );
        }
    }
    let component = match (identity.component.as_deref(), *identity.is_prefill_worker) {
        (Some(component), _) => component,
        (None, true) => names::PREFILL_COMPONENT,
        (None, false) => names::BACKEND_COMPONENT,
    };
    let namespace = namespace.parse().map_err(Failure::usage)?;
    EndpointId::new(namespace, component, names::GENERATE_ENDPOINT).map_err(Failure::usage)
}

/// Logs an identity in one line.
pub(crate) fn log(id: &EndpointId) {
    tracing::info!(
        namespace = %id.namespace(),
        component = id.component(),
        endpoint = id.name(),
        "worker identity"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::tests::given;
    use crate::settings::table::WORKER_CONFIG;

    fn id(flags: &[&str], namespace: &str, suffix: &str) -> Result<String, String> {
        let variables = [("DYN_NAMESPACE", namespace), ("DYN_NAMESPACE_WORKER_SUFFIX", suffix)];
        let given = given(&WORKER_CONFIG, flags, variables)?;
        read(&given).map(|id| id.to_string()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_flag_wins_and_the_suffix_is_appended_to_whatever_won() {
        for (flags, variable, suffix, expected) in [
            (&[][..], "", "", "global.backend.generate"),
            (&[], "team-a", "", "team-a.backend.generate"),
            (&[], "  ", " ", "global.backend.generate"),
            (&[], "team-a", "0f3c9a1b", "team-a-0f3c9a1b.backend.generate"),
            (&[], "", "0f3c9a1b", "global-0f3c9a1b.backend.generate"),
            (&["--namespace=b"], "team-a", "", "b.backend.generate"),
            (&["--namespace=b"], "team-a", "x", "b-x.backend.generate"),
            (&["--namespace="], "team-a", "", "global.backend.generate"),
        ] {
            assert_eq!(id(flags, variable, suffix).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_prefill_worker_has_a_component_of_its_own_unless_one_is_named() {
        assert_eq!(id(&["--is-prefill-worker"], "a", "").unwrap(), "a.prefill.generate");
        let named = ["--is-prefill-worker", "--component=decoder"];
        assert_eq!(id(&named, "a", "").unwrap(), "a.decoder.generate");
    }

    #[test]
    fn invalid_names_are_refused_with_their_text() {
        let message = id(&["--namespace=a b"], "", "").unwrap_err();
        assert!(message.starts_with("invalid namespace \"a b\""), "{message}");
        let message = id(&[], "a", "x.y").unwrap_err();
        assert!(message.starts_with("invalid namespace \"a-x.y\""), "{message}");
        let message = id(&["--component="], "a", "").unwrap_err();
        assert!(message.starts_with("invalid component \"\""), "{message}");
    }

    #[test]
    fn who_asks_for_an_endpoint_is_told_what_to_use_instead() {
        for flags in [&["--endpoint", "dyn://a.b.c"][..], &["--endpoint=x"], &["--endpoint"]] {
            let message = id(flags, "", "").unwrap_err();
            for part in ["--namespace", "DYN_NAMESPACE", "--is-prefill-worker", "generate"] {
                assert!(message.contains(part), "{message}");
            }
        }
    }
}
