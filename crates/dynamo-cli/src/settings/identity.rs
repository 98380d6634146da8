//! Under which endpoint id a worker registers.

use clap::Args;
use dynamo_namespace::{EndpointId, names};

use super::table;
use crate::environment::Environment;
use crate::failure::Failure;

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct IdentityFlags {
    #[arg(long)]
    namespace: Option<String>,
    #[arg(long)]
    component: Option<String>,
    #[arg(long)]
    is_prefill_worker: bool,
    /// Not ours: who comes from Dynamo asks for it, and is told what replaced it.
    #[arg(long, hide = true, num_args = 0..=1)]
    endpoint: Option<Option<String>>,
}

impl IdentityFlags {
    /// Resolves as Dynamo's vLLM backend does.
    ///
    /// # Errors
    ///
    /// When a name is invalid, or `--endpoint` was asked for.
    pub(crate) fn resolve(self, environment: &Environment) -> Result<EndpointId, Failure> {
        if self.endpoint.is_some() {
            let variable = table::WORKER_NAMESPACE.variable.unwrap_or_default();
            return Err(Failure::usage(format!(
                "there is no --endpoint: set the namespace with --namespace or {variable}, and \
                 the component with --is-prefill-worker or --component; the endpoint is always \
                 \"{}\"",
                names::GENERATE_ENDPOINT
            )));
        }
        let mut namespace = table::WORKER_NAMESPACE.resolve(self.namespace, environment)?;
        if namespace.is_empty() {
            namespace = table::WORKER_NAMESPACE.default.unwrap_or_default().to_owned();
        }
        if let Some(suffix) = table::NAMESPACE_WORKER_SUFFIX.given::<String>(None, environment)? {
            namespace = format!("{namespace}-{suffix}");
        }
        let component = match (self.component.as_deref(), self.is_prefill_worker) {
            (Some(component), _) => component,
            (None, true) => names::PREFILL_COMPONENT,
            (None, false) => names::BACKEND_COMPONENT,
        };
        let namespace = namespace.parse().map_err(Failure::usage)?;
        EndpointId::new(namespace, component, names::GENERATE_ENDPOINT).map_err(Failure::usage)
    }
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

    fn id(flags: IdentityFlags, namespace: &str, suffix: &str) -> Result<String, String> {
        let environment = Environment::from([
            ("DYN_NAMESPACE", namespace),
            ("DYN_NAMESPACE_WORKER_SUFFIX", suffix),
        ]);
        flags.resolve(&environment).map(|id| id.to_string()).map_err(|failure| failure.to_string())
    }

    fn namespace(namespace: &str) -> IdentityFlags {
        IdentityFlags { namespace: Some(namespace.into()), ..IdentityFlags::default() }
    }

    #[test]
    fn the_flag_wins_and_the_suffix_is_appended_to_whatever_won() {
        let unset = IdentityFlags::default();
        for (flags, variable, suffix, expected) in [
            (unset.clone(), "", "", "global.backend.generate"),
            (unset.clone(), "team-a", "", "team-a.backend.generate"),
            (unset.clone(), "  ", " ", "global.backend.generate"),
            (unset.clone(), "team-a", "0f3c9a1b", "team-a-0f3c9a1b.backend.generate"),
            (unset, "", "0f3c9a1b", "global-0f3c9a1b.backend.generate"),
            (namespace("b"), "team-a", "", "b.backend.generate"),
            (namespace("b"), "team-a", "x", "b-x.backend.generate"),
            (namespace(""), "team-a", "", "global.backend.generate"),
        ] {
            assert_eq!(id(flags, variable, suffix).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_prefill_worker_has_a_component_of_its_own_unless_one_is_named() {
        let prefill = IdentityFlags { is_prefill_worker: true, ..IdentityFlags::default() };
        assert_eq!(id(prefill.clone(), "a", "").unwrap(), "a.prefill.generate");
        let named = IdentityFlags { component: Some("decoder".into()), ..prefill };
        assert_eq!(id(named, "a", "").unwrap(), "a.decoder.generate");
    }

    #[test]
    fn invalid_names_are_refused_with_their_text() {
        let message = id(namespace("a b"), "", "").unwrap_err();
        assert!(message.starts_with("invalid namespace \"a b\""), "{message}");
        let message = id(IdentityFlags::default(), "a", "x.y").unwrap_err();
        assert!(message.starts_with("invalid namespace \"a-x.y\""), "{message}");
        let component = IdentityFlags { component: Some(String::new()), ..namespace("a") };
        assert!(id(component, "", "").unwrap_err().starts_with("invalid component \"\""));
    }

    #[test]
    fn who_asks_for_an_endpoint_is_told_what_to_use_instead() {
        let endpoint = Some(Some("dyn://a.b.c".to_owned()));
        let message =
            id(IdentityFlags { endpoint, ..IdentityFlags::default() }, "", "").unwrap_err();
        for part in ["--namespace", "DYN_NAMESPACE", "--is-prefill-worker", "generate"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
