//! A worker that a frontend is told of: `[MODEL=]URL[;kinds=chat,…][;namespace=…][;accepts=…]`.

use std::str::FromStr;

use dynamo_discovery::{Accepts, Kind, Kinds, WorkerUrl, check_model_name};
use dynamo_namespace::Namespace;

use super::value::{self, from_text};

/// A worker that needs no registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StaticWorker {
    /// The model that it is said to serve; else it is asked.
    pub(crate) model: Option<String>,
    pub(crate) url: WorkerUrl,
    pub(crate) kinds: Kinds,
    /// The namespace that it belongs to, where that is not the frontend's own.
    pub(crate) namespace: Option<Namespace>,
    /// The optional fields of requests that it accepts; else what is known of its engine.
    pub(crate) accepts: Option<Accepts>,
}

/// What an engine is taken to do where nobody says: its list of models does not tell.
pub(crate) fn default_kinds() -> Kinds {
    Kinds::from_iter([Kind::Chat, Kind::Completions])
}

impl StaticWorker {
    /// Whether it is the same server for the same model and namespace, whatever else is said of it.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let of = |one: &'_ Self| (one.url.clone(), one.model.clone(), one.namespace.clone());
        of(self) == of(other)
    }
}

from_text!(StaticWorker);

impl FromStr for StaticWorker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (worker, options) =
            text.split_once(';').map_or((text, None), |(worker, options)| (worker, Some(options)));
        let (model, url) = match split_model(worker) {
            Some((model, url)) => (Some(model), url),
            None => (None, worker),
        };
        if let Some(model) = model {
            check_model_name(model).map_err(|error| error.to_string())?;
        }
        let (mut kinds, mut namespace, mut accepts) = (None, None, None);
        for option in options.into_iter().flat_map(|options| options.split(';')) {
            match option.split_once('=') {
                Some(("kinds", list)) if kinds.is_none() => {
                    let list = value::kinds(list).map_err(|error| format!("kinds: {error}"))?;
                    kinds = Some(list);
                }
                Some(("namespace", name)) if namespace.is_none() && !name.is_empty() => {
                    namespace = Some(name.parse::<Namespace>().map_err(|error| error.to_string())?);
                }
                Some(("accepts", list)) if accepts.is_none() => {
                    let list = list.parse().map_err(|error| format!("accepts: {error}"))?;
                    accepts = Some(list);
                }
                _ => {
                    return Err(format!(
                        "after ';' only kinds=…, namespace=… and accepts=… may stand, once each, \
                         not {option:?}"
                    ));
                }
            }
        }
        let kinds = kinds.unwrap_or_else(default_kinds);
        let url = url.parse().map_err(|error| format!("not a worker's URL: {error}"))?;
        Ok(Self { model: model.map(str::to_owned), url, kinds, namespace, accepts })
    }
}

/// Splits at the `=` before the URL; both a model's name and a URL's path may contain others.
fn split_model(worker: &str) -> Option<(&str, &str)> {
    let is_url = |text: &str| {
        ["http://", "https://"].iter().any(|scheme| {
            text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
        })
    };
    worker
        .match_indices('=')
        .map(|(at, _)| (&worker[..at], &worker[at + 1..]))
        .find(|(model, url)| !is_url(model) && is_url(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StaticWorker, String> {
        text.parse()
    }

    #[test]
    fn model_and_kinds_are_optional() {
        let url = |text: &str| text.parse::<WorkerUrl>().unwrap();
        let chat_only = Kinds::from(Kind::Chat);
        for (text, model, expected_url, kinds) in [
            ("http://h:1", None, "http://h:1", default_kinds()),
            ("Qwen/Q=http://h:1/", Some("Qwen/Q"), "http://h:1", default_kinds()),
            ("a=b=HTTPS://h/x=y", Some("a=b"), "https://h/x=y", default_kinds()),
            ("http://h/a=http://x", None, "http://h/a=http://x", default_kinds()),
            ("m=http://h;kinds=chat", Some("m"), "http://h", chat_only),
            ("http://h;kinds=chat,Completions", None, "http://h", default_kinds()),
        ] {
            let worker = parse(text).unwrap();
            assert_eq!(worker.model.as_deref(), model, "{text}");
            assert_eq!(worker.url, url(expected_url), "{text}");
            assert_eq!(worker.kinds, kinds, "{text}");
        }
    }

    #[test]
    fn a_worker_may_belong_to_a_namespace_of_its_own() {
        let namespace = |text: &str| parse(text).unwrap().namespace.map(|name| name.to_string());
        assert_eq!(namespace("http://h"), None);
        assert_eq!(namespace("http://h;namespace=a").as_deref(), Some("a"));
        let both = parse("m=http://h;namespace=a;kinds=chat").unwrap();
        assert_eq!((both.namespace.is_some(), both.kinds), (true, Kind::Chat.into()));
    }

    #[test]
    fn a_worker_may_say_which_optional_fields_it_accepts() {
        let accepts = |text: &str| parse(text).unwrap().accepts.map(|accepts| accepts.to_string());
        assert_eq!(accepts("http://h"), None);
        assert_eq!(accepts("http://h;accepts=").as_deref(), Some(""));
        let both = accepts("m=http://h;accepts=priority,include_usage;kinds=chat");
        assert_eq!(both.as_deref(), Some("include_usage,priority"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "not a worker's URL"),
            ("h:1", "scheme"),
            ("m=h:1", "scheme"),
            ("=http://h", "name"),
            ("http://h?x", "query"),
            ("http://169.254.169.254", "link-local"),
            ("http://h;kinds=telepathy", "expected some of Chat"),
            ("http://h;kinds=", "expected some of Chat"),
            ("http://h;weight=2", "only kinds="),
            ("http://h;kinds=chat;kinds=chat", "once each"),
            ("http://h;accepts=telepathy", "expected some of include_usage"),
            ("http://h;accepts=;accepts=", "once each"),
            ("http://h;namespace=", "only kinds="),
            ("http://h;namespace=a b", "invalid namespace"),
            ("http://h;", "only kinds="),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
