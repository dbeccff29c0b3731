//! The ways in which requests are smuggled past proxies, each against a recording origin.
//!
//! The rule for all of them: nothing invalid reaches the origin, the origin sees no more requests than the table says,
//! and the next client gets its own answer. `requests.rs` holds the attacks of clients and `judge.rs` plays them; `responses.rs` holds those of origins.
//! Deliberately absent: what only costs (slow heads, floods); see `e2e/limits.rs` and `faults`.

mod judge;
mod requests;
mod responses;
