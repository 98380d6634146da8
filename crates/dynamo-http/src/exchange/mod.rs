//! HTTP/1.1 towards a worker: one exchange at a time over one connection.
//!
//! A connection that waits keeps no buffer for reading. Each thread has one that every read goes into,
//! and what came is copied out of it. What is a head, a header or the size of a chunk is for httparse to
//! say; where a message begins and ends is said here, as in RFC 9112.

mod connection;
mod error;
mod framing;
mod head;
mod request;

pub(crate) use self::connection::Connection;
pub(crate) use self::error::Error;
pub(crate) use self::request::{Own, Request};
