//! Jobs: reading them, one or many, with the counts that the health manager has.
//!
//! Lists go along the names, which are kept in order, and read only the records that an answer needs. Deliberately
//! absent: changes (`write.rs`), and instances.

mod auto;
mod draft;
pub(super) mod instances;
pub(super) mod routes;
pub(super) mod write;

use super::list::{PAGE_MAX, Part, tagged};
use super::received::{At, Params};
use super::respond::{Answer, Failure, json, set};
use super::seen;
use super::state::Shared;
use crate::authorize::{Action, Principal, authorize};
use crate::jobs::{NAMES, decode, job_key, name_key};
use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::pin::pin;
use wire::job::JobHealth;
use wire::{ErrorCode, Fqn, Job, JobId, Namespace, PackageId};

/// Bytes of records in one answer.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Records that are read at once.
const READS_AT_ONCE: usize = 32;

/// Which jobs, and which part of the list.
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
    /// Jobs that use this package.
    #[param(value_type = Option<uuid::Uuid>)]
    package_id: Option<PackageId>,
    /// Whether to add counts of instances; yes when it is not said.
    health: Option<bool>,
    /// Jobs in a page, at most 1000.
    count: Option<usize>,
    /// 1, 2, 3 …
    page: Option<usize>,
}

/// A query that was understood.
struct Query {
    prefix: String,
    exact: Option<Fqn>,
    begins: Option<String>,
    namespace: Option<Namespace>,
    name: Option<String>,
    tag: Option<String>,
    package: Option<PackageId>,
    part: Part,
}

impl Query {
    fn new(params: &ListParams) -> Result<Self, Failure> {
        let invalid =
            |mistake: wire::FqnError| Failure::new(ErrorCode::Invalid, mistake.to_string());
        let namespace: Option<Namespace> =
            params.namespace.as_deref().map(str::parse).transpose().map_err(invalid)?;
        let mut exact = None;
        let mut prefix =
            namespace.as_ref().map_or_else(|| "job::".to_owned(), |ns| format!("job::{ns}"));
        let mut begins = None;
        match &params.fqn {
            Some(fqn) if params.match_partial_fqn => {
                // What is no job has a record of another shape behind its name.
                if fqn.starts_with("job::") {
                    prefix.clone_from(fqn);
                }
                begins = Some(fqn.clone());
            }
            Some(fqn) => exact = Some(fqn.parse().map_err(invalid)?),
            None => {}
        }
        Ok(Self {
            prefix: format!("{NAMES}{prefix}"),
            exact,
            begins,
            namespace,
            name: params.name.clone(),
            tag: params.tag.clone(),
            package: params.package_id,
            part: Part::new(params.count, params.page),
        })
    }

    fn wants_name(&self, fqn: &Fqn) -> bool {
        self.exact.as_ref().is_none_or(|exact| exact == fqn)
            && self.begins.as_ref().is_none_or(|begins| fqn.to_string().starts_with(begins))
            && self.namespace.as_ref().is_none_or(|ns| ns.covers(fqn.namespace()))
            && self.name.as_ref().is_none_or(|name| name == fqn.local())
    }

    /// Whether a name is not enough to decide.
    const fn needs_record(&self) -> bool {
        self.tag.is_some() || self.package.is_some()
    }

    fn wants_record(&self, job: &Job) -> bool {
        let uses = |package: PackageId| job.packages.iter().any(|used| used.uuid == package);
        self.tag.as_ref().is_none_or(|tag| tagged(&job.tags, tag)) && self.package.is_none_or(uses)
    }
}

/// A page of a list while it is gathered.
#[derive(Default)]
struct Page {
    jobs: Vec<Job>,
    skipped: usize,
    bytes: usize,
    more: bool,
}

/// All jobs, or those that the parameters name, in the order of their names.
#[utoipa::path(get, path = "/jobs", tag = "jobs", params(ListParams),
    responses((status = 200, description = "`Next` and `Prev` name the neighbouring pages", body = [Job])))]
pub(super) async fn list(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    uri: Uri,
    Params(params): Params<ListParams>,
) -> Answer {
    let query = Query::new(&params)?;
    let mut page = Page::default();
    if let Some(ids) = &params.ids {
        let ids = job_ids(ids)?;
        gather(&api, &who, &query, &ids, &mut page).await?;
    } else if let Some(fqn) = &query.exact {
        let found = api.store.get(&name_key(fqn)).await?;
        let ids: Vec<_> = found.iter().filter_map(job_of_name).collect();
        gather(&api, &who, &query, &ids, &mut page).await?;
    } else {
        scan(&api, &who, &query, &mut page).await?;
    }
    if params.health != Some(false) {
        seen::add_health(&api, &mut page.jobs).await;
    }
    Ok(query.part.answer("jobs", &uri, &page.jobs, page.more))
}

async fn scan(
    api: &Shared,
    who: &Principal,
    query: &Query,
    page: &mut Page,
) -> Result<(), Failure> {
    let mut pages = api.store.pages(&query.prefix);
    while let Some(listing) = pages.next().await? {
        let ids: Vec<_> = listing
            .records
            .iter()
            .filter(|record| fqn_of_name(record).is_some_and(|fqn| query.wants_name(&fqn)))
            .filter_map(job_of_name)
            .collect();
        gather(api, who, query, &ids, page).await?;
        if page.more {
            break;
        }
    }
    Ok(())
}

/// Reads the records behind `ids` as far as the page needs them.
async fn gather(
    api: &Shared,
    who: &Principal,
    query: &Query,
    ids: &[JobId],
    page: &mut Page,
) -> Result<(), Failure> {
    let Part { take, .. } = query.part;
    let to_skip = query.part.skip();
    let mut ids = ids;
    if !query.needs_record() {
        let skip = (to_skip - page.skipped).min(ids.len());
        page.skipped += skip;
        ids = &ids[skip..];
    }
    // Owned parts, so that the compiler sees futures of one type that may move between threads.
    let keys: Vec<String> = ids.iter().map(|id| job_key(*id)).collect();
    let reads = keys.into_iter().map(|key| {
        let store = api.store.clone();
        async move { store.get(&key).await }
    });
    let mut records = pin!(stream::iter(reads).buffered(READS_AT_ONCE));
    while let Some(record) = records.next().await {
        // A job that went between the two reads is not in the list.
        let Some(record) = record? else { continue };
        let job = decode(&record)?;
        if !query.wants_name(&job.fqn)
            || !query.wants_record(&job)
            || authorize(who, Action::Read, &job.fqn).is_err()
        {
            continue;
        }
        if page.skipped < to_skip {
            page.skipped += 1;
            continue;
        }
        if page.jobs.len() == take {
            page.more = true;
            return Ok(());
        }
        page.bytes += record.value.len();
        if page.bytes > PAGE_BYTES_MAX {
            let message = format!("{take} jobs are too much for one answer");
            return Err(Failure::new(ErrorCode::TooLarge, message).hint("a smaller count="));
        }
        page.jobs.push(job);
    }
    Ok(())
}

fn fqn_of_name(record: &store::Record) -> Option<Fqn> {
    record.key.strip_prefix(NAMES)?.parse().ok()
}

fn job_of_name(record: &store::Record) -> Option<JobId> {
    std::str::from_utf8(&record.value).ok()?.parse().ok()
}

/// `a,b,c`; more than a page is refused.
pub(super) fn job_ids(text: &str) -> Result<Vec<JobId>, Failure> {
    let ids: Result<Vec<JobId>, _> =
        text.split(',').filter(|id| !id.is_empty()).map(|id| id.trim().parse()).collect();
    let ids = ids.map_err(|mistake| {
        Failure::new(ErrorCode::Invalid, "ids must be UUIDs with commas between them")
            .because(mistake.to_string())
    })?;
    if ids.len() > PAGE_MAX {
        let message = format!("{} ids are asked for, {PAGE_MAX} are possible", ids.len());
        return Err(Failure::new(ErrorCode::TooLarge, message));
    }
    Ok(ids)
}

/// A job's record as it is stored.
pub(super) async fn read(api: &Shared, id: JobId) -> Result<Job, Failure> {
    let record = api.store.get(&job_key(id)).await?.ok_or_else(|| no_such_job(id))?;
    Ok(decode(&record)?)
}

pub(super) fn no_such_job(id: JobId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no job {id}"))
        .hint("apc job list shows the jobs that there are")
}

/// One job.
#[utoipa::path(get, path = "/jobs/{uuid}", tag = "jobs", params(("uuid" = uuid::Uuid, Path)),
    responses((status = 200, body = Job), (status = 404, body = wire::ApiError)))]
pub(super) async fn get(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<JobId>,
) -> Answer {
    let record = api.store.get(&job_key(id)).await?.ok_or_else(|| no_such_job(id))?;
    let mut job = decode(&record)?;
    authorize(&who, Action::Read, &job.fqn)?;
    seen::add_health(&api, std::slice::from_mut(&mut job)).await;
    let mut response = json(StatusCode::OK, &job);
    set(response.headers_mut(), wire::api::REVISION, &record.revision.to_string());
    Ok(response)
}

/// Which jobs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HealthParams {
    /// UUIDs, with commas between them.
    ids: String,
}

/// Counts of instances of several jobs, by UUID. Jobs that are not there are left out.
#[utoipa::path(get, path = "/jobs/health", tag = "jobs", params(HealthParams),
    responses((status = 200, body = BTreeMap<String, JobHealth>)))]
pub(super) async fn healths(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    Params(params): Params<HealthParams>,
) -> Answer {
    let ids = job_ids(&params.ids)?;
    let query = Query::new(&ListParams::default())?;
    let mut page = Page::default();
    gather(&api, &who, &query, &ids, &mut page).await?;
    let ids: Vec<_> = page.jobs.iter().map(|job| job.uuid).collect();
    let views = seen::jobs(&api, &ids).await.map_err(seen::no_health_manager)?;
    let healths: BTreeMap<String, JobHealth> = page
        .jobs
        .iter()
        .filter_map(|job| {
            Some((job.uuid.to_string(), seen::health(job, views.jobs.get(&job.uuid)?)))
        })
        .collect();
    Ok(json(StatusCode::OK, &healths))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the beginning of a name means the same whether it reaches into the local name, ends before it, or belongs to
    /// no job.
    #[test]
    fn a_beginning_is_the_beginning_of_the_whole_name() {
        let lists = |fqn: &str| -> Vec<&str> {
            let fqn = Some(fqn.to_owned());
            let params = ListParams { fqn, match_partial_fqn: true, ..ListParams::default() };
            let query = Query::new(&params).unwrap();
            let names = ["job::/a::web", "job::/a::worker", "job::/b::web"].into_iter();
            let reached = names.filter(|name| format!("{NAMES}{name}").starts_with(&query.prefix));
            reached.filter(|name| query.wants_name(&name.parse().unwrap())).collect()
        };
        assert_eq!(lists("job::/a::w"), ["job::/a::web", "job::/a::worker"]);
        assert_eq!(lists("job::/a::we"), ["job::/a::web"]);
        assert_eq!(lists("job").len(), 3);
        assert!(lists("package::/a").is_empty());
        assert!(lists("web").is_empty());
    }
}
