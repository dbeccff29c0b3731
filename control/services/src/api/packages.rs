//! Packages: their metadata, and which of them may be used.
//!
//! ```text
//!   POST ──▶ uploading ──▶ all resources are there ──▶ ready ──▶ DELETE: deleted ──▶ no job uses it ──▶ gone
//!                                                                            └──▶ a job does: as before
//! ```
//!
//! A package that is to go is marked first: a job that begins to use it checks the package's version in its own
//! transaction, so either the job is seen here or the mark is seen there. Deliberately absent: contents
//! (`resources.rs`), dependencies and staging.

use super::list::{Part, tagged};
use super::once::{Keyed, Once, Written};
use super::received::{At, Params, Sent};
use super::respond::{Answer, Failure, json};
use super::state::{Shared, decode, put};
use crate::authorize::{Action, Principal, authorize};
use crate::jobs::{JOBS, NAMES, PACKAGES, name_key, package_key};
use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use store::{Expect, StoreError, Write};
use uuid::Uuid;
use wire::api::PackageInUse;
use wire::{
    ApiError, ErrorCode, Fqn, Job, JobId, Namespace, Package, PackageId, PackageState, Timestamp,
};

/// Prefix of the way from a resource to its package.
pub(super) const RESOURCES: &str = "resources/";
/// Resources of one package.
pub(super) const RESOURCES_MAX: usize = 32;
/// How often a change is made anew because somebody else wrote at the same time.
pub(super) const ATTEMPTS_MAX: usize = 16;

/// Where a resource belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Belongs {
    pub package: PackageId,
}

pub(super) fn resource_key(id: Uuid) -> String {
    format!("{RESOURCES}{id}")
}

/// Which packages.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// The whole name; with `matchPartialFQN` its beginning.
    fqn: Option<String>,
    /// Whether `fqn` is only a beginning.
    #[serde(rename = "matchPartialFQN", default)]
    match_partial_fqn: bool,
    /// The local name.
    name: Option<String>,
    /// `key` or `key:value` of a tag.
    tag: Option<String>,
    /// This namespace and those below it.
    namespace: Option<String>,
    /// UUIDs, with commas between them.
    ids: Option<String>,
    /// Packages in a page, at most 1000.
    count: Option<usize>,
    /// 1, 2, 3 …
    page: Option<usize>,
}

impl ListParams {
    fn wants(
        &self,
        package: &Package,
        namespace: Option<&Namespace>,
        ids: Option<&BTreeSet<PackageId>>,
    ) -> bool {
        let fqn = package.fqn.to_string();
        let named = self.fqn.as_ref().is_none_or(|wanted| {
            if self.match_partial_fqn { fqn.starts_with(wanted) } else { fqn == *wanted }
        });
        named
            && self.tag.as_ref().is_none_or(|tag| tagged(&package.tags, tag))
            && self.name.as_ref().is_none_or(|name| name == package.fqn.local())
            && namespace.is_none_or(|ns| ns.covers(package.fqn.namespace()))
            && ids.is_none_or(|ids| ids.contains(&package.uuid))
    }
}

/// All packages, or those that the parameters name, in the order of their names.
#[utoipa::path(get, path = "/packages", tag = "packages", params(ListParams),
    responses((status = 200, description = "`Next` and `Prev` name the neighbouring pages", body = [Package])))]
pub(super) async fn list(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    uri: Uri,
    Params(params): Params<ListParams>,
) -> Answer {
    let invalid = |mistake: wire::FqnError| Failure::new(ErrorCode::Invalid, mistake.to_string());
    let namespace = params.namespace.as_deref().map(str::parse).transpose().map_err(invalid)?;
    let ids = params.ids.as_deref().map(super::jobs::job_ids).transpose()?;
    let ids: Option<BTreeSet<_>> =
        ids.map(|ids| ids.into_iter().map(|JobId(id)| PackageId(id)).collect());
    let mut all = Vec::new();
    let mut pages = api.store.pages(PACKAGES);
    while let Some(page) = pages.next().await? {
        for record in &page.records {
            let package = current(record)?;
            if params.wants(&package, namespace.as_ref(), ids.as_ref())
                && authorize(&who, Action::Read, &package.fqn).is_ok()
            {
                all.push(package);
            }
        }
    }
    all.sort_by(|a, b| a.fqn.cmp(&b.fqn));
    let part = Part::new(params.count, params.page);
    let rest = all.get(part.skip()..).unwrap_or_default();
    let page = &rest[..rest.len().min(part.take)];
    Ok(part.answer("packages", &uri, page, rest.len() > part.take))
}

/// A package record; the store counts the writes.
pub(super) fn current(record: &store::Record) -> Result<Package, Failure> {
    let mut package: Package = decode(record)?;
    package.version_id = record.version;
    Ok(package)
}

pub(super) async fn read(api: &Shared, id: PackageId) -> Result<Package, Failure> {
    let record = api.store.get(&package_key(id)).await?.ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, format!("there is no package {id}"))
            .hint("apc package list shows the packages that there are")
    })?;
    current(&record)
}

/// One package.
#[utoipa::path(get, path = "/packages/{uuid}", tag = "packages", params(("uuid" = uuid::Uuid, Path)),
    responses((status = 200, body = Package), (status = 404, body = ApiError)))]
pub(super) async fn get(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<PackageId>,
) -> Answer {
    let package = read(&api, id).await?;
    authorize(&who, Action::Read, &package.fqn)?;
    Ok(json(StatusCode::OK, &package))
}

/// Creates a package. Its contents come after, or are there already when their digests are given.
#[utoipa::path(post, path = "/packages", tag = "packages", request_body = Package,
    responses((status = 201, description = "`Location` names the package", body = Package), (status = 409, body = ApiError)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    once: Once,
    sent: Sent<Package>,
) -> Answer {
    let mut keyed = once.of(&who, &sent.raw);
    let mut package = sent.value;
    authorize(&who, Action::Create, &package.fqn)?;
    check(&package)?;
    let now = Timestamp::from_unix_ms(api.now_ms());
    package.uuid = PackageId(api.uuid());
    package.fqn.local().clone_into(&mut package.name);
    package.created_by.clone_from(&who.name);
    (package.created_at, package.updated_at) = (Some(now), Some(now));
    package.version_id = 1;
    package.error_message.clear();
    package.state = PackageState::Uploading;
    for resource in &mut package.resources {
        if resource.uuid.is_nil() {
            resource.uuid = api.uuid();
        }
    }
    if !package.resources.is_empty() && super::resources::all_there(&api, &package).await? {
        package.state = PackageState::Ready;
    }
    let id = package.uuid;
    let mut answer = Written::new(StatusCode::CREATED, &package)?;
    answer.location = Some(format!("/v1/packages/{id}"));
    let name = id.to_string().into_bytes().into();
    let mut writes = vec![
        Write::Put { key: name_key(&package.fqn), value: name, expect: Expect::Absent },
        put(package_key(id), &package, Expect::Absent)?,
    ];
    for resource in &package.resources {
        let key = resource_key(resource.uuid);
        writes.push(put(key, &Belongs { package: id }, Expect::Absent)?);
    }
    once_only(&api, &mut keyed, writes, answer, |key| {
        if key.starts_with(NAMES) {
            let message = format!("error creating package: {} already exists", package.fqn);
            let mut error = ApiError::new(ErrorCode::Conflict, message).hint("another name");
            error.duplicate_key = true;
            return error.into();
        }
        Failure::new(ErrorCode::Conflict, "a resource with this UUID belongs to another package")
            .hint("leave the UUIDs of resources to the server")
    })
    .await
}

/// Commits once, or gives the first answer again.
async fn once_only(
    api: &Shared,
    keyed: &mut Keyed,
    writes: Vec<Write>,
    answer: Written,
    conflict: impl FnOnce(&str) -> Failure,
) -> Answer {
    for _ in 0..ATTEMPTS_MAX {
        if let Some((response, _)) = keyed.replay(api).await? {
            return Ok(response);
        }
        let mut writes = writes.clone();
        writes.extend(keyed.write(api, &answer)?);
        match api.store.commit(&writes).await {
            Ok(revision) => return Ok(answer.at(revision)),
            Err(StoreError::Conflict { key, .. }) if keyed.is_mine(&key) => {}
            // The same request may have had its effect just now, and be what is in the way.
            Err(StoreError::Conflict { key, .. }) => {
                return match keyed.replay(api).await? {
                    Some((response, _)) => Ok(response),
                    None => Err(conflict(&key)),
                };
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(ErrorCode::Conflict, "too many others make the same request"))
}

fn check(package: &Package) -> Result<(), Failure> {
    if package.fqn.kind() != "package" {
        let message = format!("{} is not the name of a package", package.fqn);
        return Err(Failure::new(ErrorCode::Invalid, message)
            .hint("a name like package::/sandbox/admin::web"));
    }
    if !package.name.is_empty() && package.name != package.fqn.local() {
        let message = format!("name is \"{}\", but fqn is {}", package.name, package.fqn);
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    if package.resources.len() > RESOURCES_MAX {
        let (count, max) = (package.resources.len(), RESOURCES_MAX);
        let message = format!("a package may have {max} resources, not {count}");
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    for resource in &package.resources {
        if super::resources::sha256_of(&resource.digest).is_none() {
            let message = format!("digest \"{}\" is not understood", resource.digest);
            return Err(
                Failure::new(ErrorCode::Invalid, message).hint("sha256: and 64 hexadecimal digits")
            );
        }
    }
    Ok(())
}

/// Replaces what a client may say about a package: environment, tags, dependencies. Contents stay as they are.
#[utoipa::path(put, path = "/packages/{uuid}", tag = "packages", params(("uuid" = uuid::Uuid, Path)), request_body = Package,
    responses((status = 200, body = Package), (status = 404, body = ApiError), (status = 409, body = ApiError)))]
pub(super) async fn update(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<PackageId>,
    once: Once,
    sent: Sent<Package>,
) -> Answer {
    let mut keyed = once.of(&who, &sent.raw);
    if let Some((response, _)) = keyed.replay(&api).await? {
        return Ok(response);
    }
    let old = read(&api, id).await?;
    authorize(&who, Action::Update, &old.fqn)?;
    let mut new = sent.value;
    if new.version_id != old.version_id {
        return Err(stale(&old.fqn, old.version_id, new.version_id));
    }
    if new.fqn != old.fqn {
        let message = format!("{} cannot be renamed", old.fqn);
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    let sent_version = new.version_id;
    new.uuid = id;
    new.name.clone_from(&old.name);
    new.state = old.state;
    new.resources.clone_from(&old.resources);
    new.error_message.clone_from(&old.error_message);
    new.created_by.clone_from(&old.created_by);
    new.created_at = old.created_at;
    new.updated_at = Some(Timestamp::from_unix_ms(api.now_ms()));
    new.version_id = old.version_id + 1;
    let answer = Written::new(StatusCode::OK, &new)?;
    let writes = vec![put(package_key(id), &new, Expect::Version(sent_version))?];
    once_only(&api, &mut keyed, writes, answer, |_| {
        stale(&old.fqn, old.version_id + 1, sent_version)
    })
    .await
}

fn stale(fqn: &Fqn, found: u64, sent: u64) -> Failure {
    let message = format!("{fqn} is at version {found}, the request changes version {sent}");
    Failure::new(ErrorCode::Conflict, message).hint("read the package again and repeat the change")
}

/// Removes a package that no job uses.
#[utoipa::path(delete, path = "/packages/{uuid}", tag = "packages", params(("uuid" = uuid::Uuid, Path)),
    responses((status = 204), (status = 404, body = ApiError), (status = 409, description = "A job uses it", body = ApiError)))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<PackageId>,
    once: Once,
) -> Answer {
    let mut keyed = once.of(&who, b"");
    if let Some((response, _)) = keyed.replay(&api).await? {
        return Ok(response);
    }
    let mut package = read(&api, id).await?;
    authorize(&who, Action::Delete, &package.fqn)?;
    let before = package.state;
    let moved = |fqn: &Fqn| {
        Failure::new(ErrorCode::Conflict, format!("somebody else changes {fqn} at the same time"))
            .hint("try again")
    };
    let version = package.version_id;
    package.state = PackageState::Deleted;
    package.version_id = version + 1;
    let mark = put(package_key(id), &package, Expect::Version(version))?;
    commit_or(&api, &[mark], || moved(&package.fqn)).await?;
    let users = users(&api, id).await?;
    if !users.is_empty() {
        package.state = if before == PackageState::Deleted { PackageState::Ready } else { before };
        package.version_id = version + 2;
        let back = put(package_key(id), &package, Expect::Version(version + 1))?;
        commit_or(&api, &[back], || moved(&package.fqn)).await?;
        return Err(in_use(&package, users));
    }
    let answer = Written::empty();
    let mut writes = vec![
        Write::Delete { key: package_key(id), expect: Expect::Version(version + 1) },
        Write::Delete { key: name_key(&package.fqn), expect: Expect::Any },
    ];
    for resource in &package.resources {
        writes.push(Write::Delete { key: resource_key(resource.uuid), expect: Expect::Any });
    }
    writes.extend(keyed.write(&api, &answer)?);
    let revision = commit_or(&api, &writes, || moved(&package.fqn)).await?;
    Ok(answer.at(revision))
}

async fn commit_or(
    api: &Shared,
    writes: &[Write],
    conflict: impl FnOnce() -> Failure,
) -> Result<u64, Failure> {
    match api.store.commit(writes).await {
        Err(StoreError::Conflict { .. }) => Err(conflict()),
        other => Ok(other?),
    }
}

fn in_use(package: &Package, jobs: Vec<Job>) -> Failure {
    let names: Vec<_> = jobs.iter().take(3).map(|job| job.fqn.to_string()).collect();
    let more = if jobs.len() > names.len() { " and others" } else { "" };
    let message = format!("{} is used by {}{more}", package.fqn, names.join(", "));
    let mut error = ApiError::new(ErrorCode::Conflict, message).hint("delete these jobs first");
    let jobs = jobs.into_iter().map(|job| job.uuid).collect();
    error.error_details = serde_json::to_value(PackageInUse { package: package.uuid, jobs }).ok();
    error.into()
}

async fn users(api: &Shared, package: PackageId) -> Result<Vec<Job>, Failure> {
    let mut users = Vec::new();
    let mut pages = api.store.pages(JOBS);
    while let Some(page) = pages.next().await? {
        for record in &page.records {
            let job = crate::jobs::decode(record)?;
            if job.packages.iter().any(|used| used.uuid == package) {
                users.push(job);
            }
        }
    }
    Ok(users)
}
