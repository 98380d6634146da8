//! The resolver of workers' names: it asks the servers of resolv.conf, and remembers their answers.

use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use dynamo_http::{ProgramProblems, Resolve, ResolveError, Resolving};
use hickory_resolver::config::{
    ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf::parse_resolv_conf};
use tokio::runtime::Handle;
use tracing::info;

use crate::changed_file::ChangedFile;
use crate::failure::Failure;
use crate::followed_file::FollowedFile;
use crate::settings::table::Workers;

const HOSTS: &str = "/etc/hosts";
const PORT: u16 = 53;
/// An answer is remembered for as long as it says, and no longer than this.
const LONGEST: Duration = Duration::from_secs(60);
/// The same for the answer that there is no such name: it may be there in a moment.
const LONGEST_ABSENCE: Duration = Duration::from_secs(2);
/// How long a server may take before the next one is asked: connecting has 2 s by default.
const PATIENCE: Duration = Duration::from_millis(700);

/// Asks the servers of resolv.conf. A clone is the same resolver.
#[derive(Clone)]
pub(super) struct DnsResolver {
    sources: Arc<RwLock<Sources>>,
    /// Where questions are asked: their sockets outlive the thread that asks first.
    runtime: Handle,
}

#[derive(Clone)]
struct Sources {
    servers: TokioResolver,
    /// What may be left out at the end of a name, in the order in which that is tried.
    suffixes: Arc<[Name]>,
    hosts: Arc<Hosts>,
}

/// A resolver, and the future that follows its files.
///
/// # Errors
///
/// When resolv.conf cannot be read, or names no server.
pub(super) async fn follow(
    path: PathBuf,
    problems: ProgramProblems,
) -> anyhow::Result<(DnsResolver, impl Future<Output = ()> + Send)> {
    let mut conf = FollowedFile::new(path)?;
    let mut hosts = FollowedFile::new(HOSTS.into())?;
    // A machine need not have the file, and it may hold what we do not understand.
    let hosts_text = hosts.read().await.unwrap_or_default();
    let sources = Sources::new(&conf.read().await?, &hosts_text, PORT)
        .with_context(|| conf.path().display().to_string())?;
    let resolver = DnsResolver::new(sources);
    let followed = resolver.clone();
    let changed_file = ChangedFile::new(Workers::resolv_conf, conf.path(), problems);
    let following = async move {
        let (mut conf_text, mut hosts_text) = (None, Some(hosts_text));
        loop {
            tokio::select! {
                text = conf.next() => match text {
                    Ok(text) => conf_text = Some(text),
                    Err(error) => { changed_file.refused(&error); continue }
                },
                text = hosts.next() => hosts_text = Some(text.unwrap_or_default()),
            }
            let hosts_text = hosts_text.as_deref().unwrap_or_default();
            let changed = match &conf_text {
                Some(text) => Sources::new(text, hosts_text, PORT),
                None => Ok(followed.sources().with_hosts(hosts_text)),
            };
            match changed {
                Ok(sources) => {
                    followed.replace(sources);
                    info!("the files that say how names are resolved were taken up");
                    changed_file.taken_up();
                }
                Err(error) => changed_file.refused(&error),
            }
        }
    };
    Ok((resolver, following))
}

impl DnsResolver {
    fn new(sources: Sources) -> Self {
        Self { sources: Arc::new(RwLock::new(sources)), runtime: Handle::current() }
    }

    // Each change is one assignment, so a panic elsewhere leaves them whole.
    fn sources(&self) -> Sources {
        self.sources.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, sources: Sources) {
        *self.sources.write().unwrap_or_else(PoisonError::into_inner) = sources;
    }
}

impl Sources {
    /// The servers, search domains and options of a resolv.conf, and the names of a file of hosts.
    fn new(conf: &str, hosts: &str, port: u16) -> anyhow::Result<Self> {
        let (config, mut options) = parse_resolv_conf(conf)?;
        let (domain, search, mut servers) = config.into_parts();
        for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
            connection.port = port;
        }
        tune(&mut options);
        let suffixes = domain.iter().chain(&search).cloned().collect();
        let config = ResolverConfig::from_parts(domain, search, servers);
        let provider = TokioRuntimeProvider::default();
        let servers =
            TokioResolver::builder_with_config(config, provider).with_options(options).build()?;
        Ok(Self { servers, suffixes, hosts: Arc::default() }.with_hosts(hosts))
    }

    fn with_hosts(self, text: &str) -> Self {
        let mut hosts = Hosts::default();
        // Lines that are none are left out.
        let _ = hosts.read_hosts_conf(text.as_bytes());
        Self { hosts: Arc::new(hosts), ..self }
    }

    /// What the file of hosts says of a name. It comes before every question, as in glibc.
    fn in_hosts(&self, host: &Name) -> Vec<IpAddr> {
        let found = [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(host.clone(), kind)));
        let answers = found.flat_map(|found| found.answers().to_vec());
        answers.filter_map(|record| record.data.ip_addr()).collect()
    }
}

/// What differs from hickory's ways: the order of servers is that of resolv.conf, as in glibc. Two are
/// asked at one time, so that one that is away delays nobody.
fn tune(options: &mut ResolverOpts) {
    options.timeout = options.timeout.min(PATIENCE);
    options.positive_max_ttl = Some(LONGEST);
    options.negative_max_ttl = Some(LONGEST_ABSENCE);
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.num_concurrent_reqs = 2;
    options.try_tcp_on_error = true;
}

impl Resolve for DnsResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        let Ok(name) = Name::from_str(host) else {
            return Box::pin(std::future::ready(Err(ResolveError::NotFound)));
        };
        let sources = self.sources();
        let known = sources.in_hosts(&name);
        if !known.is_empty() {
            return Box::pin(std::future::ready(Ok(known)));
        }
        // It goes on when nobody waits any more: the next one finds the answer.
        let asking = self.runtime.spawn(async move { look_up(&sources, &name).await });
        Box::pin(async move { asking.await.unwrap_or_else(|ended| Err(no_answer(ended))) })
    }
}

/// The addresses of a name, or of the first one of its search list that has any.
///
/// A name is gone only if all of these names are known to have no address of either kind. Where one
/// question of them has no answer, hickory's own look-up may tell of another that has one.
async fn look_up(sources: &Sources, name: &Name) -> Result<Vec<IpAddr>, ResolveError> {
    let servers = &sources.servers;
    let mut unanswered = None;
    for name in search_list(sources, name) {
        let (v6, v4) = tokio::join!(
            servers.lookup(name.clone(), RecordType::AAAA),
            servers.lookup(name, RecordType::A),
        );
        let mut found = Vec::new();
        for answer in [v6, v4] {
            match answer {
                Ok(answer) => {
                    let records = answer.answers().iter();
                    found.extend(records.filter_map(|record| record.data.ip_addr()));
                }
                Err(error) if says_there_is_none(&error) => {}
                Err(error) => unanswered = Some(error),
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(unanswered.map_or(ResolveError::NotFound, no_answer))
}

/// The names that may be meant by one, in the order of glibc.
fn search_list(sources: &Sources, name: &Name) -> Vec<Name> {
    let mut whole = name.clone();
    whole.set_fqdn(true);
    if name.is_fqdn() {
        return vec![whole];
    }
    let suffixes = sources.suffixes.iter();
    let mut names: Vec<_> =
        suffixes.filter_map(|suffix| name.clone().append_domain(suffix).ok()).collect();
    let is_first = usize::from(name.num_labels()) > sources.servers.options().ndots;
    names.insert(if is_first { 0 } else { names.len() }, whole);
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// Whether the answer is that there is no such name, or that it has no address of this kind.
fn says_there_is_none(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(none)) = error else { return false };
    matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError)
}

fn no_answer(error: impl Error + Send + Sync + 'static) -> ResolveError {
    ResolveError::NoAnswer(error.into())
}

impl fmt::Debug for DnsResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsResolver").finish_non_exhaustive()
    }
}

/// The resolver that the settings ask for; none for that of the system.
///
/// # Errors
///
/// When a file that was given cannot be used. Without one, the system resolves then.
pub(super) async fn start(
    path: Option<PathBuf>,
    is_given: bool,
    problems: ProgramProblems,
) -> Result<Option<Arc<dyn Resolve>>, Failure> {
    let Some(path) = path else { return Ok(None) };
    match follow(path, problems).await {
        Ok((resolver, following)) => {
            tokio::spawn(following);
            Ok(Some(Arc::new(resolver)))
        }
        Err(error) if is_given => Err(Failure::Usage(error.context(Workers::resolv_conf.label()))),
        Err(error) => {
            let error = format_args!("{error:#}");
            info!(%error, "the system resolves the names of workers");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests;
