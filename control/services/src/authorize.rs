//! The one question in front of every action: may this principal do this to that?
//!
//! Today every principal that the server knows may do everything. Deliberately absent: policy. It comes as an engine
//! behind this one function; callers already name the action and the resource, and already expect a refusal.

use wire::{ApiError, Fqn};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// As tokens and records name it.
    pub name: String,
}

impl Principal {
    /// A principal by name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// See it.
    Read,
    /// Make it.
    Create,
    /// Change it.
    Update,
    /// Start it, or start it anew.
    Start,
    /// Stop it, or one instance of it.
    Stop,
    /// Remove it.
    Delete,
}

impl Action {
    /// The word of the claim that permits it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Update => "update",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
        }
    }
}

/// Refuses with the claims that are missing.
#[expect(clippy::result_large_err, reason = "a refusal is rare, and is the answer's body")]
pub fn authorize(who: &Principal, action: Action, what: &Fqn) -> Result<(), ApiError> {
    tracing::trace!(principal = %who.name, action = action.as_str(), resource = %what, "permitted");
    Ok(())
}

/// The cluster itself, for actions on instance managers and routers.
#[must_use]
pub fn cluster() -> Fqn {
    "cluster::/::cluster".parse().expect("a name that is legal as it stands")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a known principal may do everything, and the words are those of the claims.
    #[test]
    fn everybody_known_may_everything() {
        let admin = Principal::new("admin");
        let words = [
            Action::Read,
            Action::Create,
            Action::Update,
            Action::Start,
            Action::Stop,
            Action::Delete,
        ]
        .map(|action| {
            assert_eq!(authorize(&admin, action, &cluster()), Ok(()));
            action.as_str()
        });
        assert_eq!(words, ["read", "create", "update", "start", "stop", "delete"]);
    }
}
