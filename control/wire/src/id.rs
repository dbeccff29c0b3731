//! Identities: UUIDs that cannot be mistaken for one another.
//!
//! Deliberately absent: a way to make one from nothing here at random; the caller brings the `Uuid`, because randomness
//! comes through a seam.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The first eight characters, as log lines and tables show it.
            #[must_use]
            pub fn short(self) -> String {
                let mut text = self.0.simple().to_string();
                text.truncate(8);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// One job, for its whole life.
    JobId
);
id!(
    /// One running copy of a job.
    InstanceId
);
id!(
    /// One package.
    PackageId
);
id!(
    /// One instance manager; kept in its state directory, so that it survives a restart.
    ImId
);
id!(
    /// One router process; new at every start.
    RouterId
);
id!(
    /// One long piece of work that a caller may watch.
    TaskId
);
