//! Private servers for tests: real ones, on free ports, with their data in a temporary folder.
//!
//! A server ends with its handle, and with the test's process however that ends: its keeper ([`process`]) hears the
//! pipe from the test close. What a killed machine leaves behind in the temporary folder, the next test removes.
//!
//! [`Hub`] is none of them: nobody runs the hub's own program, so it answers from this process, over real sockets.
//!
//! All calls block; starting takes some tenths of a second. In an async test that has other tasks to run meanwhile,
//! call them in `spawn_blocking`.

pub mod folder;
pub mod hub;
pub mod port;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod s3;

pub use hub::Hub;
pub use port::Port;
pub use postgres::Postgres;
pub use redis::Redis;
pub use s3::S3;
