//! The router as its users meet it: real sockets in front, recording origins behind, one file a subject.
//!
//! Deliberately absent: attacks (`smuggling`), failing origins (`faults`), change under load (`churn`), and foreign
//! programs (`real_clients`). Each has a test program of its own.

mod access_log;
mod admin;
mod back_pressure;
mod bodies;
mod choice;
mod drain;
mod headers;
mod idle;
mod interim;
mod keep_alive;
mod limits;
mod reload;
mod routing;
mod tcp;
mod tls;
mod upgrade;
