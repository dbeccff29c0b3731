//! Harness of the end-to-end tests: a router process, recording origins, raw clients, certificates, deadlines; and a
//! real nats-server and PostgreSQL, which the tests of `bus` and `store` use too.
//!
//! Both ends are plain sockets and threads, so that a test sees the very bytes that the router wrote to an origin
//! and to a client. Nothing here sleeps for a fixed time: a test waits for an event, with a generous deadline.
//! Everything binds port 0 (or a port that it holds, see [`port`]), lives in its own directory, and is ended by id.
//! Deliberately absent: any HTTP library, and any knowledge of the router's insides; `tests/*.rs` hold the tests.

pub mod admin;
pub mod body;
pub mod certificate;
pub mod client;
pub mod cluster;
pub mod config;
pub mod message;
pub mod nats;
pub mod origin;
pub mod peer;
pub mod port;
pub mod postgres;
pub mod process;
pub mod router;
pub mod server;
pub mod tool;
pub mod wait;
pub mod wire;

pub use admin::Admin;
pub use certificate::{Authority, Certificate};
pub use client::{Client, End, TlsClient};
pub use config::Config;
pub use message::{Fields, Framing, Request, Response};
pub use nats::Nats;
pub use origin::{Exchange, Origin};
pub use port::HeldPort;
pub use postgres::Postgres;
pub use router::Router;
pub use server::Server;
pub use wait::{DEADLINE, until, until_some};
