//! One entry of `model_list`: a name that clients ask for, and a server that answers.

use dynamo_discovery::check_model_name;
use serde_json::Value;

use super::advice::{self, Part};
use super::report::{Report, below};
use crate::settings::static_worker::StaticWorker;

/// The providers that stand for a server of one's own with the API of OpenAI.
const OWN_SERVERS: &[&str] = &[
    "openai",
    "hosted_vllm",
    "custom_openai",
    "openai_like",
    "text-completion-openai",
    "litellm_proxy",
    "lm_studio",
    "llamafile",
    "ollama",
    "ollama_chat",
    "xinference",
];

/// The modes of models, and what a worker of such a model says that it can do.
const MODES: &[(&str, Option<&str>)] = &[
    ("chat", None),
    ("responses", None),
    ("completion", Some("completions")),
    ("embedding", Some("embedding")),
    ("image_generation", Some("images")),
    ("audio_speech", Some("audios")),
    ("audio_transcription", Some("audios")),
    ("video_generation", Some("videos")),
    ("realtime", Some("realtime")),
    ("moderation", Some("classify")),
    ("rerank", Some("pooling")),
];

/// A URL that stands for the value of a variable while a worker is judged.
pub(crate) const PLACEHOLDER: &str = "http://192.0.2.1:8000";

/// An entry that can be translated.
#[derive(Debug)]
pub(super) struct Deployment {
    /// The name that clients ask for.
    pub(super) group: String,
    pub(super) server: Server,
    /// `weight`, `rpm` and `tpm`, as far as they are there.
    pub(super) shares: [f64; 3],
    pub(super) pointer: String,
}

/// A server with a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Server {
    /// The model's own name; without one, all that the server lists.
    pub(super) model: Option<String>,
    pub(super) url: Url,
    /// What the model can do, where that is not text.
    pub(super) kinds: Option<&'static str>,
    /// The key that the server gets, as the file has it. It is compared and never shown.
    pub(super) key: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Url {
    Plain(String),
    /// The value of this variable.
    Variable(String),
}

/// Reads an entry; tells of all in it that is not translated.
pub(super) fn read(entry: &Value, pointer: &str, report: &mut Report<'_>) -> Option<Deployment> {
    let members = report.members(entry, pointer)?;
    let Some(group) = members.get("model_name").and_then(Value::as_str) else {
        report
            .tell(pointer, "it has no `model_name` that is a text, so no client could ask for it");
        return None;
    };
    let at = below(pointer, "litellm_params");
    let Some(Value::Object(params)) = members.get("litellm_params") else {
        report.tell(pointer, "it has no `litellm_params`, so there is no server to send to");
        return None;
    };
    let text = |name: &str| params.get(name).and_then(Value::as_str);
    let Some(model) = text("model") else {
        report.tell(&at, "it has no `model` that is a text, so nothing is known of the server");
        return None;
    };
    let at_model = below(&at, "model");
    let (provider, model) = match (text("custom_llm_provider"), model.split_once('/')) {
        (Some(provider), Some((before, model))) if before == provider => (provider, model),
        (Some(provider), _) => (provider, model),
        (None, Some((provider, model))) => (provider, model),
        (None, None) => ("openai", model),
    };
    let base = text("api_base").or_else(|| text("base_url"));
    let (true, Some(base)) = (OWN_SERVERS.contains(&provider), base) else {
        let why = if base.is_some() {
            format!("the provider {provider:?} is not known to speak the API of OpenAI")
        } else {
            format!(
                "the provider {provider:?} without `api_base` is a service and no server of yours"
            )
        };
        report.tell(
            &at_model,
            &format!(
                "{why}: if it has an OpenAI-compatible server, give that to `worker_url`; else let \
                 LiteLLM go on for this model, with its address in `worker_url`"
            ),
        );
        return None;
    };
    let url = match base.strip_prefix("os.environ/") {
        Some(name) if is_variable(name) => Url::Variable(name.to_owned()),
        // The routes have the version themselves.
        _ => Url::Plain(without_version(base).to_owned()),
    };
    let model = if model == "*" { None } else { Some(model) };
    if let Some(fault) = fault(group, model, &url) {
        report.tell(&at, &fault);
        return None;
    }
    // Of an entry that is left out, nothing more is told.
    let mut kinds = None;
    for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        let pointer = below(pointer, name);
        match name.as_str() {
            "model_name" | "litellm_params" => {}
            "model_info" => kinds = model_info(value, &pointer, report),
            _ => report.tell(&pointer, advice::of(Part::Model, name)),
        }
    }
    let mut shares = [0.0; 3];
    for (name, value) in params.iter().filter(|(_, value)| !value.is_null()) {
        let at = below(&at, name);
        let share = ["weight", "rpm", "tpm"].iter().position(|share| share == name);
        if let Some(share) = share {
            match value.as_f64().filter(|share| share.is_finite() && *share >= 0.0) {
                Some(number) => shares[share] = number,
                None => report.tell(&at, "expected a number that is not negative"),
            }
        }
        match name.as_str() {
            "model" | "api_base" | "base_url" | "custom_llm_provider" | "api_key" | "weight" => {}
            _ => report.tell(&at, advice::of(Part::Deployment, name)),
        }
    }
    if let Url::Variable(name) = &url {
        let field = if text("api_base").is_some() { "api_base" } else { "base_url" };
        report.tell(
            &below(&at, field),
            &format!(
                "the file names the variable {name}: set it for the service, and for `config check`"
            ),
        );
    }
    let key = params.get("api_key").filter(|key| !key.is_null()).map(Value::to_string);
    let model = model.map(str::to_owned);
    let server = Server { model, url, kinds, key };
    Some(Deployment { group: group.to_owned(), server, shares, pointer: at })
}

/// What the model can do; tells of the other fields.
fn model_info(value: &Value, pointer: &str, report: &mut Report<'_>) -> Option<&'static str> {
    let mut kinds = None;
    for (name, value) in report.members(value, pointer)?.iter().filter(|(_, v)| !v.is_null()) {
        let mode = MODES.iter().find(|(mode, _)| name == "mode" && value.as_str() == Some(mode));
        match mode {
            Some((_, found)) => kinds = *found,
            None if name == "mode" => report.tell(
                &below(pointer, name),
                "no worker has this mode: it is taken for a model of text; else say \
                 `;kinds=KINDS` after the URL",
            ),
            None => report.tell(&below(pointer, name), advice::of(Part::Model, name)),
        }
    }
    kinds
}

/// Why there can be no such worker.
fn fault(group: &str, model: Option<&str>, url: &Url) -> Option<String> {
    let base = match url {
        Url::Plain(base) => base,
        Url::Variable(_) => PLACEHOLDER,
    };
    if model.is_none() && group != "*" {
        return Some(
            "of names with `*` only `*` itself is translated: name each model, or let clients ask \
             for the models' own names"
                .to_owned(),
        );
    }
    if model.is_some() && group.contains('*') {
        return Some("a name of `models` stands for itself: name each model".to_owned());
    }
    if let Err(error) = check_model_name(group) {
        return Some(format!("`model_name`: {error}"));
    }
    // The URL may hold a password and is not repeated.
    let refused =
        || "`api_base` is no URL of a worker: name another one in `worker_url`".to_owned();
    if base.contains(['@', ';']) || base.parse::<dynamo_discovery::WorkerUrl>().is_err() {
        return Some(refused());
    }
    let text = model.map_or_else(|| base.to_owned(), |model| format!("{model}={base}"));
    let same = text.parse::<StaticWorker>().is_ok_and(|worker| worker.model.as_deref() == model);
    (!same).then(|| "`model` is no name that `worker_url` can have".to_owned())
}

fn without_version(url: &str) -> &str {
    let url = url.trim_end_matches('/');
    url.strip_suffix("/v1").unwrap_or(url)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
