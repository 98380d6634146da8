//! The aliases of a configuration file: the section `models`.

use dynamo_http::{Alias, AliasTable, AliasTarget, AnswerAs};
use dynamo_namespace::Namespace;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::section::{Fault, each_alone, object};
use crate::failure::Failure;
use crate::settings::file::Section;
use crate::settings::given::Given;
use crate::settings::table::MODELS_SECTION;

/// Reads the aliases of the configuration file. Without a file, and without the section, there is none.
///
/// # Errors
///
/// One line with the file, the line and the fault.
pub(super) fn read(given: &Given) -> Result<AliasTable, Failure> {
    let section = given.file.as_ref().and_then(|file| Some((file, file.section(MODELS_SECTION)?)));
    let Some((file, section)) = section else { return Ok(AliasTable::default()) };
    of_section(section).map_err(|fault| fault.told(&file.path, MODELS_SECTION, section))
}

/// The JSON schema of the section.
pub(super) fn schema() -> Value {
    schemars::SchemaGenerator::default().into_root_schema_for::<Vec<Fields>>().to_value()
}

/// A name that clients ask for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// The name that clients ask for. It wins over a model of the same name.
    name: String,
    /// The models that answer, each with its share of the sessions.
    targets: Vec<Target>,
    /// The models that answer, in this order, where no target can.
    #[serde(default)]
    fallback: Vec<Fallback>,
    /// The name in answers: `asked`, the name that the client asked for, or `served`, the model's.
    #[serde(default)]
    answer_as: Name,
    /// Whether `/v1/models` lists the name.
    #[serde(default = "yes")]
    #[schemars(extend("default" = true))]
    listed: bool,
    /// Further reasons to fall back, beside 5xx and no answer: `429`, and `context_length` where the
    /// prompt is longer than the model's context.
    #[serde(default)]
    on: Vec<Reason>,
}

/// A model that answers.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Target {
    /// The model's own name.
    model: String,
    /// Only its instances in this namespace count.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
    /// The share: this number divided by the sum over the targets. With 0 the target gets nothing.
    #[serde(default = "one")]
    #[schemars(extend("default" = 1))]
    weight: u32,
}

/// A model that answers where no target can.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fallback {
    /// The model's own name.
    model: String,
    /// Only its instances in this namespace count.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
}

/// The name in answers.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Name {
    #[default]
    Asked,
    Served,
}

/// A reason to fall back.
#[derive(Deserialize, PartialEq)]
#[serde(try_from = "Value")]
enum Reason {
    TooManyRequests,
    ContextLength,
}

impl TryFrom<Value> for Reason {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            Value::Number(status) if status.as_u64() == Some(429) => Ok(Self::TooManyRequests),
            Value::String(text) if text == "429" => Ok(Self::TooManyRequests),
            Value::String(text) if text == "context_length" => Ok(Self::ContextLength),
            _ => Err("expected 429 or context_length"),
        }
    }
}

impl JsonSchema for Reason {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Reason".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": [429, "429", "context_length"] })
    }
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

const FIELDS: &[&str] = &["name", "targets", "fallback", "answer_as", "listed", "on"];
const TARGET: &[&str] = &["model", "namespace", "weight"];
const FALLBACK: &[&str] = &["model", "namespace"];

fn of_section(section: &Section) -> Result<AliasTable, Fault> {
    let Value::Array(entries) = &section.value else {
        return Err(Fault::new("", "it is no list of names with targets"));
    };
    let mut aliases = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        aliases.push(alias(entry, &format!("/{number}"))?);
    }
    let names: Vec<_> = aliases.iter().map(|alias| alias.name().to_owned()).collect();
    AliasTable::new(aliases).map_err(|invalid| {
        // Of two aliases with one name, the second is at fault.
        let number = names.iter().rposition(|name| name == invalid.alias());
        Fault::new(number.map_or_else(String::new, |number| format!("/{number}")), invalid)
    })
}

fn alias(entry: &Value, pointer: &str) -> Result<Alias, Fault> {
    let members = object(entry, pointer, FIELDS)?;
    for (list, fields) in [("targets", TARGET), ("fallback", FALLBACK)] {
        let Some(Value::Array(targets)) = members.get(list) else { continue };
        for (number, target) in targets.iter().enumerate() {
            let pointer = format!("{pointer}/{list}/{number}");
            let members = object(target, &pointer, fields)?;
            let needs = json!({ "model": "m" });
            match list {
                "targets" => each_alone::<Target>(members, &pointer, &needs, &[])?,
                _ => each_alone::<Fallback>(members, &pointer, &needs, &[])?,
            }
            if !members.contains_key("model") {
                return Err(Fault::new(&pointer, "missing field `model`"));
            }
        }
    }
    each_alone::<Fields>(members, pointer, &json!({ "name": "m", "targets": [] }), &[])?;
    let fields = Fields::deserialize(entry).map_err(|error| Fault::new(pointer, error))?;
    let targets = fields.targets.into_iter().map(|target| {
        let new = within(&target.model, target.namespace);
        new.with_weight(target.weight)
    });
    let fallback = fields.fallback.into_iter().map(|one| within(&one.model, one.namespace));
    Ok(Alias::new(&fields.name, targets)
        .with_fallback(fallback)
        .with_answer_as(match fields.answer_as {
            Name::Asked => AnswerAs::Asked,
            Name::Served => AnswerAs::Served,
        })
        .with_listed(fields.listed)
        .with_fallback_on_too_many_requests(fields.on.contains(&Reason::TooManyRequests))
        .with_fallback_on_context_length(fields.on.contains(&Reason::ContextLength)))
}

fn within(model: &str, namespace: Option<Namespace>) -> AliasTarget {
    let target = AliasTarget::new(model);
    match namespace {
        Some(namespace) => target.with_namespace(namespace),
        None => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::program::tests::given;
    use crate::settings::file::ConfigFile;
    use crate::settings::table::FRONTEND;

    fn parse(text: &str) -> Result<AliasTable, String> {
        let environment = Environment::from([("GENERATION", "team-a-77ab01cd")]);
        let path = std::path::Path::new("f.yaml");
        let file = ConfigFile::parse(path, text, &FRONTEND, &environment);
        let file = file.map_err(|failure| failure.to_string())?;
        let given = given(&FRONTEND, &[], [("X", "1")])?.with_file(file);
        read(&given).map_err(|failure| failure.to_string())
    }

    #[test]
    fn an_alias_has_all_its_fields_and_variables_are_replaced() {
        let text = "models:\n  - name: gpt-4o\n    targets:\n      - {model: Q, namespace: \
                    team-a-0f3c9a1b, weight: 95}\n      - {model: Q, namespace: '${GENERATION}', \
                    weight: 5}\n    fallback: [{model: R}]\n    answer_as: served\n    listed: \
                    false\n    on: [429, context_length]\n";
        let table = parse(text).unwrap();
        let target = |namespace: &str, weight| {
            AliasTarget::new("Q").with_namespace(namespace.parse().unwrap()).with_weight(weight)
        };
        let targets = [target("team-a-0f3c9a1b", 95), target("team-a-77ab01cd", 5)];
        let expected = Alias::new("gpt-4o", targets)
            .with_fallback([AliasTarget::new("R")])
            .with_answer_as(AnswerAs::Served)
            .with_listed(false)
            .with_fallback_on_too_many_requests(true)
            .with_fallback_on_context_length(true);
        let expected = AliasTable::new([expected]).unwrap();
        assert_eq!(format!("{table:?}"), format!("{expected:?}"));
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let table = parse("models: [{name: a, targets: [{model: m}]}]").unwrap();
        let expected = AliasTable::new([Alias::new("a", [AliasTarget::new("m")])]).unwrap();
        assert_eq!(format!("{table:?}"), format!("{expected:?}"));
        assert!(parse("models: []").unwrap().is_empty());
        assert!(parse("models:").unwrap().is_empty());
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_the_nearest_field() {
        let begin = "http_port: 1\nmodels:\n  - name: a\n    targets:\n      - model: m\n";
        for (text, expected) in [
            ("models: 1", "f.yaml:1: models: it is no list of names with targets"),
            (
                &format!("{begin}        wieght: 5"),
                "f.yaml:6: models[0] (a).targets[0].wieght: there is no field `wieght`; the nearest is `weight`",
            ),
            (
                &format!("{begin}        weight: -5"),
                "f.yaml:6: models[0] (a).targets[0].weight: -5: expected a whole number from 0 to 4294967295",
            ),
            (
                &format!("{begin}        weight: 10%"),
                "f.yaml:6: models[0] (a).targets[0].weight: \"10%\": expected a whole number from 0",
            ),
            (
                &format!("{begin}        weight: 0.1"),
                "f.yaml:6: models[0] (a).targets[0].weight: 0.1: expected a whole number from 0",
            ),
            (
                &format!("{begin}      - weight: 1"),
                "f.yaml:6: models[0] (a).targets[1]: missing field `model`",
            ),
            (
                &format!("{begin}        namespace: a b"),
                "f.yaml:6: models[0] (a).targets[0].namespace: invalid namespace",
            ),
            (
                &format!("{begin}    falback: []"),
                "f.yaml:6: models[0] (a).falback: there is no field `falback`; the nearest is `fallback`",
            ),
            (
                &format!("{begin}    fallback:\n    - {{model: n, weight: 1}}"),
                "f.yaml:7: models[0] (a).fallback[0].weight: there is no field `weight`",
            ),
            (
                &format!("{begin}    answer_as: me"),
                "f.yaml:6: models[0] (a).answer_as: \"me\": expected `asked` or `served`",
            ),
            (
                &format!("{begin}    on: [503]"),
                "f.yaml:6: models[0] (a).on: expected 429 or context_length",
            ),
            (
                &format!("{begin}    listed: maybe"),
                "f.yaml:6: models[0] (a).listed: \"maybe\": expected true or false",
            ),
            (
                &format!("{begin}  - name: b\n    targets: [{{model: a}}]"),
                "f.yaml:6: models[1] (b): \"b\" has the target \"a\", which is an alias itself",
            ),
            (
                &format!("{begin}  - name: a\n    targets: [{{model: m}}]"),
                "f.yaml:6: models[1] (a): there are two aliases \"a\"",
            ),
            (
                &format!("{begin}  - targets: [{{model: m}}]"),
                "f.yaml:6: models[1]: missing field `name`",
            ),
            (&format!("{begin}  - 7"), "f.yaml:6: models[1]: expected the fields name"),
            (&format!("{begin}  - name: b"), "f.yaml:6: models[1] (b): missing field `targets`"),
            ("models: [{name: a, targets: []}]", "f.yaml:1: models[0] (a): \"a\" needs a target"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}\n{error}");
        }
    }

    #[test]
    fn the_schema_has_the_fields_and_no_others() {
        let schema = schema();
        let fields = &schema["items"]["$ref"];
        let of = |name: &str| {
            let object = schema["$defs"][name].clone();
            assert_eq!(object["additionalProperties"], false);
            let mut names: Vec<_> =
                object["properties"].as_object().unwrap().keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(fields, "#/$defs/Fields");
        let sorted = |fields: &[&'static str]| {
            let mut fields = fields.to_vec();
            fields.sort_unstable();
            fields
        };
        assert_eq!(of("Fields"), sorted(FIELDS));
        assert_eq!(of("Target"), sorted(TARGET));
        assert_eq!(of("Fallback"), sorted(FALLBACK));
    }
}
