//! Schemas of values that travel as plain text.
//!
//! Deliberately absent: schemas of records; they are derived.

use crate::digest::Digest;
use crate::{Fqn, Timestamp};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

fn text(description: &str, example: &str, format: Option<KnownFormat>) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .format(format.map(SchemaFormat::KnownFormat))
        .examples([serde_json::Value::from(example)])
        .into()
}

impl PartialSchema for Fqn {
    fn schema() -> RefOr<Schema> {
        text("Resource type, namespace, local name", "job::/sandbox/admin::web", None)
    }
}
impl ToSchema for Fqn {}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        text("RFC 3339, UTC", "2026-05-04T12:00:01.5Z", Some(KnownFormat::DateTime))
    }
}
impl ToSchema for Timestamp {}

impl PartialSchema for Digest {
    fn schema() -> RefOr<Schema> {
        text("128 bits, hexadecimal", "0", None)
    }
}
impl ToSchema for Digest {}
