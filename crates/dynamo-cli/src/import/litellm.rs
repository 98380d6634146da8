//! LiteLLM's `config.yaml`: its sections, and the configuration file that is made of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::Translated;
use super::advice::{self, Part};
use super::deployment::{self, Deployment};
use super::names::{Target, Workers};
use super::report::{Report, below};
use super::yaml;
use crate::failure::Failure;
use crate::settings::file::Section;

/// Settings without which nobody gets in there, so that nobody may get in here unasked.
const GUARDS: &[&str] = &["master_key", "custom_auth", "enable_jwt_auth", "database_url"];

/// What the sections of settings say.
#[derive(Default)]
struct Settings {
    /// Lines of settings of our own.
    lines: BTreeMap<&'static str, String>,
    /// The names that answer where those of a name cannot, and where that was said.
    fallbacks: Vec<(String, Vec<String>, String)>,
    /// The same where the prompt is too long.
    on_context: Vec<(String, Vec<String>, String)>,
    /// For all names.
    default_fallbacks: Option<(Vec<String>, String)>,
    /// Further names of names, and whether they are listed.
    aliases: Vec<(String, String, bool, String)>,
    is_guarded: bool,
}

/// A name of our own.
struct Name {
    name: String,
    targets: Vec<Target>,
    fallback: Vec<Target>,
    on: Vec<&'static str>,
    is_listed: bool,
    pointer: String,
}

/// Translates a file.
///
/// # Errors
///
/// When it cannot be read, or is no YAML with fields.
pub(crate) fn translate(path: &Path) -> Result<Translated, Failure> {
    let file = Section::read(path)?;
    let mut report = Report::new(path, &file);
    let Value::Object(sections) = &file.value else {
        return Err(Failure::usage(format!("{}: it has no fields", path.display())));
    };
    let mut settings = Settings::default();
    let mut deployments = Vec::new();
    for (name, value) in sections {
        let pointer = below("", name);
        match name.as_str() {
            "model_list" => {
                for (at, entry) in report.elements(value, &pointer).iter().enumerate() {
                    let pointer = format!("{pointer}/{at}");
                    deployments.extend(deployment::read(entry, &pointer, &mut report));
                }
            }
            "router_settings" | "litellm_settings" | "general_settings" => {
                for (name, value) in report.members(value, &pointer).into_iter().flatten() {
                    if !value.is_null() {
                        settings.take(name, value, &below(&pointer, name), &mut report);
                    }
                }
            }
            "environment_variables" => {
                for name in
                    report.members(value, &pointer).into_iter().flatten().map(|(name, _)| name)
                {
                    report.tell(
                        &below(&pointer, name),
                        "no file sets variables: set it where the program is started",
                    );
                }
            }
            "include" => {
                report.tell(&pointer, "other files are not read: translate each, and join them");
            }
            _ => report.tell(&pointer, advice::of(Part::Settings, name)),
        }
    }
    let workers = Workers::new(&deployments);
    tell_of_keys(&deployments, &workers, &mut report);
    let names = names(&deployments, &workers, &settings, &mut report);
    Ok(Translated {
        text: written(path, &workers, &settings, &names),
        left: report.lines(),
        variables: workers.variables(),
    })
}

impl Settings {
    fn take(&mut self, name: &str, value: &Value, pointer: &str, report: &mut Report<'_>) {
        let number = value.as_f64().filter(|number| *number > 0.0);
        match name {
            "fallbacks" => self.fallbacks.extend(lists(value, pointer, report)),
            "context_window_fallbacks" => self.on_context.extend(lists(value, pointer, report)),
            "default_fallbacks" => {
                self.default_fallbacks = Some((texts(value, pointer, report), pointer.to_owned()));
            }
            "model_group_alias" => {
                for (alias, of) in report.members(value, pointer).into_iter().flatten() {
                    let pointer = below(pointer, alias);
                    let is_hidden = of.get("hidden").and_then(Value::as_bool).unwrap_or_default();
                    match of.as_str().or_else(|| of.get("model")?.as_str()) {
                        Some(of) => {
                            self.aliases.push((alias.clone(), of.to_owned(), !is_hidden, pointer));
                        }
                        None => report.tell(&pointer, "expected a name of `model_list`"),
                    }
                }
            }
            "routing_strategy" => match value.as_str() {
                Some("simple-shuffle") => self.set("router_mode", "random"),
                Some("least-busy") => self.set("router_mode", "least-loaded"),
                _ => report.tell(
                    pointer,
                    "there is no such mode: `cache-aware`, the default, takes the load and the \
                     prefix caches of servers into account; see `router_mode`",
                ),
            },
            "timeout" | "request_timeout" if number.is_some() => {
                if name == "timeout" || !self.lines.contains_key("first_byte_timeout") {
                    self.set("first_byte_timeout", &value.to_string());
                }
                report.tell(
                    pointer,
                    "no request as a whole has a limit: `first_byte_timeout` is the time until the \
                     answer begins, which for a plain answer is all of it, and \
                     `stream_idle_timeout` that in which it may stand still. Of `timeout` and \
                     `request_timeout`, `timeout` is taken",
                );
            }
            "num_retries" if value.as_f64() == Some(0.0) => self.set("retry_budget", "0"),
            "json_logs" if value.is_boolean() => self.set("logging_jsonl", &value.to_string()),
            _ if GUARDS.contains(&name) && *value != Value::Bool(false) => {
                self.is_guarded = true;
                report.tell(
                    pointer,
                    "it is not copied. So that nobody gets in unasked, `keys` is an empty list, \
                     and each request is refused: make keys with `dynamo-frontend hash-key \
                     --generate`, and put their hashes there, each with `all_namespaces: true` or \
                     the namespaces that it may use",
                );
            }
            _ => report.tell(pointer, advice::of(Part::Settings, name)),
        }
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.lines.insert(name, yaml::text(value));
    }
}

/// Lists of names by name: `[{a: [b, c]}, …]`.
fn lists(
    value: &Value,
    pointer: &str,
    report: &mut Report<'_>,
) -> Vec<(String, Vec<String>, String)> {
    let mut all = Vec::new();
    for (at, entry) in report.elements(value, pointer).iter().enumerate() {
        let pointer = format!("{pointer}/{at}");
        for (name, value) in report.members(entry, &pointer).into_iter().flatten() {
            let pointer = below(&pointer, name);
            all.push((name.clone(), texts(value, &pointer, report), pointer));
        }
    }
    all
}

fn texts(value: &Value, pointer: &str, report: &mut Report<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    for (at, value) in report.elements(value, pointer).iter().enumerate() {
        match value.as_str() {
            Some(text) => texts.push(text.to_owned()),
            None => report.tell(
                &format!("{pointer}/{at}"),
                "expected a name: a fallback changes nothing of the request but the model",
            ),
        }
    }
    texts
}

fn tell_of_keys(deployments: &[Deployment], workers: &Workers, report: &mut Report<'_>) {
    for deployment in deployments.iter().filter(|deployment| deployment.server.key.is_some()) {
        let value = match workers.namespace(&deployment.server) {
            Some(namespace) => format!("{namespace}=FILE"),
            None => "FILE".to_owned(),
        };
        report.tell(
            &below(&deployment.pointer, "api_key"),
            &format!(
                "no key is copied: put it into a file that only the service can read, and name \
                 that with `worker_api_key_file: [{value}]`"
            ),
        );
    }
}

/// The names, with their targets and fallbacks.
fn names(
    deployments: &[Deployment],
    workers: &Workers,
    settings: &Settings,
    report: &mut Report<'_>,
) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    let known = |group: &str| deployments.iter().any(|deployment| deployment.group == group);
    for deployment in deployments.iter().filter(|deployment| deployment.server.model.is_some()) {
        if names.iter().all(|name| name.name != deployment.group) {
            let (name, pointer) = (deployment.group.clone(), deployment.pointer.clone());
            names.push(Name::new(name, workers, &deployment.group, pointer));
        }
    }
    for (alias, of, is_listed, pointer) in &settings.aliases {
        if !known(of) || known(alias) {
            report.tell(pointer, "it has no name of `model_list` that was translated, or is one");
            continue;
        }
        let name = Name::new(alias.clone(), workers, of, pointer.clone());
        names.push(Name { is_listed: *is_listed, ..name });
    }
    let lists = settings.fallbacks.iter().map(|list| (list, "429"));
    for ((of, to, pointer), on) in
        lists.chain(settings.on_context.iter().map(|list| (list, "context_length")))
    {
        let Some(name) = names.iter_mut().find(|name| name.name == *of) else {
            report.tell(pointer, "there is no such name among those that were translated");
            continue;
        };
        if on == "context_length" {
            report.tell(
                pointer,
                "a name has one list of fallbacks: these answer as well where no target can, after \
                 those of `fallbacks`",
            );
        }
        name.fall_back(to, on, workers, pointer, report);
    }
    copy_fallbacks(&mut names, &settings.aliases);
    if let Some((to, pointer)) = &settings.default_fallbacks {
        for name in names.iter_mut().filter(|name| !name.on.contains(&"429")) {
            let others: Vec<_> = to.iter().filter(|to| **to != name.name).cloned().collect();
            name.fall_back(&others, "429", workers, pointer, report);
        }
    }
    names.retain(Name::is_needed);
    without_chains(names, report)
}

/// A further name of a name falls back as that does, unless it has fallbacks of its own.
fn copy_fallbacks(names: &mut [Name], aliases: &[(String, String, bool, String)]) {
    for (alias, of, ..) in aliases {
        let Some(of) = names.iter().find(|name| name.name == *of) else { continue };
        let (fallback, on) = (of.fallback.clone(), of.on.clone());
        let is_bare = |name: &&mut Name| name.name == *alias && name.fallback.is_empty();
        if let Some(name) = names.iter_mut().find(is_bare) {
            (name.fallback, name.on) = (fallback, on);
        }
    }
}

impl Name {
    fn new(name: String, workers: &Workers, of: &str, pointer: String) -> Self {
        let (targets, fallback) = (workers.targets(of), Vec::new());
        Self { name, targets, fallback, on: Vec::new(), is_listed: true, pointer }
    }

    fn fall_back(
        &mut self,
        to: &[String],
        on: &'static str,
        workers: &Workers,
        pointer: &str,
        report: &mut Report<'_>,
    ) {
        for group in to {
            let targets = workers.targets(group);
            if targets.is_empty() {
                report.tell(pointer, &format!("{group:?} was not translated, so it cannot answer"));
                continue;
            }
            for target in targets {
                let mut known = self.targets.iter().chain(&self.fallback);
                if !known.any(|known| known.is_like(&target)) {
                    self.fallback.push(target);
                }
            }
        }
        if !self.fallback.is_empty() && !self.on.contains(&on) {
            self.on.push(on);
        }
    }

    /// Whether it is more than the name of a model.
    fn is_needed(&self) -> bool {
        let is_itself = |target: &Target| target.model == self.name && target.namespace.is_none();
        let is_plain = self.targets.len() == 1 && self.targets.iter().all(is_itself);
        !(is_plain && self.fallback.is_empty() && self.is_listed)
    }
}

/// The names without targets that are names themselves, which have targets of their own.
fn without_chains(mut names: Vec<Name>, report: &mut Report<'_>) -> Vec<Name> {
    let all: Vec<_> = names.iter().map(|name| name.name.clone()).collect();
    for Name { name, targets, fallback, pointer, .. } in &mut names {
        for list in [targets, fallback] {
            list.retain(|target| {
                let is_chain = target.model != *name && all.contains(&target.model);
                if is_chain {
                    let written = written_target(target, false);
                    report.tell(
                        pointer,
                        &format!(
                            "{name:?} cannot have the model {:?} as a target or a fallback, since \
                             that is a name with targets of its own: rename that one in `models`, \
                             and add {} here",
                            target.model,
                            written.trim_start_matches([' ', '-'])
                        ),
                    );
                }
                !is_chain
            });
        }
    }
    names.retain(|name| {
        if name.targets.is_empty() {
            report
                .tell(&name.pointer, &format!("{:?} has no target, so it is left out", name.name));
        }
        !name.targets.is_empty()
    });
    names
}

/// The configuration file.
fn written(path: &Path, workers: &Workers, settings: &Settings, names: &[Name]) -> String {
    let mut lines = vec![format!(
        "# Made of {} by `dynamo-frontend config import --from litellm`.",
        path.to_string_lossy().escape_debug()
    )];
    let urls: Vec<_> = workers.urls().collect();
    if !urls.is_empty() {
        lines.push(
            "# Only these workers: without this line, etcd is asked for others as well.".to_owned(),
        );
        lines.push("discovery_backend: memory".to_owned());
        if workers.have_namespaces() {
            lines
                .push("# Each namespace stands for servers with one share and one key.".to_owned());
            lines.push("all_namespaces: true".to_owned());
        }
        lines.push("worker_url:".to_owned());
        lines.extend(urls.iter().map(|url| format!("  - {url}")));
    }
    lines.extend(settings.lines.iter().map(|(name, value)| format!("{name}: {value}")));
    if settings.is_guarded {
        lines.push("# Nobody gets in before a key is here.".to_owned());
        lines.push("keys: []".to_owned());
    }
    if !names.is_empty() {
        lines.push("models:".to_owned());
    }
    for name in names {
        lines.push(format!("  - name: {}", yaml::text(&name.name)));
        lines.push("    targets:".to_owned());
        let is_shared = name.targets.len() > 1;
        lines.extend(name.targets.iter().map(|target| written_target(target, is_shared)));
        if !name.fallback.is_empty() {
            lines.push("    fallback:".to_owned());
            lines.extend(name.fallback.iter().map(|target| written_target(target, false)));
            lines.push(format!("    on: [{}]", name.on.join(", ")));
        }
        if !name.is_listed {
            lines.push("    listed: false".to_owned());
        }
    }
    lines.join("\n") + "\n"
}

fn written_target(target: &Target, has_weight: bool) -> String {
    let mut fields = format!("model: {}", yaml::text(&target.model));
    if let Some(namespace) = &target.namespace {
        fields += &format!(", namespace: {namespace}");
    }
    if has_weight {
        fields += &format!(", weight: {}", target.weight);
    }
    format!("      - {{{fields}}}")
}
