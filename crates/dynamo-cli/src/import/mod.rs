//! The files of other gateways, translated into a frontend's configuration file.

mod advice;
mod deployment;
mod litellm;
mod names;
mod report;
mod yaml;

pub(crate) use deployment::PLACEHOLDER;
pub(crate) use litellm::translate as litellm;

/// What became of a file.
#[derive(Debug)]
pub(crate) struct Translated {
    /// The configuration file, as YAML.
    pub(crate) text: String,
    /// A line for each part of the file that is not in it, or not as it was.
    pub(crate) left: Vec<String>,
    /// The variables that the configuration file names in place of URLs.
    pub(crate) variables: Vec<String>,
}

#[cfg(test)]
mod tests;
