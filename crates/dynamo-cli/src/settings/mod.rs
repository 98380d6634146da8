//! Settings: each is declared once, and its value comes from the first source that has one.
//!
//! The [`table`] holds the declarations. The command line, the help, `docs/reference` and the types
//! of the values are made from them. A new flag is a declaration there, and its use.

mod document;
pub(crate) mod file;
pub(crate) mod given;
pub(crate) mod identity;
mod node;
pub(crate) mod origin;
pub(crate) mod root;
pub(crate) mod scope;
pub(crate) mod scoped;
pub(crate) mod static_worker;
pub(crate) mod store;
pub(crate) mod strangers;
pub(crate) mod table;
pub(crate) mod url;
pub(crate) mod usage;
pub(crate) mod value;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Arg, ArgAction};
use dynamo_http::WorkerTls;
use serde_json::Value as Json;

use crate::failure::Failure;
use given::Value;

/// The declaration of one setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// What a configuration file calls it. The flag has dashes in place of the underscores.
    pub(crate) name: &'static str,
    /// What stands for the value in help texts; none for a switch.
    pub(crate) placeholder: Option<&'static str>,
    /// The flag of one letter, if there is one.
    pub(crate) short: Option<char>,
    /// Whether it is a flag, too; a secret is none, since other users can read command lines.
    pub(crate) has_flag: bool,
    /// The variables, the one that wins first.
    variables: [Option<&'static str>; 2],
    /// The value where no source has one.
    pub(crate) default: Option<&'static str>,
    meaning: &'static str,
    /// Whether the flag has a value, and whether it may be given several times.
    action: ArgAction,
    /// Its value is never shown, and no engine inherits it.
    pub(crate) is_secret: bool,
    /// The file that it names is read again when that changes.
    is_reloadable: bool,
    /// In the configuration file, it is taken up again when that changes.
    pub(crate) is_followed: bool,
    /// The JSON schema of its value in a configuration file.
    pub(crate) schema: fn() -> Json,
}

/// Settings that belong together, under one title.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) title: &'static str,
    pub(crate) settings: &'static [&'static Setting],
}

/// A setting that is a flag with a value.
const fn flag(placeholder: &'static str) -> Setting {
    Setting { placeholder: Some(placeholder), ..switch() }
}

/// A setting that is a flag without a value.
const fn switch() -> Setting {
    Setting {
        name: "",
        placeholder: None,
        short: None,
        has_flag: true,
        variables: [None; 2],
        default: None,
        meaning: "",
        action: ArgAction::Set,
        is_secret: false,
        is_reloadable: false,
        is_followed: false,
        schema: || Json::Null,
    }
}

/// A setting without a flag.
const fn variable(name: &'static str, placeholder: &'static str) -> Setting {
    Setting { has_flag: false, ..flag(placeholder).or(name) }
}

impl Setting {
    /// The same, with a variable that is read where the flag, or the variable before, is not given.
    const fn or(mut self, variable: &'static str) -> Self {
        let place = if self.variables[0].is_none() { 0 } else { 1 };
        self.variables[place] = Some(variable);
        self
    }

    /// The same, with a flag of one letter beside.
    const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    const fn reloadable(mut self) -> Self {
        self.is_reloadable = true;
        self
    }

    const fn followed(mut self) -> Self {
        self.is_followed = true;
        self
    }

    pub(crate) fn variables(&self) -> impl Iterator<Item = &'static str> {
        self.variables.into_iter().flatten()
    }

    /// The flag with its dashes, if there is one.
    pub(crate) fn flag(&self) -> Option<String> {
        self.has_flag.then(|| format!("--{}", self.name.replace('_', "-")))
    }

    /// Whether it has any number of values.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.action, ArgAction::Append)
    }

    /// How a message calls it: `--http-port (DYN_HTTP_PORT)`.
    pub(crate) fn label(&self) -> String {
        match (self.flag(), self.variables[0]) {
            (Some(flag), Some(variable)) => format!("{flag} ({variable})"),
            (flag, variable) => flag.or(variable.map(Into::into)).unwrap_or_default(),
        }
    }

    /// What it means.
    pub(crate) fn meaning(&self) -> String {
        let again = match (self.is_reloadable, self.is_followed) {
            (true, _) => ". Read again when it changes",
            (_, true) => ". Followed in the configuration file",
            _ => "",
        };
        format!("{}{again}", self.meaning.trim())
    }

    /// What `--help` says: the meaning, the variables and the default.
    pub(crate) fn help(&self) -> String {
        let variables = self.variables().map(|variable| format!(" [env: {variable}]"));
        let default = self.default.map(|default| format!(" [default: {default}]"));
        self.meaning() + &variables.chain(default).collect::<String>()
    }

    /// The argument of the command line, if it is a flag.
    pub(crate) fn argument(&self) -> Option<Arg> {
        let flag = self.flag()?;
        let argument = Arg::new(self.name)
            .long(flag.trim_start_matches("--").to_owned())
            .action(self.action.clone())
            .help(self.help());
        let argument = match self.short {
            Some(letter) => argument.short(letter),
            None => argument,
        };
        Some(match self.placeholder {
            // Each source is read in the same way, so the texts are kept as they are.
            Some(placeholder) => argument
                .value_name(placeholder)
                .value_parser(clap::value_parser!(std::ffi::OsString)),
            None => argument,
        })
    }
}

/// Declares groups of settings: for each a struct of their values, and how it is read.
///
/// The documentation of a field is the setting's meaning, for users. A type that is an `Option` or a
/// `Vec` needs no default; a `bool` is a switch.
macro_rules! settings {
    ($(
        $group:ident $title:literal {
            $( $(#[doc = $meaning:literal])+ $name:ident: $type:ty = $declared:expr; )+
        }
    )+) => { $(
        #[doc = concat!("The values of the group \"", $title, "\".")]
        pub(crate) struct $group {
            $( $(#[doc = $meaning])+ pub(crate) $name: $crate::settings::given::Value<$type>, )+
        }

        #[expect(non_upper_case_globals, reason = "the declaration of a field has its name")]
        impl $group {
            $( pub(crate) const $name: &'static Setting = &Setting {
                name: stringify!($name),
                meaning: concat!($($meaning),+),
                action: <$type as $crate::settings::value::Shape>::ACTION,
                schema: <$type as $crate::settings::value::Shape>::schema,
                ..$declared
            }; )+
            pub(crate) const GROUP: &'static Group =
                &Group { title: $title, settings: &[$(Self::$name),+] };

            /// # Errors
            ///
            /// When a value is invalid.
            pub(crate) fn read(given: &$crate::settings::given::Given) -> Result<Self, Failure> {
                Ok(Self { $( $name: given.value(Self::$name)?, )+ })
            }
        }
    )+ };
}
use settings;

/// Two settings that make sense only together.
///
/// # Errors
///
/// When one is given without the other.
pub(crate) fn pair<T, U>(
    first: Value<Option<T>>,
    second: Value<Option<U>>,
) -> Result<Option<(T, U)>, Failure> {
    let [one, other] = [first.setting.label(), second.setting.label()];
    let alone = |given, missing| {
        Err(Failure::usage(format!(
            "{given} is given without {missing}: both are needed, or neither"
        )))
    };
    match (first.take(), second.take()) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        (Some(_), None) => alone(one, other),
        (None, Some(_)) => alone(other, one),
    }
}

/// The authorities that `https` servers are trusted by, with those of a file if one is given.
///
/// # Errors
///
/// When the file cannot be read or holds none.
pub(crate) fn authorities(file: Value<Option<PathBuf>>) -> Result<WorkerTls, Failure> {
    let label = file.setting.label();
    file.take()
        .map(WorkerTls::with_authorities)
        .transpose()
        .map(Option::unwrap_or_default)
        .context(label)
        .map_err(Failure::Usage)
}
