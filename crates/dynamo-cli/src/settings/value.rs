//! Values of settings: types that cannot hold a wrong one, and how they are read from texts.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ArgAction;
use dynamo_discovery::{
    Accepts, ControlUrl, GroupName, Kind, Kinds, WatchScope, WorkerUrl, check_model_name,
};
use dynamo_http::{ClientAuth, Network, PriorityMode, RouterMode, UsageMode};
use http::HeaderName;
use serde_json::{Value, json};

use super::origin::WebOrigin;

/// One value, read from a text as a source has it.
pub(crate) trait FromText: Sized {
    /// # Errors
    ///
    /// Why it is none, in a part of a sentence.
    fn from_text(text: &OsStr) -> Result<Self, String>;

    /// The JSON schema of a value in a configuration file.
    fn schema() -> Value {
        text_or("string")
    }
}

/// What a setting holds: one value, maybe one, any number, or whether it is switched on.
pub(crate) trait Shape: Sized {
    /// What clap does with the flag.
    const ACTION: ArgAction;

    /// # Errors
    ///
    /// When one of the texts is no value, or there is none and one is needed.
    fn read(texts: &[OsString]) -> Result<Self, Refused<'_>>;

    /// The JSON schema of the setting in a configuration file.
    fn schema() -> Value;
}

/// A text that is no value.
pub(crate) struct Refused<'a> {
    pub(crate) text: &'a OsStr,
    pub(crate) why: String,
}

fn parse<T: FromText>(text: &OsString) -> Result<T, Refused<'_>> {
    T::from_text(text).map_err(|why| Refused { text, why })
}

impl<T: FromText> Shape for Option<T> {
    const ACTION: ArgAction = ArgAction::Set;

    fn read(texts: &[OsString]) -> Result<Self, Refused<'_>> {
        texts.last().map(parse).transpose()
    }

    fn schema() -> Value {
        T::schema()
    }
}

impl<T: FromText> Shape for T {
    const ACTION: ArgAction = ArgAction::Set;

    fn read(texts: &[OsString]) -> Result<Self, Refused<'_>> {
        let needed = || Refused { text: OsStr::new(""), why: "a value is needed".to_owned() };
        Option::read(texts)?.ok_or_else(needed)
    }

    fn schema() -> Value {
        <T as FromText>::schema()
    }
}

impl<T: FromText> Shape for Vec<T> {
    const ACTION: ArgAction = ArgAction::Append;

    fn read(texts: &[OsString]) -> Result<Self, Refused<'_>> {
        texts.iter().map(parse).collect()
    }

    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }
}

impl Shape for bool {
    const ACTION: ArgAction = ArgAction::SetTrue;

    fn read(texts: &[OsString]) -> Result<Self, Refused<'_>> {
        Ok(texts.last().map(parse).transpose()?.is_some_and(|YesNo(on)| on))
    }

    fn schema() -> Value {
        <YesNo as FromText>::schema()
    }
}

impl FromText for PathBuf {
    fn from_text(text: &OsStr) -> Result<Self, String> {
        if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.into()) }
    }
}

/// Types that are read as they parse; a literal names their type in JSON, beside text.
macro_rules! from_text {
    ($($type:ty),+) => { $crate::settings::value::from_text!("string": $($type),+); };
    ($json:literal: $($type:ty),+) => { $(
        impl $crate::settings::value::FromText for $type {
            fn from_text(text: &std::ffi::OsStr) -> Result<Self, String> {
                let text = text.to_str().ok_or("it is not UTF-8")?;
                text.parse().map_err(|error: <Self as std::str::FromStr>::Err| error.to_string())
            }

            fn schema() -> serde_json::Value {
                $crate::settings::value::text_or($json)
            }
        }
    )+ };
}
pub(crate) use from_text;

/// The JSON schema of a value of this type, or of a text, which may name a variable.
pub(crate) fn text_or(json: &str) -> Value {
    if json == "string" { json!({"type": json}) } else { json!({"type": [json, "string"]}) }
}

from_text!(String, HeaderName, Network, RouterMode, WorkerUrl, ControlUrl, ModelName);
from_text!(Accepts, GroupName, UsageMode, WebOrigin);
/// Whole numbers; what is none is told the bounds.
macro_rules! whole_number {
    ($($type:ty),+) => { $(
        impl FromText for $type {
            fn from_text(text: &OsStr) -> Result<Self, String> {
                let number = text.to_str().ok_or("it is not UTF-8")?.parse();
                number.map_err(|_: std::num::ParseIntError| {
                    format!("expected a whole number from {} to {}", Self::MIN, Self::MAX)
                })
            }

            fn schema() -> Value {
                text_or("integer")
            }
        }
    )+ };
}

whole_number!(u16, u32, usize, NonZeroU32, NonZeroU64, NonZeroUsize);
from_text!("integer": LeaseTtl, Mebibytes, Kibibytes, Percent);
from_text!("number": Seconds, Share, Timeout);
from_text!("boolean": YesNo);

/// Types of which each value has a name.
macro_rules! from_name {
    ($($type:ty { $($name:literal => $value:expr),+ } $expected:literal)+) => { $(
        impl FromText for $type {
            fn from_text(text: &OsStr) -> Result<Self, String> {
                match text.to_str() {
                    $(Some($name) => Ok($value),)+
                    _ => Err(Expected($expected.to_owned()).to_string()),
                }
            }

            fn schema() -> Value {
                json!({"anyOf": [{"enum": [$($name),+]}, {"type": "string", "pattern": "\\$"}]})
            }
        }
    )+ };
}
from_name! {
    WatchScope { "value" => Self::Value, "key" => Self::Key } "value or key"
    ClientAuth { "required" => Self::Required, "optional" => Self::Optional } "required or optional"
    EntryFormat { "table" => Self::Table, "wide" => Self::Wide, "json" => Self::Json } "table, wide or json"
    Format { "json" => Self::Json, "env" => Self::Env } "json or env"
    IsolationMode { "none" => Self::None, "cache_salt" => Self::CacheSalt, "best_effort" => Self::BestEffort } "none, cache_salt or best_effort"
    PriorityMode { "none" => Self::None, "keys" => Self::Keys, "header" => Self::Header } "none, keys or header"
    UsageStore { "none" => Self::None, "etcd" => Self::Etcd } "none or etcd"
    OtlpProtocol { "http/protobuf" => Self::HttpProtobuf } "http/protobuf"
    TracesExporter { "otlp" => Self::Otlp, "none" => Self::None } "otlp or none"
    Sampler { "parentbased_always_on" => Self::AlwaysOn, "parentbased_always_off" => Self::AlwaysOff, "parentbased_traceidratio" => Self::Ratio } "parentbased_always_on, parentbased_always_off or parentbased_traceidratio"
    // `mem` is how newer releases of Dynamo spell it.
    Backend { "etcd" => Self::Etcd, "memory" => Self::Memory, "mem" => Self::Memory } "etcd or memory"
}

/// How `dynamo-models` prints entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryFormat {
    Table,
    Wide,
    Json,
}

/// How traces get to a collector.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OtlpProtocol {
    HttpProtobuf,
}

/// Where traces go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TracesExporter {
    Otlp,
    None,
}

/// Which requests without a `traceparent` are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sampler {
    AlwaysOn,
    AlwaysOff,
    Ratio,
}

/// How `dynamo-worker-config` prints an identity.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Format {
    Json,
    Env,
}

/// How clients are kept apart in the caches of engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IsolationMode {
    None,
    CacheSalt,
    BestEffort,
}

/// Where frontends share what keys have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageStore {
    None,
    Etcd,
}

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Etcd,
    Memory,
}

/// A model's name that may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelName(pub(crate) String);

impl FromStr for ModelName {
    type Err = dynamo_discovery::InvalidEntry;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check_model_name(text).map(|()| Self(text.to_owned()))
    }
}

/// Why a text is no such value: what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected(pub(crate) String);

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.0)
    }
}

impl std::error::Error for Expected {}

fn expected<T>(what: impl Into<String>) -> Result<T, Expected> {
    Err(Expected(what.into()))
}

/// A span in seconds, whole or not, such as `30`, `0.5` or `15s`; zero is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        let number = text.strip_suffix('s').unwrap_or(text);
        number
            .parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|span| *span <= LONGEST)
            .map(Self)
            .ok_or_else(|| Expected("seconds, such as 30 or 0.5".into()))
    }
}

/// A span in seconds that is longer than nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeout(pub(crate) Duration);

impl FromStr for Timeout {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.parse()? {
            Seconds(Duration::ZERO) => expected("seconds, more than 0"),
            Seconds(span) => Ok(Self(span)),
        }
    }
}

/// A share, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share(pub(crate) f64);

impl FromStr for Share {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Self).ok_or_else(|| Expected("a number from 0 to 1, such as 0.01".into()))
    }
}

/// How long a lease lives without being renewed: whole seconds, at least 2, as etcd has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseTtl(pub(crate) Duration);

impl LeaseTtl {
    /// Below this, a busy machine or a change of etcd's leader can end a lease.
    pub(crate) const COMFORTABLE: Duration = Duration::from_secs(10);
}

impl FromStr for LeaseTtl {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.parse() {
            Ok(seconds @ 2..=86_400) => Ok(Self(Duration::from_secs(seconds))),
            _ => expected("whole seconds from 2 to 86400"),
        }
    }
}

/// A size in units of `UNIT` bytes, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size<const UNIT: usize> {
    bytes: usize,
}

/// A size in MiB.
pub(crate) type Mebibytes = Size<{ 1 << 20 }>;
/// A size in KiB.
pub(crate) type Kibibytes = Size<{ 1 << 10 }>;

impl<const UNIT: usize> Size<UNIT> {
    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }
}

impl<const UNIT: usize> FromStr for Size<UNIT> {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        text.parse()
            .ok()
            .filter(|units| *units > 0)
            .and_then(|units: usize| units.checked_mul(UNIT))
            .map(|bytes| Self { bytes })
            .ok_or_else(|| Expected("a whole number, at least 1".into()))
    }
}

/// Yes or no, in the spellings that operators use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct YesNo(pub(crate) bool);

impl FromStr for YesNo {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.trim().to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(Self(true)),
            "0" | "false" | "no" | "off" => Ok(Self(false)),
            _ => expected("1, true, yes, on, or 0, false, no, off"),
        }
    }
}

impl FromText for Kinds {
    fn from_text(text: &OsStr) -> Result<Self, String> {
        kinds(&text.to_string_lossy()).map_err(|expected| expected.to_string())
    }
}

/// Kinds of model, at least one: `Chat | Completions` as in the store, or `chat,completions`.
pub(crate) fn kinds(text: &str) -> Result<Kinds, Expected> {
    let kind = |name: &str| {
        let known = |kind: &Kind| kind.name().eq_ignore_ascii_case(name);
        Kind::ALL.iter().copied().find(known).map(Kinds::from).or_else(|| {
            // What older releases of Dynamo call them.
            Some(Kinds::parse(name).kinds).filter(|kinds| !kinds.is_empty())
        })
    };
    let kinds = text
        .split(['|', ','])
        .map(str::trim)
        .try_fold(Kinds::NONE, |kinds, name| Some(kinds | kind(name)?));
    kinds.ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        Expected(format!("some of {}", names.join(", ")))
    })
}

/// A share in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Percent(pub(crate) u8);

impl FromStr for Percent {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.parse() {
            Ok(percent @ 0..=100) => Ok(Self(percent)),
            _ => expected("a whole number from 0 to 100"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_a_fraction_and_are_never_negative_or_endless() {
        assert_eq!("30".parse(), Ok(Seconds(Duration::from_secs(30))));
        assert_eq!("0.5".parse(), Ok(Seconds(Duration::from_millis(500))));
        assert_eq!("0".parse(), Ok(Seconds(Duration::ZERO)));
        assert_eq!("15s".parse(), Ok(Seconds(Duration::from_secs(15))));
        for text in ["", "-1", "inf", "nan", "1e300", "s", "30ss", "30 s", "30m", "31536001", " "] {
            assert!(text.parse::<Seconds>().is_err(), "{text:?}");
        }
        assert!("0".parse::<Timeout>().is_err());
        assert!("0.001".parse::<Timeout>().is_ok());
    }

    #[test]
    fn a_share_is_a_part_of_one() {
        assert_eq!("0.25".parse(), Ok(Share(0.25)));
        for text in ["-0.1", "1.1", "nan", "", "10%"] {
            assert!(text.parse::<Share>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_lease_lives_for_whole_seconds_and_at_least_two() {
        assert_eq!("2".parse(), Ok(LeaseTtl(Duration::from_secs(2))));
        for text in ["1", "0", "2.5", "86401", "-3", "ten"] {
            assert!(text.parse::<LeaseTtl>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_counted_in_their_unit_and_cannot_overflow() {
        assert_eq!("192".parse::<Mebibytes>().unwrap().bytes(), 192 * 1024 * 1024);
        assert_eq!("64".parse::<Kibibytes>().unwrap().bytes(), 64 * 1024);
        for text in ["0", "-1", "1.5", "18446744073709551615", "1MB"] {
            assert!(text.parse::<Mebibytes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn kinds_are_read_as_the_store_has_them_and_as_people_type_them() {
        let both = Kinds::from_iter([Kind::Chat, Kind::Completions]);
        for text in ["Chat | Completions", "chat,completions", "CHAT|Completion", "Backend", "0x3"]
        {
            assert_eq!(kinds(text), Ok(both), "{text}");
        }
        for text in ["", "chat,", "telepathy", "chat|telepathy"] {
            let error = kinds(text).unwrap_err().to_string();
            assert!(error.starts_with("expected some of Chat, Completions, Embedding"), "{error}");
        }
    }

    #[test]
    fn yes_and_no_have_many_spellings_and_nothing_else_is_either() {
        for text in ["1", "true", "YES", "on", " 1 "] {
            assert_eq!(text.parse(), Ok(YesNo(true)), "{text:?}");
        }
        for text in ["0", "False", "no", "off"] {
            assert_eq!(text.parse(), Ok(YesNo(false)), "{text:?}");
        }
        assert!("2".parse::<YesNo>().is_err());
    }
}
