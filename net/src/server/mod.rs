//! The serving side of a connection.

mod connection;
mod listener;
mod places;
mod tls;

pub use connection::Connection;
pub use listener::Listener;
pub use tls::{ServerTls, TlsFiles};
