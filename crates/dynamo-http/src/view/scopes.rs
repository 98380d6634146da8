//! Views of further scopes, opened while a feed runs.

use dynamo_namespace::NamespaceScope;
use tokio::sync::{mpsc, oneshot};

use super::live::LiveView;

/// Opens views while a [`Feed`](crate::Feed) runs. A clone asks the same feed.
#[derive(Clone, Debug)]
pub struct Scopes {
    requests: mpsc::UnboundedSender<OpenRequest>,
}

/// A request for the views of these scopes, and the channel for the answer.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) scopes: Vec<NamespaceScope>,
    pub(crate) opened: oneshot::Sender<Vec<LiveView>>,
}

/// The feed has ended, so it opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the feed has ended")]
pub struct FeedEnded;

impl Scopes {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<OpenRequest>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (Self { requests }, receiver)
    }

    /// Opens a view for each of these scopes, in their order. The feed publishes each view at once
    /// with the models that it knows, and closes the view when the last holder drops it. Equal
    /// scopes share one view.
    ///
    /// The call waits for the feed to [run](crate::Feed::run). A view has the models of the feed's
    /// sources and no others, however wide its scope is.
    ///
    /// # Errors
    ///
    /// When the feed has ended.
    pub async fn open(&self, scopes: Vec<NamespaceScope>) -> Result<Vec<LiveView>, FeedEnded> {
        let (opened, views) = oneshot::channel();
        self.requests.send(OpenRequest { scopes, opened }).map_err(|_| FeedEnded)?;
        views.await.map_err(|_| FeedEnded)
    }
}
