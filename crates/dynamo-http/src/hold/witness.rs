//! What can prove that the server of an instance is the one that the worker registered.

use dynamo_discovery::{Instance, WorkerUrl};
use dynamo_namespace::Namespace;

use crate::fleet::Claim;

/// Who is asked for a proof. Instances with the same witness are proven by one answer. A witness is of
/// one namespace, whose terms say where it may be and with which key it is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Witness {
    /// The worker itself: its control port knows the id of the instance. An address alone proves
    /// nothing, since addresses are given to others within a second.
    Control(Claim),
    /// The server: it lists the model. That is a weak proof, since two teams often serve the same
    /// model, so it counts on request only ([`Hold::with_unproven`](super::Hold::with_unproven)).
    Listed(Namespace, WorkerUrl, Box<str>),
}

impl Witness {
    /// The witness of an instance that could be kept, if there is one.
    ///
    /// Instances under flat keys have none: their workers know no other way to withdraw.
    pub(super) fn of(instance: &Instance, unproven: bool) -> Option<Self> {
        let url = instance.url()?;
        instance.id()?;
        match Claim::of(instance) {
            Some(claim) => Some(Self::Control(claim)),
            None if unproven => Some(Self::Listed(
                instance.endpoint().namespace().clone(),
                url.clone(),
                instance.model().into(),
            )),
            None => None,
        }
    }

    /// Whether a second entry for the URL makes the proof worthless.
    pub(super) fn is_weak(&self) -> bool {
        matches!(self, Self::Listed(..))
    }

    /// The claim that the witness is asked about, if it is a worker.
    pub(super) fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Control(claim) => Some(claim),
            Self::Listed(..) => None,
        }
    }
}
