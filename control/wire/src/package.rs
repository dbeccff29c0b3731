//! A package: JSON metadata and binary resources, which are addressed by their content.
//!
//! Deliberately absent: dependency resolution and staging.

use crate::job::Extra;
use crate::{Fqn, PackageId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Metadata of a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Package {
    /// Nil in a request to create.
    #[serde(default = "nil")]
    pub uuid: PackageId,
    /// `package::/ns::name`.
    pub fqn: Fqn,
    /// The local part of `fqn`.
    #[serde(default)]
    pub name: String,
    /// Where it stands.
    #[serde(default)]
    pub state: PackageState,
    /// What it needs; kept, not yet resolved.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    /// What it is good for; kept, not yet resolved.
    #[serde(default)]
    pub provides: Vec<Dependency>,
    /// Added to the environment of jobs that use it.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Its contents.
    #[serde(default)]
    pub resources: Vec<Resource>,
    /// Free text marks.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_message: String,
    /// Principal; set by the server.
    #[serde(default)]
    pub created_by: String,
    /// Set by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Set by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// Counts writes.
    #[serde(default)]
    pub version_id: u64,
    /// What a newer program put there.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub extra: Extra,
}

const fn nil() -> PackageId {
    PackageId(Uuid::nil())
}

/// Where a package stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PackageState {
    /// Metadata is there, resources are not.
    Uploading,
    /// Being built.
    Staging,
    /// Could not be built.
    Failed,
    /// May be used.
    Ready,
    /// Gone.
    Deleted,
    /// Not known.
    #[default]
    Unknown,
}

impl PackageState {
    /// The word in records and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Staging => "staging",
            Self::Failed => "failed",
            Self::Ready => "ready",
            Self::Deleted => "deleted",
            Self::Unknown => "unknown",
        }
    }
}

/// `os`, `runtime`, `package` or `file`, and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Dependency {
    /// Kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name.
    pub name: String,
}

/// One binary part of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resource {
    /// Which.
    pub uuid: Uuid,
    /// `sha256:` and 64 hexadecimal digits; it is also the name in the object store.
    pub digest: String,
    /// The same content as the original writes it, `sha1:` and 40 digits; for old clients.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha1: String,
    /// Bytes.
    pub length: u64,
}
