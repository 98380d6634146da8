//! The API keys of a file: a JSON list, or a section of the configuration file.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use anyhow::Context as _;
use dynamo_http::{
    ApiKey, ClientName, Counted, Credential, KeyHash, KeyHashes, KeyList, KeyName, ModelNames,
    Priority, Span, TokenLimits,
};
use dynamo_namespace::{Namespace, NamespaceScope};
use schemars::JsonSchema;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::keys::ClientKeys;
use super::section::{Fault, each_alone, escaped, object};
use crate::settings::table::{Balancing, Listening};

/// Reads the keys of a frontend that discovers `within`.
///
/// # Errors
///
/// One line that names the fault and its place. The line repeats no hash, since the text may be a
/// key that was put into the wrong field.
pub(super) fn parse(text: &str, keys: &ClientKeys) -> anyhow::Result<KeyList> {
    let entries = serde_json::from_str(text)
        .map_err(|error: serde_json::Error| anyhow::Error::msg(escaped(&error.to_string())))
        .context("it is no list of keys")?;
    checked(entries, keys).map_err(|fault| anyhow::Error::msg(fault.why))
}

/// The same for a section of the configuration file.
///
/// # Errors
///
/// The part that is wrong. No hash is repeated.
pub(super) fn of_section(section: &Value, keys: &ClientKeys) -> Result<KeyList, Fault> {
    let Value::Array(entries) = section else {
        return Err(Fault::new("", "it is no list of keys"));
    };
    let entries = entries.iter().enumerate().map(|(number, entry)| {
        let pointer = at(number);
        let members = object(entry, &pointer, FIELDS)?;
        each_alone::<Fields>(members, &pointer, &json!({ "name": "k" }), &["name", "hash"])?;
        Entry::deserialize(entry).map_err(|error| Fault::new(pointer, escaped(&error.to_string())))
    });
    checked(entries.collect::<Result<_, _>>()?, keys)
}

/// The pointer of an entry.
fn at(number: usize) -> String {
    format!("/{number}")
}

/// The JSON schema of a list of keys.
pub(super) fn schema() -> Value {
    schemars::SchemaGenerator::default().into_root_schema_for::<Vec<Fields>>().to_value()
}

fn checked(
    entries: Vec<Entry>,
    ClientKeys { within, asks_for_certificates, has_priorities }: &ClientKeys,
) -> Result<KeyList, Fault> {
    for (number, Entry(key)) in entries.iter().enumerate() {
        if !*asks_for_certificates && key.credential.client().is_some() {
            let why = format!(
                "the key {} has client_cn, which needs {}: without it no client is asked for a certificate",
                key.name,
                Listening::tls_client_ca_path.label()
            );
            return Err(Fault::new(at(number), why));
        }
        if !has_priorities && key.has_priority() {
            let why = format!(
                "the key {} has a priority, which needs {} keys: without it requests have none",
                key.name,
                Balancing::priority.label()
            );
            return Err(Fault::new(at(number), why));
        }
    }
    let keys = entries.into_iter().map(|Entry(unbound)| {
        let mut key = ApiKey::new(
            unbound.name,
            unbound.credential,
            unbound.shows.unwrap_or_else(|| within.clone()),
        );
        key.requests_per_minute = unbound.requests_per_minute;
        key.concurrent = unbound.concurrent;
        key.tokens = unbound.tokens;
        key.models = unbound.models;
        key.explain = unbound.explain;
        key.priority = unbound.priority.unwrap_or_default();
        key.priority_header = unbound.priority_header;
        key
    });
    KeyList::new(keys, within).map_err(|error| Fault::new("", error))
}

/// An entry of the list, after the checks that need no other entry.
#[derive(Deserialize)]
#[serde(try_from = "Fields")]
struct Entry(Unbound);

struct Unbound {
    name: KeyName,
    credential: Credential,
    /// `None`: all namespaces that the frontend discovers.
    shows: Option<NamespaceScope>,
    requests_per_minute: Option<NonZeroU32>,
    concurrent: Option<NonZeroU32>,
    tokens: TokenLimits,
    models: Option<ModelNames>,
    explain: bool,
    priority: Option<Priority>,
    priority_header: bool,
}

impl Unbound {
    fn has_priority(&self) -> bool {
        self.priority.is_some() || self.priority_header
    }
}

/// A key of clients.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// Name of the key in logs and metrics.
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "String")]
    name: KeyName,
    /// Hash of the key, as `dynamo-frontend hash-key` prints it, or a list of hashes.
    #[serde(default, deserialize_with = "hashes")]
    #[schemars(with = "OneOrMore")]
    hash: Option<KeyHashes>,
    /// Name in the client's certificate.
    #[serde(default, deserialize_with = "maybe_parsed")]
    #[schemars(with = "String")]
    client_cn: Option<ClientName>,
    /// Shows this namespace.
    #[schemars(with = "Option<String>")]
    namespace: Option<Named>,
    /// Shows these namespaces.
    #[schemars(with = "Option<BTreeSet<String>>")]
    namespaces: Option<BTreeSet<Named>>,
    /// Shows this namespace and its generations.
    #[schemars(with = "Option<String>")]
    namespace_prefix: Option<Named>,
    /// Shows all namespaces that the frontend discovers.
    #[serde(default)]
    all_namespaces: bool,
    /// The most requests a minute.
    requests_per_minute: Option<NonZeroU32>,
    /// The most requests under way at one time.
    concurrent: Option<NonZeroU32>,
    /// The most tokens of prompts and answers a minute.
    tokens_per_minute: Option<NonZeroU64>,
    /// The most tokens of prompts and answers a day.
    tokens_per_day: Option<NonZeroU64>,
    /// The most tokens of prompts and answers a month.
    tokens_per_month: Option<NonZeroU64>,
    /// The most tokens of prompts a minute.
    input_tokens_per_minute: Option<NonZeroU64>,
    /// The most tokens of prompts a day.
    input_tokens_per_day: Option<NonZeroU64>,
    /// The most tokens of prompts a month.
    input_tokens_per_month: Option<NonZeroU64>,
    /// The most tokens of answers a minute.
    output_tokens_per_minute: Option<NonZeroU64>,
    /// The most tokens of answers a day.
    output_tokens_per_day: Option<NonZeroU64>,
    /// The most tokens of answers a month.
    output_tokens_per_month: Option<NonZeroU64>,
    /// Names of models that requests may ask for, such as `gpt-4o` or `Qwen/*`.
    #[schemars(with = "Option<BTreeSet<String>>")]
    models: Option<BTreeSet<String>>,
    /// Lets requests learn how their worker was chosen.
    #[serde(default)]
    explain: bool,
    /// Which of the requests that wait go first: interactive, default or bulk.
    #[serde(default, deserialize_with = "maybe_parsed")]
    #[schemars(with = "Option<PriorityName>")]
    priority: Option<Priority>,
    /// Lets requests name their priority in the header x-dynamo-priority.
    #[serde(default)]
    priority_header: bool,
}

const FIELDS: &[&str] = &[
    "name",
    "hash",
    "client_cn",
    "namespace",
    "namespaces",
    "namespace_prefix",
    "all_namespaces",
    "requests_per_minute",
    "concurrent",
    "tokens_per_minute",
    "tokens_per_day",
    "tokens_per_month",
    "input_tokens_per_minute",
    "input_tokens_per_day",
    "input_tokens_per_month",
    "output_tokens_per_minute",
    "output_tokens_per_day",
    "output_tokens_per_month",
    "models",
    "explain",
    "priority",
    "priority_header",
];

/// The names of priorities.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "the schema is made from it")]
enum PriorityName {
    Interactive,
    Default,
    Bulk,
}

/// The shape of a hash, or of several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the schema is made from it")]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Fields {
    fn token_limits(&self) -> TokenLimits {
        let minute =
            [self.tokens_per_minute, self.input_tokens_per_minute, self.output_tokens_per_minute];
        let day = [self.tokens_per_day, self.input_tokens_per_day, self.output_tokens_per_day];
        let month =
            [self.tokens_per_month, self.input_tokens_per_month, self.output_tokens_per_month];
        let mut limits = TokenLimits::default();
        for (span, of_span) in Span::ALL.into_iter().zip([minute, day, month]) {
            for (counted, most) in Counted::ALL.into_iter().zip(of_span) {
                limits = most.map_or(limits, |most| limits.with(counted, span, most));
            }
        }
        limits
    }
}

/// A namespace by its name. An empty text is refused: a template that was not filled in leaves such
/// a text.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Named(Namespace);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "" => Err(D::Error::custom("a namespace is empty")),
            name => name.parse().map(Self).map_err(D::Error::custom),
        }
    }
}

fn parsed<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

fn maybe_parsed<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    parsed(from).map(Some)
}

/// A hash, or a list of them.
fn hashes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<KeyHashes>, D::Error> {
    struct Hashes;

    impl<'de> Visitor<'de> for Hashes {
        type Value = KeyHashes;

        fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
            f.write_str("a hash of a key, or a list of them")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<KeyHashes, E> {
            text.parse().map(|hash: KeyHash| hash.into()).map_err(E::custom)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<KeyHashes, A::Error> {
            let mut hashes = Vec::new();
            while let Some(text) = list.next_element::<String>()? {
                hashes.push(text.parse::<KeyHash>().map_err(A::Error::custom)?);
            }
            KeyHashes::new(hashes).ok_or_else(|| A::Error::custom("the list of hashes is empty"))
        }
    }

    from.deserialize_any(Hashes).map(Some)
}

impl TryFrom<Fields> for Entry {
    type Error = String;

    fn try_from(fields: Fields) -> Result<Self, String> {
        let tokens = fields.token_limits();
        let Fields {
            name,
            hash,
            client_cn,
            namespace,
            namespaces,
            namespace_prefix,
            all_namespaces,
            ..
        } = fields;
        let shows = match (namespace, namespaces, namespace_prefix, all_namespaces) {
            (Some(Named(namespace)), None, None, false) => Some(NamespaceScope::Only(namespace)),
            (None, Some(set), None, false) if !set.is_empty() => {
                Some(NamespaceScope::AnyOf(set.into_iter().map(|Named(one)| one).collect()))
            }
            (None, None, Some(Named(base)), false) => Some(NamespaceScope::Generations(base)),
            (None, None, None, true) => None,
            _ => {
                return Err(format!(
                    "the key {name} needs one of namespace, namespaces, namespace_prefix, and \
                     all_namespaces (true)"
                ));
            }
        };
        let credential = match (hash, client_cn) {
            (Some(hash), None) => Credential::Key(hash),
            (None, Some(client)) => Credential::Client(client),
            (Some(hash), Some(client)) => Credential::Both(hash, client),
            (None, None) => {
                return Err(format!("the key {name} needs one of hash and client_cn, or both"));
            }
        };
        let Fields {
            requests_per_minute,
            concurrent,
            models,
            explain,
            priority,
            priority_header,
            ..
        } = fields;
        let models = match models {
            Some(models) if models.is_empty() => {
                return Err(format!("the key {name} has an empty list of models"));
            }
            Some(models) => Some(
                ModelNames::new(models)
                    .map_err(|error| format!("the models of the key {name}: {error}"))?,
            ),
            None => None,
        };
        Ok(Self(Unbound {
            name,
            credential,
            shows,
            requests_per_minute,
            concurrent,
            tokens,
            models,
            explain,
            priority,
            priority_header,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Keyring;
    use super::*;
    use crate::environment::Environment;
    use crate::program::tests::given;
    use crate::settings::file::ConfigFile;
    use crate::settings::table::FRONTEND;

    const HASH: &str = "sha256:71c480df93d6ae2f1efad1447c66c9525e316218cf51fc8d9ed832f2daf18b73";

    fn within(scope: &NamespaceScope, asks_for_certificates: bool) -> ClientKeys {
        ClientKeys { within: scope.clone(), asks_for_certificates, has_priorities: false }
    }

    fn parse_all(text: &str) -> Result<KeyList, String> {
        parse(text, &within(&NamespaceScope::All, true)).map_err(|error| format!("{error:#}"))
    }

    fn scope_of(field: &str, within: &NamespaceScope) -> NamespaceScope {
        let text = format!(r#"[{{"name":"k","hash":"{HASH}",{field}}}]"#);
        let list = parse(&text, &self::within(within, true)).unwrap();
        list.iter().next().unwrap().scope.clone()
    }

    #[test]
    fn every_key_says_whose_models_it_shows() {
        let namespace = |name: &str| name.parse::<Namespace>().unwrap();
        let all = NamespaceScope::All;
        let only = NamespaceScope::Only(namespace("a"));
        assert_eq!(scope_of(r#""namespace":"a""#, &all), only);
        let both = NamespaceScope::AnyOf([namespace("a"), namespace("b")].into());
        assert_eq!(scope_of(r#""namespaces":["b","a"]"#, &all), both);
        let generations = NamespaceScope::Generations(namespace("a"));
        assert_eq!(scope_of(r#""namespace_prefix":"a""#, &all), generations);
        assert_eq!(scope_of(r#""all_namespaces":true"#, &all), all);
        // All that this frontend discovers.
        assert_eq!(scope_of(r#""all_namespaces":true"#, &generations), generations);
        // Here a name means itself, whatever it is.
        let global = NamespaceScope::Only(Namespace::global());
        assert_eq!(scope_of(r#""namespace":"global""#, &all), global);
    }

    #[test]
    fn a_key_asks_for_a_hash_a_client_or_both_and_for_a_client_only_where_certificates_are_asked_for()
     {
        let with = |fields: &str, asks_for_certificates| {
            let text = format!(r#"[{{"name":"k","namespace":"a",{fields}}}]"#);
            parse(&text, &within(&NamespaceScope::All, asks_for_certificates))
                .map(|list| list.iter().next().unwrap().credential.clone())
                .map_err(|error| format!("{error:#}"))
        };
        let (hash, client) = (HASH.parse().unwrap(), "team-a".parse::<ClientName>().unwrap());
        let both = format!(r#""hash":"{HASH}","client_cn":"team-a""#);
        let only_client = r#""client_cn":"team-a""#;
        let hash: KeyHash = hash;
        assert_eq!(with(&format!(r#""hash":"{HASH}""#), false), Ok(hash.into()));
        assert_eq!(with(&format!(r#""hash":["{HASH}"]"#), false), Ok(hash.into()));
        let new = HASH.replace('7', "8").parse::<KeyHash>().unwrap();
        let rotating = Credential::Key(KeyHashes::new([hash, new]).unwrap());
        assert_eq!(with(&format!(r#""hash":["{HASH}","{new}"]"#), false), Ok(rotating));
        assert_eq!(with(only_client, true), Ok(Credential::Client(client.clone())));
        assert_eq!(with(&both, true), Ok(Credential::Both(hash.into(), client)));
        for fields in [only_client, &both] {
            let error = with(fields, false).unwrap_err();
            assert!(
                error.contains("the key k has client_cn, which needs --tls-client-ca-path"),
                "{error}"
            );
        }
    }

    #[test]
    fn limits_are_optional_and_more_than_nothing() {
        let with = |limits: &str| {
            let text = format!(r#"[{{"name":"k","hash":"{HASH}","namespace":"a"{limits}}}]"#);
            parse_all(&text).map(|list| {
                let key = list.iter().next().unwrap().clone();
                (key.requests_per_minute.map(u32::from), key.concurrent.map(u32::from))
            })
        };
        assert_eq!(with("").unwrap(), (None, None));
        assert_eq!(
            with(r#","requests_per_minute":600,"concurrent":8"#).unwrap(),
            (Some(600), Some(8))
        );
        for limits in [
            r#","concurrent":0"#,
            r#","requests_per_minute":-1"#,
            r#","concurrent":"8""#,
            r#","tokens_per_day":0"#,
            r#","input_tokens_per_month":1.5"#,
        ] {
            assert!(with(limits).is_err(), "{limits}");
        }
    }

    #[test]
    fn a_key_has_a_priority_only_where_requests_have_one() {
        let with = |fields: &str, has_priorities| {
            let text = format!(r#"[{{"name":"k","hash":"{HASH}","namespace":"a"{fields}}}]"#);
            let keys = ClientKeys { has_priorities, ..within(&NamespaceScope::All, false) };
            parse(&text, &keys)
                .map(|list| list.iter().next().map(|key| (key.priority, key.priority_header)))
                .map_err(|error| format!("{error:#}"))
        };
        assert_eq!(with("", false), Ok(Some((Priority::Default, false))));
        assert_eq!(with(r#","priority_header":false"#, false), with("", false));
        let both = r#","priority":"bulk","priority_header":true"#;
        assert_eq!(with(both, true), Ok(Some((Priority::Bulk, true))));
        for fields in [both, r#","priority":"default""#, r#","priority_header":true"#] {
            let error = with(fields, false).unwrap_err();
            assert!(error.contains("the key k has a priority, which needs --priority"), "{error}");
        }
        for fields in [r#","priority":"high""#, r#","priority":10"#, r#","priority_header":1"#] {
            assert!(with(fields, true).is_err(), "{fields}");
        }
    }

    #[test]
    fn every_limit_on_tokens_is_a_field_of_its_name() {
        let names: Vec<_> = ["tokens", "input_tokens", "output_tokens"]
            .iter()
            .flat_map(|counted| {
                ["minute", "day", "month"].map(|span| format!("{counted}_per_{span}"))
            })
            .collect();
        for name in &names {
            let text = format!(r#"[{{"name":"k","hash":"{HASH}","namespace":"a","{name}":1000}}]"#);
            let list = parse_all(&text).unwrap();
            let limits: Vec<_> = list.iter().next().unwrap().tokens.iter().collect();
            assert_eq!(limits.len(), 1);
            assert_eq!((limits[0].name(), limits[0].most.get()), (name.clone(), 1000));
        }
    }

    #[test]
    fn a_key_may_name_the_models_that_it_may_use() {
        let with = |models: &str| {
            let text =
                format!(r#"[{{"name":"k","hash":"{HASH}","namespace":"a","models":{models}}}]"#);
            parse_all(&text).map(|list| list.iter().next().unwrap().models.clone())
        };
        let names = with(r#"["gpt-4o","Qwen/*"]"#).unwrap().unwrap();
        assert!(names.contains("gpt-4o") && names.contains("Qwen/Qwen3-8B"));
        assert!(!names.contains("gpt-4o-mini"));
        for models in ["[]", r#"["a*b"]"#, r#"[""]"#, r#""gpt-4o""#] {
            assert!(with(models).is_err(), "{models}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_section_is_told_with_its_line_and_its_path() {
        let first = format!("keys:\n  - {{name: team-a, namespace: a, hash: '{HASH}'}}\n");
        let begin = format!("{first}  - name: team-b\n    namespace: b\n");
        let hashed = format!("{begin}    hash: '{HASH}'\n");
        for (text, expected) in [
            ("keys: 1".to_owned(), "f.yaml:1: keys: it is no list of keys"),
            (
                format!("{begin}    hsh: '{HASH}'"),
                "f.yaml:5: keys[1] (team-b).hsh: there is no field `hsh`; the nearest is `hash`",
            ),
            (format!("{begin}    hash: s3cret"), "f.yaml:5: keys[1] (team-b).hash: expected `sha"),
            (format!("{begin}    hash: 7777"), "f.yaml:5: keys[1] (team-b).hash: expected a hash"),
            (
                format!("{begin}    hash: [7777]"),
                "f.yaml:5: keys[1] (team-b).hash: expected a text",
            ),
            (
                format!("{hashed}    priority: high"),
                "f.yaml:6: keys[1] (team-b).priority: \"high\": expected interactive, default or bulk",
            ),
            (
                format!("{hashed}    concurrent: 0"),
                "f.yaml:6: keys[1] (team-b).concurrent: 0: expected a whole number from 1 to 429",
            ),
            (
                format!("{hashed}    explain: maybe"),
                "f.yaml:6: keys[1] (team-b).explain: \"maybe\": expected true or false",
            ),
            (
                format!("{hashed}    models: x"),
                "f.yaml:6: keys[1] (team-b).models: \"x\": expected a l",
            ),
            (
                format!("{hashed}    priority: bulk"),
                "f.yaml:3: keys[1] (team-b): the key team-b has a priority, which needs --priority",
            ),
            (begin, "f.yaml:3: keys[1] (team-b): the key team-b needs one of hash and"),
            (format!("{first}  - namespace: b"), "f.yaml:3: keys[1]: missing field `name`"),
            (format!("{first}  - s3cret"), "f.yaml:3: keys[1]: expected the fields name, hash"),
            (hashed, "f.yaml:1: keys: the keys team-a and team-b are the same key"),
        ] {
            let path = std::path::Path::new("f.yaml");
            let file = ConfigFile::parse(path, &text, &FRONTEND, &Environment::from([])).unwrap();
            let given = given(&FRONTEND, &[], [("X", "1")]).unwrap().with_file(file);
            let keyring = Keyring::of(&given).unwrap();
            let keys = within(&NamespaceScope::All, true);
            let message = keys.of_section(&keyring).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{text}\n{message}");
            for secret in ["s3cret", "7777", &HASH[..12]] {
                assert!(!message.contains(secret), "{message}");
            }
        }
    }

    #[test]
    fn the_schema_has_the_fields_and_no_others() {
        let fields = schema()["$defs"]["Fields"]["properties"].clone();
        let mut known = FIELDS.to_vec();
        known.sort_unstable();
        let mut names: Vec<_> = fields.as_object().unwrap().keys().cloned().collect();
        names.sort();
        assert_eq!(names, known);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_without_what_may_be_a_key() {
        let entry = |fields: &str| format!("[\n  {{\"name\": \"k\", {fields}}}\n]");
        let hashed = |fields: &str| entry(&format!("\"hash\": \"{HASH}\", {fields}"));
        for (text, part) in [
            (String::new(), "EOF while parsing a value at line 1"),
            ("{}".into(), "invalid type: map"),
            (entry("\"key\": \"s3cret\""), "unknown field `key`"),
            (entry("\"hash\": \"s3cret\""), "expected `sha256:` and 64 hexadecimal digits"),
            (hashed("\"namespace\": \"a b\""), "invalid namespace"),
            (hashed("\"namespace\": \"\""), "a namespace is empty"),
            (hashed("\"namespaces\": []"), "the key k needs one of namespace"),
            (hashed("\"all_namespaces\": false"), "the key k needs one of namespace"),
            (hashed("\"namespace\": \"a\", \"all_namespaces\": true"), "the key k needs one of"),
            (hashed("\"namespace\": \"a\", \"namespace\": \"b\""), "duplicate field `namespace`"),
            (hashed("\"namespace\": \"a\", \"x\\u001b[31m\": 1"), "unknown field `x\\u{1b}[31m`"),
            (entry("\"name\": \"l\""), "duplicate field `name`"),
            ("[{\"name\": \"a b\"}]".into(), "a name is 1 to 64"),
            (entry("\"namespace\": \"a\""), "the key k needs one of hash and client_cn"),
            (entry("\"hash\": []"), "the list of hashes is empty"),
            (entry("\"hash\": [\"s3cret\"]"), "expected `sha256:` and 64 hexadecimal digits"),
            (entry("\"hash\": 7"), "expected a hash of a key, or a list of them"),
            (entry("\"client_cn\": \"\""), "a client's name has 1 to 512 bytes"),
        ] {
            let error = parse_all(&text).unwrap_err();
            assert!(error.contains(part) && error.contains(" at line "), "{text}: {error}");
            assert!(!error.contains("s3cret") && !error.contains('\u{1b}'), "{error}");
        }
        let twice = format!(
            r#"[{{"name":"a","hash":"{HASH}","namespace":"a"}},{{"name":"b","hash":"{HASH}","namespace":"b"}}]"#
        );
        assert_eq!(parse_all(&twice).unwrap_err(), "the keys a and b are the same key");
        assert_eq!(parse_all("[]").map(|list| list.len()), Ok(0));
    }
}
