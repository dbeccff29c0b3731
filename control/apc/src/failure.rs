//! What goes wrong, as the user reads it: what, why, what to try; and the exit code.
//!
//! ```text
//! Error: error creating job: Route app.example.com https-only flag conflict
//!   why: job::/sandbox/admin::app1 has it with https-only
//!   try: add --https-only, or another endpoint
//! ```
//!
//! The first line stands as the original printed it. Deliberately absent: stack traces.

use wire::{ApiError, ErrorCode};

/// What a script may ask of this program. Listed in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Refused, or tried and failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such thing.
    NotFound = 3,
    /// Somebody else was first.
    Conflict = 4,
    /// Not allowed, or not logged in.
    Denied = 5,
    /// Not done in time; it goes on.
    TimedOut = 6,
    /// The cluster does not answer.
    Unreachable = 7,
}

/// The codes for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed
  2  the command line makes no sense
  3  not found
  4  conflict: taken, or changed by somebody else
  5  denied, or not logged in
  6  not done in time; it goes on
  7  the cluster does not answer";

/// An error on its way to the user.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    /// One sentence.
    pub(crate) what: String,
    /// Why; empty if nothing more is known.
    pub(crate) why: String,
    /// What to try; empty if there is no good advice.
    pub(crate) remedy: String,
    /// The code of the program.
    pub(crate) exit: Exit,
    /// What the API said, for `--json`.
    pub(crate) api: Option<Box<ApiError>>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { what: what.into(), why: String::new(), remedy: String::new(), exit, api: None }
    }

    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, what)
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, what)
    }

    /// With the reason.
    pub(crate) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// With what to try.
    pub(crate) fn hint(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// With what was being done, in front: `error creating job: …`. The API says so itself of conflicts.
    pub(crate) fn while_doing(mut self, doing: &str) -> Self {
        if !self.what.starts_with("error ") {
            self.what = format!("error {doing}: {}", self.what);
        }
        self
    }

    /// Whether the API said that the job must be restarted for this change.
    pub(crate) fn requires_restart(&self) -> bool {
        self.api.as_ref().is_some_and(|api| api.requires_restart)
    }

    /// What the API said, in one word.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        self.api.as_ref().map(|api| api.error)
    }

    /// The lines for the screen, each with its end.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("Error: {}\n", one_line(&self.what));
        for (label, line) in [("why", &self.why), ("try", &self.remedy)] {
            if !line.is_empty() {
                text += &format!("  {label}: {}\n", one_line(line));
            }
        }
        text
    }
}

/// A terminal must not be steered by a text that came over the network, and each part is one line.
fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

impl From<ApiError> for Failure {
    fn from(api: ApiError) -> Self {
        let exit = match api.error {
            ErrorCode::Invalid
            | ErrorCode::TooLarge
            | ErrorCode::Mismatch
            | ErrorCode::Internal => Exit::Failed,
            ErrorCode::Unauthenticated | ErrorCode::Denied => Exit::Denied,
            ErrorCode::NotFound => Exit::NotFound,
            ErrorCode::Conflict | ErrorCode::RequiresRestart => Exit::Conflict,
            ErrorCode::TimedOut => Exit::TimedOut,
            ErrorCode::Unavailable => Exit::Unreachable,
        };
        let mut failure = Self::new(exit, api.message.clone());
        failure.why.clone_from(&api.why);
        failure.remedy.clone_from(&api.remedy);
        if failure.remedy.is_empty() {
            match api.error {
                ErrorCode::Unauthenticated => "apc login".clone_into(&mut failure.remedy),
                ErrorCode::Internal if !api.request_id.is_empty() => {
                    failure.remedy =
                        format!("look for request {} in the server's log", api.request_id);
                }
                ErrorCode::Unavailable => {
                    "the same again in a moment".clone_into(&mut failure.remedy)
                }
                _ => {}
            }
        }
        failure.api = Some(Box::new(api));
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the conflict text is the documented one; why and try follow on lines of their own.
    #[test]
    fn the_three_line_form() {
        let api =
            ApiError::new(ErrorCode::Conflict, "Route app.example.com https-only flag conflict")
                .because("job::/sandbox/admin::app1 has it with https-only")
                .hint("add --https-only");
        let failure = Failure::from(api).while_doing("creating job");
        assert_eq!(
            failure.render(),
            "Error: error creating job: Route app.example.com https-only flag conflict\n  \
             why: job::/sandbox/admin::app1 has it with https-only\n  try: add --https-only\n"
        );
        assert_eq!(failure.exit as i32, 4);
    }

    /// Goal: every kind of error has its code.
    #[test]
    fn codes() {
        let codes = [
            (ErrorCode::Invalid, 1),
            (ErrorCode::Unauthenticated, 5),
            (ErrorCode::Denied, 5),
            (ErrorCode::NotFound, 3),
            (ErrorCode::Conflict, 4),
            (ErrorCode::RequiresRestart, 4),
            (ErrorCode::TooLarge, 1),
            (ErrorCode::Mismatch, 1),
            (ErrorCode::Unavailable, 7),
            (ErrorCode::TimedOut, 6),
            (ErrorCode::Internal, 1),
        ];
        for (code, exit) in codes {
            assert_eq!(Failure::from(ApiError::new(code, "x")).exit as i32, exit, "{code:?}");
        }
    }

    /// Goal: a text from the network cannot steer the terminal, nor add lines.
    #[test]
    fn no_escape_and_no_second_line() {
        let failure = Failure::failed("a\nb \u{1b}[2Jc");
        assert_eq!(failure.render(), "Error: a b [2Jc\n");
    }
}
