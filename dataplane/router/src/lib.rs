//! Router library.
