//! When the certificates of a program end: a metric for each, and a warning before the end.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dynamo_http::ProgramProblems;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::spawn_blocking;
use tokio::time::interval;
use tracing::warn;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

/// The interval between two looks at what is loaded.
const EVERY: Duration = Duration::from_secs(10);
/// A certificate ends soon when it has so many seconds left, or a third of a shorter life: whoever has
/// certificates for a day renews them within that day.
const SOON: i64 = 7 * 24 * 60 * 60;

/// The certificates that a program has loaded. A clone is the same.
#[derive(Clone)]
pub(crate) struct Certificates {
    all: Arc<[Watched]>,
    /// Where a status page, if there is one, learns what ends.
    problems: ProgramProblems,
}

/// Where some of the certificates come from.
pub(crate) struct Place {
    /// The value of the metric's label.
    name: &'static str,
    counts: Counts,
    /// The certificates as they are loaded now, in DER; none where they cannot be read.
    loaded: Box<dyn Fn() -> Vec<Vec<u8>> + Send + Sync>,
}

/// Which certificate of several decides.
#[derive(Clone, Copy)]
enum Counts {
    /// In a chain, the one that ends first: nobody trusts the chain any more.
    First,
    /// Among authorities, the one that ends last: from then on nobody is trusted. While authorities
    /// change, the file holds the old one and the new one, and the end of the old one is no fault.
    Last,
}

struct Watched {
    place: Place,
    seen: Mutex<Option<(Life, Standing)>>,
}

/// The time for which a certificate is valid, in unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    begins: i64,
    ends: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Lasts,
    EndsSoon,
    Ended,
}

impl Place {
    /// A certificate with those of the authorities between.
    pub(crate) fn chain(
        name: &'static str,
        loaded: impl Fn() -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self { name, counts: Counts::First, loaded: Box::new(loaded) }
    }

    /// Certificates of authorities, each of which is trusted.
    pub(crate) fn authorities(
        name: &'static str,
        loaded: impl Fn() -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self { name, counts: Counts::Last, loaded: Box::new(loaded) }
    }

    fn life(&self) -> Option<Life> {
        let loaded = (self.loaded)();
        let lives = loaded.iter().filter_map(|der| Life::of(der));
        match self.counts {
            Counts::First => lives.min_by_key(|life| life.ends),
            Counts::Last => lives.max_by_key(|life| life.ends),
        }
    }
}

/// What reads the certificates in a file of PEM, at each look anew.
pub(crate) fn file(path: PathBuf) -> impl Fn() -> Vec<Vec<u8>> + Send + Sync + 'static {
    move || {
        let pem = std::fs::read(&path).unwrap_or_default();
        let certificates = CertificateDer::pem_slice_iter(&pem);
        certificates.flatten().map(|certificate| certificate.to_vec()).collect()
    }
}

impl Life {
    fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let validity = certificate.validity();
        let [begins, ends] = [validity.not_before, validity.not_after].map(|time| time.timestamp());
        Some(Self { begins, ends })
    }

    fn standing(self, now: i64) -> Standing {
        let left = self.ends.saturating_sub(now);
        let third = self.ends.saturating_sub(self.begins) / 3;
        match left {
            ..=0 => Standing::Ended,
            left if left <= SOON.min(third) => Standing::EndsSoon,
            _ => Standing::Lasts,
        }
    }
}

impl Certificates {
    /// Looks at the certificates, and from now on again and again.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub(crate) fn watch(
        places: impl IntoIterator<Item = Place>,
        problems: ProgramProblems,
    ) -> Self {
        let watched = |place| Watched { place, seen: Mutex::default() };
        let certificates = Self { all: places.into_iter().map(watched).collect(), problems };
        certificates.look();
        if !certificates.all.is_empty() {
            tokio::spawn(certificates.clone().look_again());
        }
        certificates
    }

    async fn look_again(self) {
        let mut ticks = interval(EVERY);
        loop {
            ticks.tick().await;
            let certificates = self.clone();
            // Files may be on a disk that takes its time.
            if spawn_blocking(move || certificates.look()).await.is_err() {
                return;
            }
        }
    }

    fn look(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        for watched in &*self.all {
            watched.look(now, &self.problems);
        }
    }

    /// The metric in Prometheus' text format, under the name of a program such as `dynamo_frontend`.
    /// Empty where nothing is loaded.
    pub(crate) fn text(&self, program: &str) -> String {
        let name = format!("{program}_tls_certificate_expiry_timestamp_seconds");
        let mut text = String::new();
        for watched in &*self.all {
            let Some((life, _)) = *watched.seen() else { continue };
            if text.is_empty() {
                text = format!(
                    "# HELP {name} When a loaded certificate ends, in unix seconds\n\
                     # TYPE {name} gauge\n"
                );
            }
            // Writing to memory does not fail.
            let label = watched.place.name;
            let _ = writeln!(text, "{name}{{certificate=\"{label}\"}} {}", life.ends);
        }
        text
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.all.iter().map(|one| one.place.name)).finish()
    }
}

impl Watched {
    /// Tells what is new. A file that cannot be read at the moment changes nothing.
    fn look(&self, now: i64, problems: &ProgramProblems) {
        let Some(life) = self.place.life() else { return };
        let standing = life.standing(now);
        let before = self.seen().replace((life, standing));
        if before == Some((life, standing)) {
            return;
        }
        let certificate = self.place.name;
        let ends = ASN1Time::from_timestamp(life.ends)
            .map_or_else(|_| life.ends.to_string(), |ends| ends.to_string());
        let subject = format!("certificate {certificate}");
        match standing {
            Standing::Lasts => problems.end(&subject),
            Standing::EndsSoon => {
                warn!(certificate, ends, "a certificate ends soon");
                problems
                    .tell(&subject, &format!("The certificate {certificate} ends soon: {ends}."));
            }
            Standing::Ended => {
                warn!(certificate, ends, "a certificate has ended");
                problems
                    .tell(&subject, &format!("The certificate {certificate} has ended: {ends}."));
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Option<(Life, Standing)>> {
        // Each change is one call, so a panic elsewhere leaves the value whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const DAY: i64 = 24 * 60 * 60;

    /// A certificate that ends on a day of 2030.
    fn ending(month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.not_after = date_time_ymd(2030, month, day);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn ends(place: &Place) -> Option<i64> {
        place.life().map(|life| life.ends)
    }

    #[test]
    fn a_chain_ends_with_its_first_certificate_and_authorities_with_their_last() {
        let both = || vec![ending(3, 1), b"no certificate".to_vec(), ending(1, 1)];
        let [january, march] = [1_893_456_000, 1_893_456_000 + 59 * DAY];
        assert_eq!(ends(&Place::chain("a", both)), Some(january));
        assert_eq!(ends(&Place::authorities("a", both)), Some(march));
        assert_eq!(ends(&Place::chain("a", Vec::new)), None);
    }

    #[test]
    fn the_end_is_near_for_a_week_or_for_a_third_of_a_short_life() {
        let year = Life { begins: 0, ends: 365 * DAY };
        assert_eq!(year.standing(358 * DAY - 1), Standing::Lasts);
        assert_eq!(year.standing(358 * DAY), Standing::EndsSoon);
        assert_eq!(year.standing(365 * DAY - 1), Standing::EndsSoon);
        assert_eq!(year.standing(365 * DAY), Standing::Ended);
        let day = Life { begins: 0, ends: DAY };
        assert_eq!(day.standing(DAY / 2), Standing::Lasts);
        assert_eq!(day.standing(DAY * 2 / 3), Standing::EndsSoon);
        assert_eq!(Life { begins: i64::MIN, ends: i64::MAX }.standing(i64::MIN), Standing::Lasts);
    }

    #[tokio::test]
    async fn the_metric_is_that_of_what_is_loaded_and_stays_while_nothing_can_be_read() {
        let loaded = Arc::new(Mutex::new(vec![ending(1, 1)]));
        let of = loaded.clone();
        let place = Place::chain("listener", move || of.lock().unwrap().clone());
        let certificates = Certificates::watch([place], ProgramProblems::default());
        let name = "p_tls_certificate_expiry_timestamp_seconds";
        let line = |ends: i64| format!("{name}{{certificate=\"listener\"}} {ends}\n");
        let text = certificates.text("p");
        assert!(text.ends_with(&line(1_893_456_000)), "{text}");
        assert!(text.starts_with(&format!("# HELP {name} ")), "{text}");
        loaded.lock().unwrap().clear();
        certificates.look();
        assert_eq!(certificates.text("p"), text);
        *loaded.lock().unwrap() = vec![ending(1, 2)];
        certificates.look();
        assert!(certificates.text("p").ends_with(&line(1_893_456_000 + DAY)));
        assert_eq!(Certificates::watch([], ProgramProblems::default()).text("p"), "");
    }
}
