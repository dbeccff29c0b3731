//! TLS at the edge: certificates, session tickets, and one sans-I/O session for each connection.
//!
//! ```text
//!   CertificateFile ──▶ TlsStore ─────────────▶ TlsSession (one for each connection)
//!     load.rs            names.rs (SNI → key)      bytes from the socket ──▶ plaintext, bytes to send
//!                        ticket.rs (resumption)    plaintext ──▶ records
//! ```
//!
//! rustls does the protocol; what is here feeds it pages without a copy where possible, keeps no buffer while a
//! connection is idle, and keeps the identity of a session over its resumptions.
//! Deliberately absent: sockets, time-outs (the core's), client certificates, 0-RTT (a replayed request is worse
//! than a round trip), renegotiation, session caches (tickets only).

mod facts;
mod load;
mod names;
mod output;
mod session;
mod store;
#[cfg(test)]
mod tests;
mod ticket;

pub use facts::{Alpn, SessionFacts};
pub use load::{CertificateFile, TlsLoadError, TlsWarning};
pub use session::{HANDSHAKE_BYTES_MAX, TlsError, TlsOutput, TlsSession};
pub use store::{TlsOptions, TlsStore};
