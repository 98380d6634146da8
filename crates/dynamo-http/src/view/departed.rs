//! The models that a scope had a short while ago.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dynamo_namespace::Namespace;
use imbl::OrdMap;

/// What has left longer ago is forgotten.
const REMEMBERED: Duration = Duration::from_secs(600);
/// So many names are remembered at most.
const MOST_NAMES: usize = 1024;
/// So many namespaces are remembered for each name at most.
const MOST_NAMESPACES: usize = 64;

/// The models that have left one scope, each by its name and by the namespace of its last instance there.
///
/// It is a part of the scope's view, so it knows of no model that the scope has not shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Departed(OrdMap<Arc<str>, Vec<(Namespace, Instant)>>);

impl Departed {
    /// Notes that the last instance of a model in each of these namespaces has left. Of too many, those
    /// are forgotten that have left first.
    pub(super) fn note(
        &mut self,
        left: impl IntoIterator<Item = (Arc<str>, Namespace)>,
        now: Instant,
    ) {
        self.forget_old(now);
        for (name, namespace) in left {
            let all = self.0.entry(name).or_default();
            all.retain(|(other, _)| *other != namespace);
            if all.len() >= MOST_NAMESPACES {
                all.remove(0);
            }
            all.push((namespace, now));
        }
        let excess = self.0.len().saturating_sub(MOST_NAMES);
        if excess > 0 {
            let last = |all: &[(Namespace, Instant)]| all.iter().map(|(_, at)| *at).max();
            let mut names: Vec<_> =
                self.0.iter().map(|(name, all)| (last(all), name.clone())).collect();
            names.sort();
            for (_, name) in names.iter().take(excess) {
                self.0.remove(name);
            }
        }
    }

    /// Whether a model of this name has left, if only in part.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Notes that a model has an instance in a namespace.
    pub(super) fn is_back(&mut self, name: &str, namespace: &Namespace) {
        let Some(all) = self.0.get_mut(name) else { return };
        all.retain(|(other, _)| other != namespace);
        if all.is_empty() {
            self.0.remove(name);
        }
    }

    /// How long ago a model has left; with a namespace, how long ago its last instance there has.
    pub(super) fn since(
        &self,
        name: &str,
        namespace: Option<&Namespace>,
        now: Instant,
    ) -> Option<Duration> {
        let all = self.0.get(name)?.iter();
        let left = all.filter(|(other, _)| namespace.is_none_or(|name| name == other));
        left.map(|(_, at)| now.saturating_duration_since(*at)).min().filter(|ago| *ago < REMEMBERED)
    }

    fn forget_old(&mut self, now: Instant) {
        let is_new = |at: &Instant| now.saturating_duration_since(*at) < REMEMBERED;
        if self.0.values().all(|all| all.iter().all(|(_, at)| is_new(at))) {
            return;
        }
        self.0 = std::mem::take(&mut self.0)
            .into_iter()
            .filter_map(|(name, mut all)| {
                all.retain(|(_, at)| is_new(at));
                (!all.is_empty()).then_some((name, all))
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    #[test]
    fn a_model_is_remembered_by_its_namespaces_until_it_is_back_or_ten_minutes_have_passed() {
        let (mut departed, begin) = (Departed::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let [a, b, c] = ["a", "b", "c"].map(namespace);
        let left = |namespace: &Namespace| [(Arc::<str>::from("m"), namespace.clone())];
        departed.note(left(&a), at(0));
        departed.note(left(&b), at(10));
        let since = |departed: &Departed, namespace: Option<&Namespace>, now| {
            departed.since("m", namespace, at(now)).map(|ago| ago.as_secs())
        };
        assert_eq!(since(&departed, None, 30), Some(20), "the last one counts");
        assert_eq!(since(&departed, Some(&a), 30), Some(30));
        assert_eq!(since(&departed, Some(&c), 30), None);
        assert_eq!(departed.since("n", None, at(30)), None);
        assert_eq!(
            (since(&departed, Some(&a), 599), since(&departed, Some(&a), 600)),
            (Some(599), None)
        );
        departed.is_back("m", &b);
        assert_eq!((since(&departed, Some(&b), 30), since(&departed, None, 30)), (None, Some(30)));
        departed.is_back("m", &a);
        assert!(departed.0.is_empty());
        departed.note(left(&a), at(700));
        departed.note(left(&a), at(800));
        assert_eq!(since(&departed, None, 801), Some(1));
    }

    #[test]
    fn its_memory_is_bounded_and_what_left_first_is_forgotten_first() {
        let (mut departed, begin) = (Departed::default(), Instant::now());
        let left = |number: u64, namespace: &str| -> [(Arc<str>, Namespace); 1] {
            [(format!("m{number}").into(), namespace.parse().unwrap())]
        };
        for number in 0..2000 {
            departed.note(left(number, "a"), begin + Duration::from_millis(number));
        }
        assert_eq!(departed.0.len(), MOST_NAMES);
        let now = begin + Duration::from_secs(3);
        let is_known = |departed: &Departed, name| departed.since(name, None, now).is_some();
        assert!(!is_known(&departed, "m975") && is_known(&departed, "m976"));
        departed.note((0..5000).flat_map(|number| left(number, "a")), now);
        assert_eq!(departed.0.len(), MOST_NAMES, "also if all leave at once");
        for number in 0..200 {
            departed.note(left(9999, &format!("n{number}")), now);
        }
        assert_eq!(departed.0["m9999"].len(), MOST_NAMESPACES);
        departed.note(left(0, "a"), begin + REMEMBERED * 2);
        assert_eq!(departed.0.len(), 1, "old ones go when another one leaves");
    }
}
