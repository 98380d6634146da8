//! How a control port is configured.

use dynamo_discovery::ControlUrl;
use dynamo_http::KeyHash;

/// What the user said about the control port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ControlConfig {
    /// Address to listen on; none for the host of the advertised URL.
    pub(crate) host: Option<String>,
    /// Port to listen on; 0 for a free one.
    pub(crate) port: u16,
    /// Where frontends reach it; none for the address that it listens on.
    pub(crate) advertise_url: Option<ControlUrl>,
    /// The key of those who may drain; without it nobody may.
    pub(crate) key: Option<KeyHash>,
}
