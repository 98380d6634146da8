//! A file that holds one key, which is taken up again when the file changes.

use std::path::{Path, PathBuf};

use anyhow::Context;
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
    let take_up = move |text: anyhow::Result<String>, path: &Path| {
        take_up(text?.trim()).with_context(|| format!("{} holds no key", path.display()))
    };
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dynamo_http::WorkerKey;
    use tokio::time::timeout;

    use super::*;
    use crate::settings::table::Engine;

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
