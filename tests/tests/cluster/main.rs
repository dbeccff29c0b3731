//! The cluster as its users meet it: the documents' own commands on one machine, many processes over real servers, and
//! faults under a load whose every answer is checked.
//!
//! Deliberately absent: the insides; each crate tests its own.

mod faults;
mod many;
mod seeds;
mod single;
