//! A file that holds one key, which is taken up again when the file changes.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use dynamo_http::ProgramProblems;
use tracing::info;

use crate::changed_file::ChangedFile;
use crate::failure::Failure;
use crate::followed_file::FollowedFile;
use crate::settings::Setting;

/// Reads the key for the first time, and returns the future that follows the file. A change that cannot
/// be used is among the `problems`.
///
/// # Errors
///
/// When the file cannot be read, or `take_up` finds no key in it.
pub(crate) async fn follow<E>(
    path: PathBuf,
    setting: &'static Setting,
    problems: ProgramProblems,
    take_up: impl Fn(&str) -> Result<(), E> + Send + 'static,
) -> Result<impl Future<Output = ()> + Send, Failure>
where
    Result<(), E>: Context<(), E>,
{
    let mut file =
        FollowedFile::new(path).context("cannot listen for SIGHUP").map_err(Failure::Running)?;
    let take_up = move |text: anyhow::Result<String>, path: &Path| only(&text?, path, &take_up);
    let text = file.read().await;
    let taken = take_up(text, file.path());
    taken.with_context(|| setting.label()).map_err(Failure::Usage)?;
    let changed = ChangedFile::new(setting, file.path(), problems);
    Ok(async move {
        loop {
            let text = file.next().await;
            match take_up(text, file.path()) {
                Ok(()) => {
                    info!(setting = %setting.label(), "a changed key was taken up");
                    changed.taken_up();
                }
                Err(error) => changed.refused(&error),
            }
        }
    })
}

/// Takes the only key of a file.
///
/// # Errors
///
/// When the text has several lines, or is no key.
pub(crate) fn only<T, E>(
    text: &str,
    path: &Path,
    key: impl FnOnce(&str) -> Result<T, E>,
) -> anyhow::Result<T>
where
    Result<T, E>: Context<T, E>,
{
    let (text, path) = (text.trim(), path.display());
    let lines = text.lines().count();
    ensure!(lines < 2, "{path} has {lines} lines: a key file holds one key on one line");
    key(text).with_context(|| format!("{path} holds no key"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynamo_http::WorkerKey;
    use tokio::time::timeout;

    use super::*;
    use crate::settings::table::Engine;

    #[test]
    fn a_file_holds_one_key_on_one_line() {
        let take = |text: &str| {
            only(text, Path::new("f"), |key| WorkerKey::default().set(key))
                .map_err(|error| error.to_string())
        };
        assert_eq!(take(" one \n\n"), Ok(()));
        let two = "f has 2 lines: a key file holds one key on one line";
        assert_eq!(take("s3cret\r\nother\n"), Err(two.to_owned()));
        for none in ["", "\n", "no key"] {
            assert_eq!(take(none), Err("f holds no key".to_owned()));
        }
    }

    #[tokio::test]
    async fn a_changed_key_is_taken_up_and_one_that_is_none_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        let key = WorkerKey::default();
        let follow_it = || {
            let key = key.clone();
            let problems = ProgramProblems::default();
            follow(file.path().into(), Engine::engine_api_key_file, problems, move |text| {
                key.set(text)
            })
        };
        let failure = follow_it().await.err().unwrap();
        assert!(failure.to_string().starts_with("--engine-api-key-file: "), "{failure}");
        write("one\n");
        tokio::spawn(follow_it().await.unwrap());
        assert_eq!(key.header().unwrap(), "Bearer one");
        for (text, expected) in [("two", "Bearer two"), ("no key", "Bearer two"), ("3", "Bearer 3")]
        {
            write(text);
            let taken_up = async {
                while key.header().unwrap() != expected {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(Duration::from_secs(30), taken_up).await.expect("in time");
        }
    }
}
