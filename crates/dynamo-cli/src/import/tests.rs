//! Files in the shapes that LiteLLM takes, and what becomes of each.

use super::*;
use crate::environment::Environment;
use crate::frontend;
use crate::settings::file::ConfigFile;

/// A translated file, which is one that the frontend takes.
fn translate(text: &str) -> Translated {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("l.yaml");
    std::fs::write(&path, text).unwrap();
    let mut translated = litellm(&path).unwrap();
    let environment = translated
        .variables
        .iter()
        .fold(Environment::default(), |all, name| all.with(name, PLACEHOLDER));
    let file = ConfigFile::parse(&path, &translated.text, frontend::MAIN.program, &environment);
    let given = crate::program::tests::given(frontend::MAIN.program, &[], [("X", "1")]);
    let checked = (frontend::MAIN.check)(&given.unwrap().with_file(file.unwrap()));
    checked.unwrap_or_else(|failure| panic!("{failure}\n{}", translated.text));
    let place = format!("{}:", path.display());
    for line in &mut translated.left {
        *line = line.strip_prefix(&place).unwrap().to_owned();
    }
    let (_, body) = translated.text.split_once('\n').unwrap();
    translated.text = body.to_owned();
    translated
}

/// The lines of a file without comments.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect()
}

/// An entry of `model_list`.
fn entry(name: &str, params: &str) -> String {
    format!("  - {{model_name: {name}, litellm_params: {{{params}}}}}\n")
}

fn server(name: &str, model: &str, number: u8, more: &str) -> String {
    entry(name, &format!("model: {model}, api_base: 'http://192.0.2.{number}:8000/v1'{more}"))
}

fn list(entries: &[String]) -> String {
    format!("model_list:\n{}", entries.concat())
}

#[test]
fn servers_of_one_model_and_one_name_need_no_name_of_their_own() {
    let same = [server("m", "openai/m", 1, ""), server("m", "hosted_vllm/m", 2, "")];
    let translated = translate(&list(&same));
    assert_eq!(
        lines(&translated.text),
        [
            "discovery_backend: memory",
            "worker_url:",
            r#"- "m=http://192.0.2.1:8000""#,
            r#"- "m=http://192.0.2.2:8000""#,
        ]
    );
    assert!(translated.left.is_empty(), "{:?}", translated.left);
}

#[test]
fn a_name_that_is_not_the_models_becomes_an_alias() {
    let translated = translate(&list(&[server("gpt-4o", "openai/Qwen/Q", 1, "")]));
    assert_eq!(
        lines(&translated.text)[2..],
        [
            r#"- "Qwen/Q=http://192.0.2.1:8000""#,
            "models:",
            r#"- name: "gpt-4o""#,
            "targets:",
            r#"- {model: "Qwen/Q"}"#,
        ]
    );
}

#[test]
fn weights_become_shares_also_of_one_model() {
    let three = [
        server("m", "openai/m", 1, ", weight: 4"),
        server("m", "openai/m", 2, ", weight: 4"),
        server("m", "openai/m", 3, ", weight: 2"),
        // Without a weight beside others that have one, a server gets nothing.
        server("m", "openai/m", 4, ""),
    ];
    let translated = translate(&list(&three));
    assert_eq!(
        lines(&translated.text)[1..],
        [
            "all_namespaces: true",
            "worker_url:",
            r#"- "m=http://192.0.2.1:8000;namespace=litellm-1""#,
            r#"- "m=http://192.0.2.2:8000;namespace=litellm-1""#,
            r#"- "m=http://192.0.2.3:8000;namespace=litellm-2""#,
            r#"- "m=http://192.0.2.4:8000;namespace=litellm-3""#,
            "models:",
            r#"- name: "m""#,
            "targets:",
            r#"- {model: "m", namespace: litellm-1, weight: 4}"#,
            r#"- {model: "m", namespace: litellm-2, weight: 1}"#,
        ]
    );
}

#[test]
fn shares_are_whole_numbers_whatever_they_were() {
    for (first, second, expected) in [
        ("weight: 0.9", "weight: 0.1", ["9", "1"]),
        ("rpm: 600", "rpm: 200", ["3", "1"]),
        ("tpm: 100000", "tpm: 300000", ["1", "3"]),
        ("weight: 1, rpm: 7", "weight: 2, rpm: 9", ["1", "2"]),
        ("weight: 1e300", "weight: 1e-300", ["1000000", "1"]),
        ("weight: 1", "weight: 1e-9", ["1000000", "1"]),
        ("rpm: 5", "rpm: 5", ["1", "1"]),
    ] {
        let two = [
            server("m", "openai/a", 1, &format!(", {first}")),
            server("m", "openai/b", 2, &format!(", {second}")),
        ];
        let translated = translate(&list(&two));
        for (model, weight) in ["a", "b"].iter().zip(expected) {
            let target = format!("- {{model: \"{model}\", weight: {weight}}}");
            assert!(translated.text.contains(&target), "{target}\n{}", translated.text);
        }
        assert_eq!(translated.left.is_empty(), !first.contains("pm"), "a limit is told of");
    }
}

#[test]
fn servers_with_different_names_or_keys_are_kept_apart() {
    let names = [server("a", "openai/m", 1, ""), server("b", "openai/m", 2, "")];
    let keys = [
        server("m", "openai/m", 1, ", api_key: one-secret"),
        server("q", "openai/q", 2, ", api_key: two-secret"),
    ];
    for two in [names, keys] {
        let translated = translate(&list(&two));
        for part in ["1:8000;namespace=litellm-1", "2:8000;namespace=litellm-2"] {
            assert!(translated.text.contains(part), "{}", translated.text);
        }
        for line in &translated.left {
            assert!(line.contains("=FILE]"), "{line}");
        }
    }
}

#[test]
fn fallbacks_name_models_and_their_reasons() {
    let entries = [
        server("a", "openai/A", 1, ""),
        server("b", "openai/B", 2, ""),
        server("c", "openai/C", 3, ""),
    ];
    let text = format!(
        "{}router_settings:\n  fallbacks: [{{a: [b]}}]\n  context_window_fallbacks: [{{a: [b, c]}}, {{b: [c]}}]\n\
         litellm_settings:\n  default_fallbacks: [c]\n",
        list(&entries)
    );
    let translated = translate(&text);
    let shown = lines(&translated.text);
    let from = shown.iter().position(|line| *line == "models:").unwrap();
    assert_eq!(
        shown[from..],
        [
            "models:",
            r#"- name: "a""#,
            "targets:",
            r#"- {model: "A"}"#,
            "fallback:",
            r#"- {model: "B"}"#,
            r#"- {model: "C"}"#,
            "on: [429, context_length]",
            r#"- name: "b""#,
            "targets:",
            r#"- {model: "B"}"#,
            "fallback:",
            r#"- {model: "C"}"#,
            "on: [context_length, 429]",
            r#"- name: "c""#,
            "targets:",
            r#"- {model: "C"}"#,
        ]
    );
    assert!(translated.left[0].starts_with(
        "7: router_settings.context_window_fallbacks[0].a: a name has one list of fallbacks"
    ));
}

#[test]
fn a_name_that_has_fallbacks_is_no_fallback_and_this_is_told() {
    let entries = [
        server("a", "openai/a", 1, ""),
        server("b", "openai/b", 2, ""),
        server("c", "openai/c", 3, ""),
    ];
    let text =
        format!("{}router_settings: {{fallbacks: [{{a: [b]}}, {{b: [c]}}]}}\n", list(&entries));
    let translated = translate(&text);
    assert_eq!(translated.left.len(), 1);
    assert!(translated.left[0].contains(r#""a" cannot have the model "b""#));

    let translated =
        translate(&list(&[server("m", "openai/m", 1, ""), server("x", "openai/m", 2, "")]));
    assert!(!translated.text.contains(r#"name: "x""#), "{}", translated.text);
    for (line, part) in translated.left.iter().zip([
        r#"add {model: "m", namespace: litellm-2} here"#,
        r#""x" has no target, so it is left out"#,
    ]) {
        assert!(line.starts_with("3: model_list[1].litellm_params: "), "{line}");
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn further_names_may_be_hidden() {
    let text = format!(
        "{}router_settings:\n  model_group_alias:\n    gpt-4: m\n    old: {{model: m, hidden: true}}\n    \
         lost: nothing\n",
        list(&[server("m", "openai/m", 1, "")])
    );
    let translated = translate(&text);
    assert_eq!(
        lines(&translated.text)[3..],
        [
            "models:",
            r#"- name: "gpt-4""#,
            "targets:",
            r#"- {model: "m"}"#,
            r#"- name: "old""#,
            "targets:",
            r#"- {model: "m"}"#,
            "listed: false",
        ]
    );
    assert!(translated.left[0].starts_with("7: router_settings.model_group_alias.lost: "));
}

#[test]
fn a_further_name_falls_back_as_the_name_does_unless_it_says_otherwise() {
    let entries = [
        server("gpt-4o", "openai/A", 1, ""),
        server("b", "openai/B", 2, ""),
        server("c", "openai/C", 3, ""),
    ];
    let text = format!(
        "{}router_settings:\n  model_group_alias: {{gpt-4: gpt-4o, own: gpt-4o}}\n  fallbacks: \
         [{{gpt-4o: [b]}}, {{own: [c]}}]\n",
        list(&entries)
    );
    let text = translate(&text).text;
    for (name, model) in [("gpt-4o", "B"), ("gpt-4", "B"), ("own", "C")] {
        let expected = format!(
            "  - name: \"{name}\"\n    targets:\n      - {{model: \"A\"}}\n    fallback:\n      \
             - {{model: \"{model}\"}}\n    on: [429]\n"
        );
        assert!(text.contains(&expected), "{expected}{text}");
    }
}

#[test]
fn of_an_entry_that_is_left_out_only_the_reason_is_told() {
    let text = "model_list: [{model_name: m, model_info: {id: x}, litellm_params: {model: \
                anthropic/c, temperature: 1, rpm: 5}}]";
    let left = translate(text).left;
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with("1: model_list[0].litellm_params.model: the provider"), "{left:?}");
}

#[test]
fn all_models_of_a_server_and_models_that_are_not_text() {
    let text = "model_list:\n  - model_name: '*'\n    litellm_params: {model: openai/*, api_base: \
                os.environ/BASE}\n  - model_name: e\n    litellm_params: {model: openai/e, api_base: \
                'http://192.0.2.1'}\n    model_info: {mode: embedding, id: x}\n";
    let translated = translate(text);
    assert_eq!(
        lines(&translated.text)[2..],
        [r#"- "${BASE}""#, r#"- "e=http://192.0.2.1;kinds=embedding""#]
    );
    assert!(translated.left[0].starts_with(
        "3: model_list[0].litellm_params.api_base: the file names the variable BASE: set it"
    ));
    assert!(translated.left[1].starts_with("6: model_list[1].model_info.id: "));
}

#[test]
fn a_dollar_sign_stays_one() {
    let translated = translate(&list(&[server("a$b", "'openai/${HOME}'", 1, "")]));
    assert!(translated.text.contains(r#""$${HOME}=http"#), "{}", translated.text);
    assert!(translated.text.contains(r#"name: "a$$b""#), "{}", translated.text);
}

#[test]
fn settings_with_a_counterpart_are_translated() {
    for (text, expected) in [
        ("router_settings: {routing_strategy: simple-shuffle}", r#"router_mode: "random""#),
        ("router_settings: {routing_strategy: least-busy}", r#"router_mode: "least-loaded""#),
        ("router_settings: {num_retries: 0}", r#"retry_budget: "0""#),
        ("litellm_settings: {request_timeout: 2.5}", r#"first_byte_timeout: "2.5""#),
        (
            "litellm_settings: {request_timeout: 7}\nrouter_settings: {timeout: 8}",
            r#"first_byte_timeout: "8""#,
        ),
        ("litellm_settings: {json_logs: true}", r#"logging_jsonl: "true""#),
        ("general_settings: {master_key: os.environ/KEY}", "keys: []"),
    ] {
        let translated = translate(text);
        assert_eq!(lines(&translated.text), [expected], "{text}");
    }
}

#[test]
fn each_field_that_is_left_out_is_told_with_its_line_and_no_secret() {
    let long = "hunter2".repeat(6);
    for (text, expected) in [
        ("general_settings:\n  master_key: HUNTER", "2: general_settings.master_key: "),
        ("general_settings:\n  database_url: pg://u:HUNTER@h", "2: general_settings.database_url"),
        ("general_settings:\n  wibble: HUNTER", "2: general_settings.wibble: "),
        ("wobble: {a: HUNTER}", "1: wobble: the translation does not know this field"),
        ("environment_variables:\n  A: HUNTER", "2: environment_variables.A: no file sets"),
        ("callback_settings: HUNTER", "1: callback_settings: "),
        ("include: [HUNTER]", "1: include: other files"),
        ("model_list: HUNTER", "1: model_list: expected a list"),
        ("model_list: [HUNTER]", "1: model_list[0]: expected fields"),
        ("model_list: [{x: HUNTER}]", "1: model_list[0]: it has no `model_name`"),
        ("router_settings: HUNTER", "1: router_settings: expected fields"),
        ("router_settings: {fallbacks: HUNTER}", "1: router_settings.fallbacks: expected a list"),
        ("router_settings: {redis_password: HUNTER}", "1: router_settings.redis_password: "),
        ("router_settings: {routing_strategy: HUNTER}", "1: router_settings.routing_strategy: "),
        (
            "litellm_settings: {cache_params: {password: HUNTER}}",
            "1: litellm_settings.cache_params",
        ),
        (&entry("m", "model: openai/m, api_key: HUNTER"), "1: model_list[0].litellm_params.model"),
        (&entry("m", "model: azure/m, api_base: 'http://h'"), "1: model_list[0].litellm_params.m"),
        (&entry("m", "model: anthropic/c"), "1: model_list[0].litellm_params.model: the provider"),
        (
            &entry("m", "model: openai/m, api_base: 'http://u:HUNTER@h'"),
            "1: model_list[0].litellm_params: `api_base` is no URL",
        ),
        (
            &entry("m", "model: openai/m, api_base: 'http://h?key=HUNTER'"),
            "1: model_list[0].litellm_params: `api_base` is no URL",
        ),
        (&server("m", "openai/m", 1, ", api_key: HUNTER"), "1: model_list[0].litellm_params.api_k"),
        (&server("m", "openai/m", 1, ", extra_headers: {a: HUNTER}"), "1: model_list[0].litellm"),
        (&server("m/*", "openai/*", 1, ""), "1: model_list[0].litellm_params: of names with `*`"),
        (&server("m", "openai/m", 1, ", weight: HUNTER"), "1: model_list[0].litellm_params.weight"),
    ] {
        let text = text.replace("HUNTER", &long);
        // An entry alone stands for the list with it.
        let text = match text.strip_prefix("  - ") {
            Some(entry) => format!("model_list: [{}]", entry.trim_end()),
            None => text,
        };
        let translated = translate(&text);
        let told = translated.left.iter().any(|line| line.starts_with(expected));
        assert!(told, "{text}\n{:?}", translated.left);
        assert!(!format!("{translated:?}").contains("hunter2"), "{text}\n{translated:?}");
    }
}

#[test]
fn a_file_that_is_none_is_refused_without_repeating_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("l.yaml");
    for text in ["hunter2", "- hunter2", "a: hunter2: 3", "a: 1\na: hunter2", "", "\t%hunter2"] {
        std::fs::write(&path, text).unwrap();
        let message = litellm(&path).unwrap_err().to_string();
        assert!(message.contains("l.yaml") && !message.contains("hunter2"), "{message}");
    }
    assert!(litellm(&directory.path().join("none")).is_err());
}
