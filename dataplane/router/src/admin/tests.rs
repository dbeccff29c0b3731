//! The API over a real hub, without cores.
