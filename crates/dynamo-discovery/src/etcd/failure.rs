//! What etcd's errors mean to us.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::EtcdConfigError;
use crate::error_chain::ErrorChain;
use crate::store::StoreError;

/// Why a call to etcd, or a watch, failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client or, through it, etcd said so.
    Client(etcd_client::Error),
    /// No answer came in this time.
    Silence(Duration),
    /// A watch was canceled, for this reason.
    Canceled { compacted: bool, reason: String },
    /// A stream ended, or an answer lacked what it must have.
    Broken(&'static str),
    /// The store holds another history.
    Replaced,
    /// A file of the configuration became unusable.
    Config(EtcdConfigError),
    /// This endpoint failed so.
    At(String, Box<Failure>),
    /// No endpoint of several gave an answer; each in its own way.
    NoEndpoint(Vec<Failure>),
    /// In this time no endpoint was found that can be used.
    Search(Duration, Stage),
    /// This endpoint is etcd's gRPC proxy.
    GrpcProxy,
}

/// What a search for an endpoint is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// These are asked, between commas.
    Asking(String),
    /// This one has answered, and checks our password.
    Authenticating(String),
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// List again.
    Compacted,
    /// List again.
    Replaced,
    /// Ask for less at once.
    TooLarge,
    /// Grant another lease.
    LeaseGone,
    /// Authenticate again, then call again.
    TokenExpired,
    /// Nothing, until someone changes the configuration here or there.
    Denied,
    /// Go on without a user: etcd knows none.
    NoUsers,
    /// Nothing that writes, until someone gives etcd space. Reads and deletions go on.
    NoSpace,
    /// Connect again, then call again.
    Unavailable,
}

// gRPC's status codes, which are numbers on the wire
// (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md).
const UNKNOWN: i32 = 2;
const PERMISSION_DENIED: i32 = 7;
const UNAUTHENTICATED: i32 = 16;

impl Failure {
    /// Why none of these endpoints can be used; there is at least one.
    pub(super) fn none_of(mut failures: Vec<Self>) -> Self {
        match failures.pop() {
            Some(only) if failures.is_empty() => only,
            last => Self::NoEndpoint(failures.into_iter().chain(last).collect()),
        }
    }

    /// The same, with the endpoint's name where the endpoint may be the cause.
    pub(super) fn at(self, endpoint: &str) -> Self {
        match self {
            Self::At(..) | Self::Config(_) => self,
            _ if self.meaning() == Meaning::Unavailable => {
                Self::At(endpoint.to_owned(), self.into())
            }
            _ => self,
        }
    }

    /// Whether a call was given up because no answer came.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::At(_, failure) => failure.is_silence(),
            _ => matches!(self, Self::Silence(_)),
        }
    }

    pub(super) fn meaning(&self) -> Meaning {
        match self {
            Self::Client(etcd_client::Error::GRpcStatus(status)) => {
                of_status(status.code() as i32, status.message())
            }
            // The client says so of a lease whose first renewal is answered with a TTL of 0.
            Self::Client(etcd_client::Error::LeaseKeepAliveError(_)) => Meaning::LeaseGone,
            Self::Canceled { compacted: true, .. } => Meaning::Compacted,
            // The reason is a status as text; its code is lost.
            Self::Canceled { reason, .. } => of_status(UNKNOWN, reason),
            Self::Replaced => Meaning::Replaced,
            Self::At(_, failure) => failure.meaning(),
            Self::Client(_)
            | Self::Silence(_)
            | Self::Broken(_)
            | Self::Config(_)
            | Self::NoEndpoint(_)
            | Self::Search(..)
            | Self::GrpcProxy => Meaning::Unavailable,
        }
    }
}

/// Most answers are told apart by their text only: several share a code, and a canceled watch has
/// none. The texts are those of etcd's `rpctypes` and, for the size, of tonic.
fn of_status(code: i32, message: &str) -> Meaning {
    const TEXTS: [(&str, Meaning); 12] = [
        ("required revision has been compacted", Meaning::Compacted),
        ("required revision is a future revision", Meaning::Replaced),
        ("message length too large", Meaning::TooLarge),
        ("too many operations in txn request", Meaning::TooLarge),
        ("requested lease not found", Meaning::LeaseGone),
        ("invalid auth token", Meaning::TokenExpired),
        ("revision of auth store is old", Meaning::TokenExpired),
        ("permission denied", Meaning::Denied),
        ("authentication failed", Meaning::Denied),
        ("user name is empty", Meaning::Denied),
        ("authentication is not enabled", Meaning::NoUsers),
        ("database space exceeded", Meaning::NoSpace),
    ];
    let known = TEXTS.into_iter().find(|(text, _)| message.contains(text));
    match (known, code) {
        (Some((_, meaning)), _) => meaning,
        (None, PERMISSION_DENIED) => Meaning::Denied,
        (None, UNAUTHENTICATED) => Meaning::TokenExpired,
        (None, _) => Meaning::Unavailable,
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure.meaning() {
            // A message over the limit is a replay that no retry makes smaller; a list has pages.
            Meaning::Compacted | Meaning::TooLarge => Self::Compacted,
            Meaning::Replaced => Self::Replaced,
            Meaning::LeaseGone => Self::LeaseGone,
            Meaning::TokenExpired | Meaning::Denied | Meaning::NoUsers => {
                Self::Denied(Box::new(failure))
            }
            Meaning::NoSpace => Self::Full(Box::new(failure)),
            Meaning::Unavailable => Self::Unavailable(Box::new(failure)),
        }
    }
}

impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        Self::Client(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(etcd_client::Error::GRpcStatus(_))
                if self.meaning() == Meaning::NoSpace =>
            {
                f.write_str(NO_SPACE)
            }
            // Without the code and the headers, which its own display has.
            Self::Client(etcd_client::Error::GRpcStatus(status)) => f.write_str(status.message()),
            Self::Client(error) => error.fmt(f),
            Self::Silence(time) => write!(f, "etcd did not answer within {time:?}"),
            Self::Canceled { reason, .. } if reason.is_empty() => {
                f.write_str("etcd canceled the watch")
            }
            Self::Canceled { reason, .. } => write!(f, "etcd canceled the watch: {reason}"),
            Self::Broken(what) => f.write_str(what),
            Self::Replaced => f.write_str("etcd holds another history"),
            Self::Config(error) => error.fmt(f),
            Self::At(endpoint, failure) => write!(f, "{endpoint}: {failure}"),
            Self::NoEndpoint(failures) => {
                write!(f, "none of {} etcd endpoints answers", failures.len())?;
                for (number, failure) in failures.iter().enumerate() {
                    let mark = if number == 0 { ": " } else { "; " };
                    write!(f, "{mark}{}", ErrorChain(failure))?;
                }
                Ok(())
            }
            Self::Search(time, Stage::Asking(endpoints)) => {
                write!(f, "etcd did not answer within {time:?} at {endpoints}")
            }
            Self::Search(time, Stage::Authenticating(endpoint)) => {
                write!(f, "etcd did not check the password within {time:?} at {endpoint}")
            }
            Self::GrpcProxy => f.write_str(GRPC_PROXY),
        }
    }
}

/// With what ends it.
const NO_SPACE: &str = "etcd's database is full (alarm NOSPACE): compact and defragment etcd, then \
                        `etcdctl alarm disarm`, or raise --quota-backend-bytes";

/// With what to use instead.
const GRPC_PROXY: &str = "this is etcd's gRPC proxy, which does not say whether a watch lives: name \
                          the members of etcd, or put `etcd gateway` before them";

/// `etcd_client::Error` tells no source, so this looks into it: for what is at the bottom, since
/// all above it say the same (`tcp connect error: transport error: tcp connect error: …`).
impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let mut source = match self {
            Self::Client(etcd_client::Error::GRpcStatus(status)) => status.source(),
            Self::Client(etcd_client::Error::TransportError(error)) => error.source(),
            Self::Config(error) => return error.source(),
            Self::At(_, failure) => return failure.source(),
            _ => None,
        }?;
        while let Some(deeper) = source.source() {
            source = deeper;
        }
        (source.to_string() != self.to_string()).then_some(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_of_etcd_has_its_meaning() {
        for (code, message, meaning) in [
            (11, "etcdserver: mvcc: required revision has been compacted", Meaning::Compacted),
            (11, "etcdserver: mvcc: required revision is a future revision", Meaning::Replaced),
            (
                11,
                "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
                Meaning::TooLarge,
            ),
            (3, "etcdserver: too many operations in txn request", Meaning::TooLarge),
            (5, "etcdserver: requested lease not found", Meaning::LeaseGone),
            (16, "etcdserver: invalid auth token", Meaning::TokenExpired),
            (16, "", Meaning::TokenExpired),
            (2, "etcdserver: invalid auth token", Meaning::TokenExpired),
            (3, "etcdserver: revision of auth store is old", Meaning::TokenExpired),
            (7, "etcdserver: permission denied", Meaning::Denied),
            (7, "", Meaning::Denied),
            (3, "etcdserver: authentication failed, invalid user ID or password", Meaning::Denied),
            (3, "etcdserver: user name is empty", Meaning::Denied),
            (9, "etcdserver: authentication is not enabled", Meaning::NoUsers),
            (8, "etcdserver: mvcc: database space exceeded", Meaning::NoSpace),
            (8, "etcdserver: too many requests", Meaning::Unavailable),
            (14, "etcdserver: no leader", Meaning::Unavailable),
            (14, "tcp connect error", Meaning::Unavailable),
            (2, "h2 protocol error: error reading a body from connection", Meaning::Unavailable),
            (3, "etcdserver: duplicate key given in txn request", Meaning::Unavailable),
        ] {
            assert_eq!(of_status(code, message), meaning, "{code} {message}");
        }
    }

    #[test]
    fn one_endpoint_fails_as_itself_and_several_each_in_its_own_way() {
        let silent = |endpoint| Failure::Silence(Duration::from_secs(2)).at(endpoint);
        let only = Failure::none_of(vec![silent("http://a:1")]);
        assert_eq!(only.to_string(), "http://a:1: etcd did not answer within 2s");
        let refused = Failure::Broken("refused").at("http://a:1");
        let both = Failure::none_of(vec![refused, silent("http://b:2")]);
        assert_eq!(
            both.to_string(),
            "none of 2 etcd endpoints answers: http://a:1: refused; http://b:2: etcd did not \
             answer within 2s"
        );
        assert_eq!(both.meaning(), Meaning::Unavailable);
    }

    #[test]
    fn an_endpoint_is_named_once_and_only_where_it_may_be_the_cause() {
        let silent = Failure::Silence(Duration::from_secs(2)).at("http://a:1").at("http://b:2");
        assert_eq!(silent.to_string(), "http://a:1: etcd did not answer within 2s");
        assert!(silent.is_silence());
        assert_eq!(Failure::Replaced.at("http://a:1").to_string(), "etcd holds another history");
    }

    #[test]
    fn a_canceled_watch_has_the_meaning_of_its_reason() {
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        for (compacted, reason, meaning) in [
            (true, "", Meaning::Compacted),
            (false, "", Meaning::Unavailable),
            (false, denied, Meaning::Denied),
            (false, "etcdserver: invalid auth token", Meaning::TokenExpired),
            (false, "etcdserver: user name is empty", Meaning::Denied),
        ] {
            let failure = Failure::Canceled { compacted, reason: reason.into() };
            assert_eq!(failure.meaning(), meaning, "{reason}");
        }
    }
}
