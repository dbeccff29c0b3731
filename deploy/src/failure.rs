//! Why the program ends: what, why, try; never a trace.
//!
//! Deliberately absent: errors of running services; they are logged and retried by themselves.

use std::fmt;

/// Exit code for a command line or a file that makes no sense.
const USAGE: u8 = 2;

/// What happened, why, and what to try.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    why: String,
    remedy: String,
    usage: bool,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { what: what.into(), why: why.to_string(), remedy: String::new(), usage: false }
    }

    pub(crate) fn hint(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    pub(crate) const fn usage(mut self) -> Self {
        self.usage = true;
        self
    }

    pub(crate) const fn exit_code(&self) -> u8 {
        if self.usage { USAGE } else { 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n  why: {}", self.why)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n  try: {}", self.remedy)?;
        }
        Ok(())
    }
}
