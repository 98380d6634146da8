//! The configuration file: settings by their names, in YAML.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::Setting;
use super::document::{self, at, said};
use super::node::{Node, add_token};
use super::table::{CONFIG, MODELS_SECTION, Program};
use crate::environment::Environment;
use crate::failure::Failure;

/// What a configuration file says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    /// The settings by name.
    settings: BTreeMap<&'static str, Written>,
    /// The sections by name.
    sections: BTreeMap<&'static str, Section>,
}

/// A setting as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The line, the first being 1.
    pub(crate) line: u64,
    /// The texts as they lie there.
    pub(crate) raw: Vec<String>,
    /// The texts, with the values of variables.
    pub(crate) texts: Vec<OsString>,
}

/// A part of the file that is more than a setting.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Section {
    /// The line, the first being 1.
    pub(crate) line: u64,
    /// The section, with the values of variables.
    pub(crate) value: Value,
    /// The line of each member and element, by its JSON pointer.
    pub(super) lines: BTreeMap<String, u64>,
}

impl Section {
    /// The line of a member or an element, by its JSON pointer; of the nearest one around it that has
    /// a line, or of the section itself.
    pub(crate) fn line_of(&self, pointer: &str) -> u64 {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return *line;
            }
            let Some((around, _)) = pointer.rsplit_once('/') else { return self.line };
            pointer = around;
        }
    }
}

impl ConfigFile {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or as [`parse`](Self::parse).
    pub(crate) fn read(
        path: &Path,
        program: &Program,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let text = document::text(path)
            .with_context(|| format!("{}: cannot read {}", CONFIG.label(), path.display()))
            .map_err(Failure::Usage)?;
        Self::parse(path, &text, program, environment)
    }

    /// Takes the settings of a program from the text of a file.
    ///
    /// # Errors
    ///
    /// When the text is no YAML, when it has a field that the program does not, a secret, or a
    /// variable that is not set. The line is named.
    pub(crate) fn parse(
        path: &Path,
        text: &str,
        program: &Program,
        environment: &Environment,
    ) -> Result<Self, Failure> {
        let mut file =
            Self { path: path.to_owned(), settings: BTreeMap::new(), sections: BTreeMap::new() };
        let mut reader = Reader { file: &mut file, program, environment, fault: None };
        // Its snippets would repeat what may be a secret.
        let options = serde_saphyr::options! { with_snippet: false };
        let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
            yaml.deserialize_map(&mut reader)
        });
        let fault = reader.fault.take().or_else(|| {
            let error = read.err()?;
            let line = error.location().map(|location| location.line());
            Some(Fault { line, why: said(&error) })
        });
        match fault {
            None => Ok(file),
            Some(Fault { line, why }) => Err(Failure::usage(format!("{}: {why}", at(path, line)))),
        }
    }

    /// A setting of the file.
    pub(crate) fn setting(&self, setting: &Setting) -> Option<&Written> {
        self.settings.get(setting.name)
    }

    /// A section of the file.
    pub(crate) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.get(name)
    }

    /// How a message calls a line of a file.
    pub(crate) fn place(path: &Path, line: u64) -> String {
        at(path, Some(line))
    }

    /// How a message calls a line of the file.
    pub(crate) fn at(&self, line: u64) -> String {
        at(&self.path, Some(line))
    }
}

/// Why a file is refused.
struct Fault {
    line: Option<u64>,
    why: String,
}

/// Takes in the file's top level. The first fault is kept.
struct Reader<'a> {
    file: &'a mut ConfigFile,
    program: &'a Program,
    environment: &'a Environment,
    fault: Option<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, line: u64, why: String) {
        self.fault.get_or_insert(Fault { line: Some(line), why });
    }

    /// What a program has of this name.
    fn known(&self, name: &str) -> Known {
        let setting = self.program.settings().find(|setting| setting.name == name);
        match setting.filter(|setting| setting.name != CONFIG.name) {
            Some(setting) if setting.is_secret => Known::Secret(setting),
            Some(setting) => Known::Setting(setting),
            None => match self.program.sections.iter().find(|section| **section == name) {
                Some(section) => Known::Section(section),
                None => Known::No,
            },
        }
    }

    /// What is said of a field that the program does not have.
    fn unknown(&self, name: &str) -> String {
        let settings = self.program.settings().filter(|setting| !setting.is_secret);
        let fields = settings.map(|setting| setting.name).filter(|name| *name != CONFIG.name);
        let fields = fields.chain(self.program.sections.iter().copied());
        let nearest = nearest(name, fields);
        let is_foreign =
            self.program.sections.contains(&MODELS_SECTION) && FIELDS_OF_LITELLM.contains(&name);
        let hint = if is_foreign {
            "; for a file of LiteLLM: dynamo-frontend config import --from litellm FILE"
        } else {
            ""
        };
        let name = name.escape_debug();
        format!("{} has no field `{name}`; the nearest is `{nearest}`{hint}", self.program.name)
    }

    /// Takes the texts of a setting, each with its line.
    fn take_setting(&mut self, setting: &'static Setting, line: u64, written: Vec<(u64, String)>) {
        let mut texts = Vec::new();
        for (line, text) in &written {
            match replaced(text, self.environment) {
                Ok(text) => texts.push(OsString::from(text)),
                Err(why) => self.fault(*line, format!("{}: {why}", setting.name)),
            }
        }
        let raw = written.into_iter().map(|(_, text)| text).collect();
        self.file.settings.insert(setting.name, Written { line, raw, texts });
    }

    fn take_section(&mut self, name: &'static str, line: u64, node: Node) {
        let mut lines = BTreeMap::new();
        node.note_lines(&mut String::new(), &mut lines);
        let mut section = Section { line, value: node.into_value(), lines };
        let mut pointer = String::new();
        match replace_all(&mut section.value, &mut pointer, self.environment) {
            Ok(()) => {
                self.file.sections.insert(name, section);
            }
            Err(why) => self.fault(section.line_of(&pointer), format!("{name}: {why}")),
        }
    }
}

/// What a file of LiteLLM may begin with: such a file can be translated.
const FIELDS_OF_LITELLM: &[&str] =
    &["model_list", "litellm_settings", "router_settings", "general_settings"];

/// The field whose name is nearest to this one.
pub(crate) fn nearest<'a>(name: &str, fields: impl IntoIterator<Item = &'a str>) -> &'a str {
    let name = name.replace('-', "_");
    let distance = |field: &&str| strsim::damerau_levenshtein(field, &name);
    fields.into_iter().min_by_key(distance).unwrap_or_default()
}

/// What a field of the file can be.
enum Known {
    Setting(&'static Setting),
    Secret(&'static Setting),
    Section(&'static str),
    No,
}

impl<'de> Visitor<'de> for &mut Reader<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(name) = fields.next_key::<Spanned<String>>()? {
            let line = name.referenced.line();
            match self.known(&name.value) {
                Known::Setting(setting) if setting.is_list() => {
                    // `null`, or nothing, leaves the setting to its other sources.
                    if let Some(texts) = fields.next_value::<Option<Vec<Spanned<String>>>>()? {
                        let written =
                            texts.into_iter().map(|text| (text.referenced.line(), text.value));
                        self.take_setting(setting, line, written.collect());
                    }
                }
                Known::Setting(setting) => {
                    if let Some(text) = fields.next_value::<Option<String>>()? {
                        self.take_setting(setting, line, vec![(line, text)]);
                    }
                }
                Known::Section(section) => {
                    let node = fields.next_value::<Node>()?;
                    if !matches!(node, Node::Scalar(Value::Null)) {
                        self.take_section(section, line, node);
                    }
                }
                Known::Secret(setting) => {
                    fields.next_value::<IgnoredAny>()?;
                    self.fault(
                        line,
                        format!(
                            "{0} is a secret, and no file holds one: {0}_file names the file \
                             that does",
                            setting.name
                        ),
                    );
                }
                Known::No => {
                    fields.next_value::<IgnoredAny>()?;
                    let why = self.unknown(&name.value);
                    self.fault(line, why);
                }
            }
        }
        Ok(())
    }
}

/// The text with the values of the variables that it names: `${NAME}`. `$$` is a dollar sign.
///
/// # Errors
///
/// When a variable is not set or not closed.
fn replaced(text: &str, environment: &Environment) -> Result<String, String> {
    let (mut done, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(dollar) = rest.find('$') {
        done.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or("`${` has no `}`")?;
            let value = environment.get(name);
            done.push_str(value.ok_or_else(|| {
                format!("the variable `{}` is not set or blank", name.escape_debug())
            })?);
            rest = after;
        } else {
            done.push('$');
            rest = rest.strip_prefix('$').unwrap_or(rest);
        }
    }
    done.push_str(rest);
    Ok(done)
}

/// The same for each text in a value. At a fault `pointer` is that of the text at fault.
fn replace_all(
    value: &mut Value,
    pointer: &mut String,
    environment: &Environment,
) -> Result<(), String> {
    let mut part = |token: &str, value: &mut Value| {
        let length = pointer.len();
        add_token(pointer, token);
        replace_all(value, pointer, environment).map(|()| pointer.truncate(length))
    };
    match value {
        Value::String(text) => *text = replaced(text, environment)?,
        Value::Array(values) => {
            let mut values = values.iter_mut().enumerate();
            values.try_for_each(|(number, value)| part(&number.to_string(), value))?;
        }
        Value::Object(fields) => {
            fields.iter_mut().try_for_each(|(name, value)| part(name, value))?;
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::table::{FRONTEND, Listening, WORKER, Workers};
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, String> {
        let environment = Environment::from([("TEAM", "a"), ("BLANK", " ")]);
        ConfigFile::parse(Path::new("f.yaml"), text, &FRONTEND, &environment)
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn texts_are_kept_as_they_are_written_with_their_lines() {
        let file =
            parse("# first\nhttp_port: 08000\nhold: 0.50\n\nworker_network:\n  - a\n  - 12\n");
        let file = file.unwrap();
        let texts = |setting| {
            let written = file.setting(setting).unwrap();
            (written.line, written.raw.join(","))
        };
        assert_eq!(texts(Listening::http_port), (2, "08000".into()));
        assert_eq!(texts(Workers::hold), (3, "0.50".into()));
        assert_eq!(texts(Workers::worker_network), (5, "a,12".into()));
        assert!(parse("").unwrap().setting(Workers::hold).is_none());
        assert!(parse("hold:\n").unwrap().setting(Workers::hold).is_none(), "null is unset");
    }

    #[test]
    fn variables_are_replaced_and_the_text_is_kept() {
        let file = parse("http_host: x-${TEAM}-$${TEAM}$\nkeys:\n- {name: \"${TEAM}\"}").unwrap();
        let host = file.setting(Listening::http_host).unwrap();
        assert_eq!(host.texts, ["x-a-${TEAM}$"]);
        assert_eq!(host.raw, ["x-${TEAM}-$${TEAM}$"]);
        assert_eq!(file.section("keys").unwrap().value, serde_json::json!([{"name": "a"}]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, expected) in [
            ("a: 1", "f.yaml:1: dynamo-frontend has no field `a`; the nearest is `"),
            (
                "\nhttp-prt: 1",
                "f.yaml:2: dynamo-frontend has no field `http-prt`; the nearest is `http_port`",
            ),
            (
                "model_list: []",
                "f.yaml:1: dynamo-frontend has no field `model_list`; the nearest is `models`; for a \
                 file of LiteLLM: dynamo-frontend config import --from litellm FILE",
            ),
            ("config: x", "f.yaml:1: dynamo-frontend has no field `config`;"),
            ("hold: 1\nhold: 2", "f.yaml:2: duplicate mapping key: hold"),
            ("hold: [1]", "f.yaml:1: expected string scalar"),
            ("worker_network: x", "f.yaml:1: expected sequence start"),
            ("- hold", "f.yaml:1: expected mapping start"),
            ("hold: 1: 2", "f.yaml:1: mapping values are not allowed in this context"),
            ("hold: ${NONE}", "f.yaml:1: hold: the variable `NONE` is not set or blank"),
            ("hold: ${BLANK}", "f.yaml:1: hold: the variable `BLANK` is not set or blank"),
            (
                "worker_url:\n- http://a\n- x${TEAM}\n- ${NONE}\n- ${BLANK}",
                "f.yaml:4: worker_url: the variable `NONE` is not set or blank",
            ),
            (
                "models:\n- name: a\n  targets:\n  - model: m\n    namespace: ${NONE}",
                "f.yaml:5: models: the variable `NONE` is not set or blank",
            ),
            ("hold: ${TEAM", "f.yaml:1: hold: `${` has no `}`"),
            (
                "hold: 1\netcd_password: hunter2",
                "f.yaml:2: etcd_password is a secret, and no file holds one: etcd_password_file \
                 names the file that does",
            ),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(expected), "{text:?}: {message}");
            assert!(!message.contains("hunter2") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_program_knows_its_own_fields_only() {
        for name in ["keys", "model_list"] {
            let (path, text) = (Path::new("f.yaml"), format!("{name}: []"));
            let of_worker = ConfigFile::parse(path, &text, &WORKER, &Environment::from([]));
            let message = of_worker.unwrap_err().to_string();
            let expected =
                format!("f.yaml:1: dynamo-worker has no field `{name}`; the nearest is ");
            assert!(message.starts_with(&expected), "{message}");
            assert!(!message.contains("LiteLLM"), "{message}");
        }
    }
}
