//! Fully qualified names: `job::/sandbox/admin::web` is resource type, namespace, local name.
//!
//! Source: policy/resources of the original's documents. Deliberately absent: realms with templates; they belong to the
//! policy language.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Bytes of a whole name: 4 KiB keys would not fit the store's index on every engine.
pub const FQN_BYTES_MAX: usize = 512;
/// Resource types that exist. A name with another type is a mistake of the caller, not a new kind of thing.
pub const RESOURCE_TYPES: &[&str] = &[
    "audit",
    "auth",
    "binding",
    "cluster",
    "gateway",
    "job",
    "network",
    "package",
    "policy",
    "policydoc",
    "provider",
    "quota",
    "route",
    "sempiperule",
    "service",
    "stagpipe",
    "subnetpool",
];

/// Why a name was refused, with what was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FqnError {
    /// The text has no two `::`.
    #[error("\"{0}\" is not a name like job::/sandbox/admin::web")]
    Shape(String),
    /// The first part is no resource type.
    #[error("\"{got}\" is not a resource type in \"{text}\"")]
    ResourceType {
        /// What stood there.
        got: String,
        /// The whole name.
        text: String,
    },
    /// Namespaces begin with a slash and have no empty part.
    #[error("namespace \"{0}\" must begin with / and have no empty part")]
    Namespace(String),
    /// A part holds a character that no name may have.
    #[error("\"{part}\" may only hold letters, digits and - _ . @ +")]
    Characters {
        /// The part that does.
        part: String,
    },
    /// The local name is empty.
    #[error("\"{0}\" lacks the name after the second ::")]
    NoLocal(String),
    /// Longer than [`FQN_BYTES_MAX`].
    #[error("a name of {0} bytes is longer than {FQN_BYTES_MAX}")]
    TooLong(usize),
}

/// `/` or `/a/b`: begins with a slash, does not end in one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Namespace(String);

impl Namespace {
    /// The text, `/` for the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this namespace or lies below it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.0 == "/"
            || other.0 == self.0
            || (other.0.starts_with(&self.0) && other.0.as_bytes().get(self.0.len()) == Some(&b'/'))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Namespace {
    type Err = FqnError;

    fn from_str(text: &str) -> Result<Self, FqnError> {
        if text.len() > FQN_BYTES_MAX {
            return Err(FqnError::TooLong(text.len()));
        }
        let Some(path) = text.strip_prefix('/') else {
            return Err(FqnError::Namespace(text.to_owned()));
        };
        if path.is_empty() {
            return Ok(Self("/".to_owned()));
        }
        for part in path.split('/') {
            if part.is_empty() {
                return Err(FqnError::Namespace(text.to_owned()));
            }
            check_part(part)?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Namespace {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A whole name. Equality is by bytes: names are case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fqn {
    kind: String,
    namespace: Namespace,
    local: String,
}

impl Fqn {
    /// Resource type, namespace, local name; each part is checked.
    pub fn new(kind: &str, namespace: &Namespace, local: &str) -> Result<Self, FqnError> {
        format!("{kind}::{namespace}::{local}").parse()
    }

    /// `job` of `job::/a::b`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// `/a` of `job::/a::b`.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// `b` of `job::/a::b`.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }

    /// A name as people type it: whole, `/ns::local`, or the bare local name in `here`.
    pub fn resolve(kind: &str, text: &str, here: &Namespace) -> Result<Self, FqnError> {
        match text.matches("::").count() {
            0 => Self::new(kind, here, text),
            1 if text.starts_with('/') => format!("{kind}::{text}").parse(),
            _ => {
                let fqn: Self = text.parse()?;
                if fqn.kind == kind {
                    Ok(fqn)
                } else {
                    Err(FqnError::ResourceType { got: fqn.kind, text: text.to_owned() })
                }
            }
        }
    }
}

impl fmt::Display for Fqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}::{}", self.kind, self.namespace, self.local)
    }
}

impl FromStr for Fqn {
    type Err = FqnError;

    fn from_str(text: &str) -> Result<Self, FqnError> {
        if text.len() > FQN_BYTES_MAX {
            return Err(FqnError::TooLong(text.len()));
        }
        let mut parts = text.splitn(3, "::");
        let (Some(kind), Some(namespace), Some(local)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(FqnError::Shape(text.to_owned()));
        };
        if !RESOURCE_TYPES.contains(&kind) {
            return Err(FqnError::ResourceType { got: kind.to_owned(), text: text.to_owned() });
        }
        let namespace: Namespace = namespace.parse()?;
        if local.is_empty() {
            return Err(FqnError::NoLocal(text.to_owned()));
        }
        for part in local.split('/') {
            check_part(part)?;
        }
        Ok(Self { kind: kind.to_owned(), namespace, local: local.to_owned() })
    }
}

impl Serialize for Fqn {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fqn {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

fn check_part(part: &str) -> Result<(), FqnError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+');
    // `.` and `..` would walk in a path some day; no one may be called so.
    if part.is_empty() || part == "." || part == ".." || !part.chars().all(legal) {
        return Err(FqnError::Characters { part: part.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ns(text: &str) -> Namespace {
        text.parse().unwrap()
    }

    /// Goal: every short form that people type means the same name.
    #[test]
    fn short_forms_resolve() {
        let here = ns("/sandbox/admin");
        for text in ["job::/sandbox/admin::web", "/sandbox/admin::web", "web"] {
            assert_eq!(
                Fqn::resolve("job", text, &here).unwrap().to_string(),
                "job::/sandbox/admin::web"
            );
        }
        let root = Fqn::resolve("package", "/::os", &here).unwrap();
        assert_eq!((root.namespace().as_str(), root.local()), ("/", "os"));
    }

    /// Goal: a mistake is told with what was read.
    #[test]
    fn mistakes_are_named() {
        let refused = |text: &str| text.parse::<Fqn>().unwrap_err().to_string();
        assert_eq!(refused("web"), "\"web\" is not a name like job::/sandbox/admin::web");
        assert_eq!(refused("jub::/a::b"), "\"jub\" is not a resource type in \"jub::/a::b\"");
        assert_eq!(
            refused("job::a::b"),
            "namespace \"a\" must begin with / and have no empty part"
        );
        assert_eq!(
            refused("job::/a//b::c"),
            "namespace \"/a//b\" must begin with / and have no empty part"
        );
        assert_eq!(refused("job::/a::"), "\"job::/a::\" lacks the name after the second ::");
        assert_eq!(refused("job::/a::x y"), "\"x y\" may only hold letters, digits and - _ . @ +");
        assert_eq!(
            refused("job::/a::../etc"),
            "\"..\" may only hold letters, digits and - _ . @ +"
        );
        assert_eq!(
            refused(&format!("job::/a::{}", "x".repeat(600))),
            "a name of 609 bytes is longer than 512"
        );
        assert!(Fqn::resolve("job", "package::/a::b", &ns("/")).is_err());
    }

    /// Goal: a namespace covers itself and what lies below, and no neighbour with the same beginning.
    #[test]
    fn covering_is_by_parts() {
        assert!(
            ns("/a").covers(&ns("/a")) && ns("/a").covers(&ns("/a/b")) && ns("/").covers(&ns("/x"))
        );
        assert!(!ns("/a").covers(&ns("/ab")) && !ns("/a/b").covers(&ns("/a")));
    }

    proptest! {
        /// Goal: text of a name, read back, is the name; reading never panics.
        #[test]
        fn display_reads_back(kind in 0..RESOURCE_TYPES.len(), ns in "(/[a-z0-9.@-]{1,8}){0,3}", local in "[A-Za-z0-9_+-]{1,12}", junk in ".{0,40}") {
            let namespace: Namespace = if ns.is_empty() { "/".parse().unwrap() } else {
                match ns.parse() { Ok(ns) => ns, Err(_) => return Ok(()) }
            };
            let fqn = Fqn::new(RESOURCE_TYPES[kind], &namespace, &local).unwrap();
            prop_assert_eq!(fqn.to_string().parse::<Fqn>().unwrap(), fqn);
            drop(junk.parse::<Fqn>());
        }
    }
}
