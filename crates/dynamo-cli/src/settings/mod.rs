//! What can be set: a flag, the variable that stands in for it, and a default.
//!
//! The [`table`] holds every setting of every program. Help texts and `docs/reference` are made
//! from it, and values are resolved through it, so that none of them can say another thing.

pub(crate) mod access;
pub(crate) mod balance;
pub(crate) mod identity;
pub(crate) mod scope;
pub(crate) mod static_worker;
pub(crate) mod store;
pub(crate) mod table;
pub(crate) mod value;

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use dynamo_http::WorkerTls;

use crate::environment::Environment;
use crate::failure::Failure;

/// One thing that can be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// The long flag without its dashes; none where only a variable makes sense.
    pub(crate) flag: Option<&'static str>,
    /// What stands for the value in help texts; none for a switch.
    pub(crate) value: Option<&'static str>,
    /// The variable that is read where the flag is not given.
    pub(crate) variable: Option<&'static str>,
    /// The value where neither is there.
    pub(crate) default: Option<&'static str>,
    /// What it means.
    pub(crate) meaning: &'static str,
}

/// Settings that belong together, under one title.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) title: &'static str,
    pub(crate) settings: &'static [Setting],
}

impl Setting {
    /// A flag with a value.
    const fn flag(flag: &'static str, value: &'static str, meaning: &'static str) -> Self {
        Self { flag: Some(flag), value: Some(value), variable: None, default: None, meaning }
    }

    /// A flag without a value.
    const fn switch(flag: &'static str, meaning: &'static str) -> Self {
        Self { flag: Some(flag), value: None, variable: None, default: None, meaning }
    }

    /// A variable without a flag.
    const fn variable(variable: &'static str, value: &'static str, meaning: &'static str) -> Self {
        Self { flag: None, value: Some(value), variable: Some(variable), default: None, meaning }
    }

    /// The same, with a variable that stands in for the flag.
    const fn or(self, variable: &'static str) -> Self {
        Self { variable: Some(variable), ..self }
    }

    /// The same, with a default.
    const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    /// The flag's value, else the variable's, else the default.
    ///
    /// # Errors
    ///
    /// When the variable's value is none of a `T`, or when there is no value at all.
    pub(crate) fn resolve<T>(
        &self,
        flag: Option<T>,
        environment: &Environment,
    ) -> Result<T, Failure>
    where
        T: FromStr<Err: Display>,
    {
        if let Some(value) = self.given(flag, environment)? {
            return Ok(value);
        }
        let default =
            self.default.ok_or_else(|| Failure::usage(format!("{} is needed", self.name())))?;
        self.parse(default, "the default")
    }

    /// What the user gave: the flag's value, else the variable's.
    ///
    /// # Errors
    ///
    /// When the variable's value is none of a `T`.
    pub(crate) fn given<T>(
        &self,
        flag: Option<T>,
        environment: &Environment,
    ) -> Result<Option<T>, Failure>
    where
        T: FromStr<Err: Display>,
    {
        if flag.is_some() {
            return Ok(flag);
        }
        let Some(variable) = self.variable else { return Ok(None) };
        let Some(text) = environment.get(variable) else { return Ok(None) };
        self.parse(text, variable).map(Some)
    }

    fn parse<T>(&self, text: &str, source: &str) -> Result<T, Failure>
    where
        T: FromStr<Err: Display>,
    {
        text.parse().map_err(|error| Failure::usage(format!("{source}={text:?}: {error}")))
    }

    /// How a message calls it: `--http-port (DYN_HTTP_PORT)`.
    pub(crate) fn name(&self) -> String {
        match (self.flag, self.variable) {
            (Some(flag), Some(variable)) => format!("--{flag} ({variable})"),
            (Some(flag), None) => format!("--{flag}"),
            (None, variable) => variable.unwrap_or_default().to_owned(),
        }
    }

    /// What `--help` says: the meaning, the variable and the default.
    pub(crate) fn help(&self) -> String {
        let mut help = self.meaning.to_owned();
        for (what, text) in [("env", self.variable), ("default", self.default)] {
            if let Some(text) = text {
                help.push_str(&format!(" [{what}: {text}]"));
            }
        }
        help
    }
}

/// The authorities that `https` servers are trusted by, with those of a file if one is given.
///
/// # Errors
///
/// When the file cannot be read or holds none.
pub(crate) fn authorities(setting: Setting, file: Option<PathBuf>) -> Result<WorkerTls, Failure> {
    file.map(WorkerTls::with_authorities)
        .transpose()
        .map(Option::unwrap_or_default)
        .with_context(|| setting.name())
        .map_err(Failure::Usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Setting = Setting::flag("port", "PORT", "A port").or("PORT").default("80");

    #[test]
    fn the_flag_wins_over_the_variable_and_the_variable_over_the_default() {
        let environment = Environment::from([("PORT", "81")]);
        assert_eq!(PORT.resolve(Some(82_u16), &environment).unwrap(), 82);
        assert_eq!(PORT.resolve::<u16>(None, &environment).unwrap(), 81);
        assert_eq!(PORT.resolve::<u16>(None, &Environment::default()).unwrap(), 80);
        let blank = Environment::from([("PORT", " ")]);
        assert_eq!(PORT.resolve::<u16>(None, &blank).unwrap(), 80);
    }

    #[test]
    fn an_invalid_variable_is_named_with_its_value() {
        let environment = Environment::from([("PORT", "eighty")]);
        let failure = PORT.resolve::<u16>(None, &environment).unwrap_err();
        assert_eq!(failure.to_string(), "PORT=\"eighty\": invalid digit found in string");
        assert!(matches!(failure, Failure::Usage(_)));
        assert!(PORT.resolve(Some(82_u16), &environment).is_ok(), "the flag wins unread");
    }

    #[test]
    fn help_says_the_variable_and_the_default() {
        assert_eq!(PORT.help(), "A port [env: PORT] [default: 80]");
    }
}
