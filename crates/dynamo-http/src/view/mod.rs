//! The models that are there, and the models that each scope sees.
//!
//! A view has facts only. The connections to a server and its load belong to the reader of a view,
//! so two readers of one switchboard share the facts and nothing else.

mod change;
mod departed;
mod draft;
mod gate;
mod lens;
mod live;
mod model;
mod names;
mod scopes;
mod switchboard;
#[expect(clippy::module_inception, reason = "the file's subject is the view itself")]
mod view;

pub use self::change::RouteChange;
pub use self::gate::{Gate, GateLayer, gate};
pub use self::lens::{Lens, Sight};
pub(crate) use self::live::WeakLiveView;
pub use self::live::{LiveView, WriterGone};
pub(crate) use self::model::Lineage;
pub use self::model::Model;
pub use self::names::{InvalidModelNames, ModelNames};
pub(crate) use self::scopes::OpenRequest;
pub use self::scopes::{FeedEnded, Scopes};
pub use self::switchboard::{Staged, Switchboard, SwitchboardWriter, update_http_endpoints};
pub use self::view::View;
