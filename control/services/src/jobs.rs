//! What a job record may say, and what a change of it means.
//!
//! Pure, and shared by the API server, which writes what users want, and the job manager, which writes what became of
//! it. `guards.rs` turns a change into the writes of one transaction. Deliberately absent: reading and writing, and the
//! choice of `auto` endpoints, which needs random numbers and free ports.

#![expect(
    clippy::result_large_err,
    reason = "refusals are rare, and what a user reads may be long"
)]

mod guards;
mod limits;

#[cfg(test)]
mod tests;

pub use guards::{
    Conflict, Deleted, Endpoints, Guard, Guards, JOB_HEALTH, check, conflict_on, create, delete,
    endpoints, guard_keys, set_state, tcp_ports_taken, update,
};
pub use limits::*;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use wire::job::{Affinity, Job, Port, Process, RestartMode, Route, RouteKind};
use wire::{ApiError, ErrorCode, Fqn, JobId, JobState, PackageId};

/// Prefix of job records.
pub const JOBS: &str = "jobs/";
/// Prefix of names of jobs and packages.
pub const NAMES: &str = "names/";
/// Prefix of guards.
pub const ENDPOINTS: &str = "endpoints/";
/// Prefix of the marks that deleted jobs leave, until no instance of them can be left.
pub const DELETED: &str = "deleted/";
/// Prefix of package records.
pub const PACKAGES: &str = "packages/";

/// Key of a job record.
#[must_use]
pub fn job_key(job: JobId) -> String {
    format!("{JOBS}{job}")
}

/// The job that a key is about.
#[must_use]
pub fn job_of_key(key: &str) -> Option<JobId> {
    key.strip_prefix(JOBS)?.parse().ok()
}

/// Key of the mark of a deleted job.
#[must_use]
pub fn deleted_key(job: JobId) -> String {
    format!("{DELETED}{job}")
}

/// Key of a name.
#[must_use]
pub fn name_key(fqn: &Fqn) -> String {
    format!("{NAMES}{fqn}")
}

/// Key of a guard; `endpoint` in canonical form, without scheme.
#[must_use]
pub fn guard_key(kind: RouteKind, endpoint: &str) -> String {
    format!("{ENDPOINTS}{}/{endpoint}", kind.as_str())
}

/// Key of a package record.
#[must_use]
pub fn package_key(package: PackageId) -> String {
    format!("{PACKAGES}{package}")
}

/// Reads a record. The store counts the writes, so its version wins over what the record says.
pub fn decode(record: &store::Record) -> Result<Job, ApiError> {
    let mut job: Job = serde_json::from_slice(&record.value).map_err(|mistake| {
        ApiError::new(ErrorCode::Internal, format!("the record {} cannot be read", record.key))
            .because(mistake.to_string())
    })?;
    job.version_id = record.version;
    job.health = None;
    Ok(job)
}

/// Names of the fields that differ and that a running instance cannot take over. Empty: the change is dynamic, or there
/// is none.
#[must_use]
pub fn restart_needed(old: &Job, new: &Job) -> Vec<&'static str> {
    let hard = |wishes: &[Affinity]| -> BTreeSet<String> {
        wishes.iter().filter(|wish| wish.hard).map(|wish| wish.to.to_string()).collect()
    };
    let checks = [
        ("packages", layers(old) != layers(new)),
        ("processes", old.processes != new.processes),
        ("resources", old.resources != new.resources),
        ("ports", listens(old) != listens(new)),
        ("bindings", old.bindings != new.bindings),
        ("network_ref", old.extra.get("network_ref") != new.extra.get("network_ref")),
        ("logs", old.logs != new.logs),
        ("hard_scheduling_tags", old.hard_scheduling_tags != new.hard_scheduling_tags),
        ("attract", hard(&old.attract) != hard(&new.attract)),
        ("repel", hard(&old.repel) != hard(&new.repel)),
    ];
    checks.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
}

/// Makes `new` the version after `old`: its `version_id`, and `restart_version` where instances of older versions must
/// not go on: a change that they cannot take over, `restart`, or a start after any other state, which is a clean slate
/// for the counts of failures. Names of the fields that need it.
pub fn succeed(old: &Job, new: &mut Job, restart: bool) -> Vec<&'static str> {
    let fields = restart_needed(old, new);
    let begins = new.state == JobState::Started && old.state != JobState::Started;
    new.version_id = old.version_id + 1;
    let anew = restart || begins || !fields.is_empty();
    new.restart_version = if anew { new.version_id } else { old.restart_version };
    fields
}

/// Whose files, and where: the state that a record carries along is not the instance's concern.
fn layers(job: &Job) -> Vec<(PackageId, String)> {
    let place = |path: &'_ Option<String>| -> String { path.as_deref().unwrap_or("/").to_owned() };
    job.packages.iter().map(|package| (package.uuid, place(&package.install_path))).collect()
}

fn listens(job: &Job) -> BTreeSet<(u16, bool)> {
    job.ports.iter().map(|port| (port.number, port.optional)).collect()
}

/// States that a user may ask for; the platform sets the others.
#[must_use]
pub const fn user_may_set(state: JobState) -> bool {
    matches!(state, JobState::Created | JobState::Ready | JobState::Started | JobState::Stopped)
}

/// The type that an endpoint's scheme names, and the rest; none without a scheme.
#[must_use]
pub fn scheme(endpoint: &str) -> Option<(RouteKind, &str)> {
    let (scheme, rest) = endpoint.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some((RouteKind::Http, rest)),
        "tcp" => Some((RouteKind::Tcp, rest)),
        _ => None,
    }
}

/// Whether the server is asked to choose the endpoint: `auto`, with or without a scheme; of which type.
#[must_use]
pub fn is_auto(route: &Route) -> Option<RouteKind> {
    let (kind, name) = scheme(&route.endpoint).unwrap_or((route.kind, &route.endpoint));
    name.eq_ignore_ascii_case("auto").then_some(kind)
}

/// The lowest port of `range` that is not in `taken`, as an endpoint on `host`.
#[must_use]
pub fn free_tcp_endpoint(
    host: IpAddr,
    range: std::ops::RangeInclusive<u16>,
    taken: &BTreeSet<u16>,
) -> Option<String> {
    range
        .into_iter()
        .find(|port| *port != 0 && !taken.contains(port))
        .map(|port| SocketAddr::new(host, port).to_string())
}

/// Checks a record and brings it into canonical form: endpoints without scheme, weights to two decimals, the ACL with
/// all its verbs, the name. `auto` endpoints must be resolved before.
pub fn validate(job: &mut Job) -> Result<(), ApiError> {
    validate_name(job)?;
    if job.num_instances > INSTANCES_MAX {
        return Err(invalid(format!(
            "num_instances is {}, at most {INSTANCES_MAX} are possible",
            job.num_instances
        )));
    }
    if job.restart.restart_mode != RestartMode::Always && job.num_instances > RUN_ONCE_MAX {
        return Err(invalid(format!(
            "num_instances is {}, at most {RUN_ONCE_MAX} are possible with restart mode {}",
            job.num_instances,
            job.restart.restart_mode.as_str()
        )));
    }
    let acl: route::ClientAcl = job
        .client_acl
        .parse()
        .map_err(|mistake| syntax("client_acl", &job.client_acl, &mistake))?;
    job.client_acl = acl.to_string();
    validate_ports(job)?;
    for (name, process) in &job.processes {
        validate_process(name, process)?;
    }
    for path in job.packages.iter().filter_map(|package| package.install_path.as_deref()) {
        validate_install_path(path)?;
    }
    validate_resources(job)?;
    validate_rollout(job)?;
    validate_counts(job)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Invalid, message)
}

fn syntax(field: &str, text: &str, mistake: &route::SyntaxError) -> ApiError {
    invalid(format!("{field} \"{text}\": {}", mistake.what))
        .because(format!("the mistake is at column {}", mistake.column))
        .hint(mistake.hint.clone())
}

fn validate_name(job: &mut Job) -> Result<(), ApiError> {
    if job.fqn.kind() != "job" {
        return Err(invalid(format!("{} is not the name of a job", job.fqn))
            .hint("a name like job::/sandbox/admin::web"));
    }
    if job.fqn.to_string().len() > JOB_FQN_BYTES_MAX {
        return Err(invalid(format!(
            "a job's name may have {JOB_FQN_BYTES_MAX} bytes, {} has more",
            job.fqn
        )));
    }
    if job.name.is_empty() {
        job.name = job.fqn.local().to_owned();
    }
    if job.name != job.fqn.local() {
        return Err(invalid(format!("name is \"{}\", but fqn is {}", job.name, job.fqn)));
    }
    Ok(())
}

fn validate_ports(job: &mut Job) -> Result<(), ApiError> {
    if job.ports.len() > PORTS_MAX {
        return Err(invalid(format!("a job may have {PORTS_MAX} ports, not {}", job.ports.len())));
    }
    let mut numbers = BTreeSet::new();
    for port in &job.ports {
        if !numbers.insert(port.number) {
            return Err(invalid(format!("port {} is there twice", port.number)));
        }
    }
    for port in &mut job.ports {
        validate_routes_of(port)?;
    }
    let routes = job.routes().count();
    if routes > ROUTES_MAX {
        return Err(invalid(format!("a job may have {ROUTES_MAX} routes, not {routes}")));
    }
    validate_shared(job)
}

fn validate_routes_of(port: &mut Port) -> Result<(), ApiError> {
    let mut seen = BTreeSet::new();
    for route in &mut port.routes {
        canonical(route)?;
        if !seen.insert((route.kind, route.endpoint.clone())) {
            let what = format!("route {} leads to port {} twice", route.endpoint, port.number);
            return Err(invalid(what));
        }
    }
    Ok(())
}

/// One route in canonical form; a scheme in the endpoint decides the type.
fn canonical(route: &mut Route) -> Result<(), ApiError> {
    if is_auto(route).is_some() {
        return Err(invalid("route auto has not been given an endpoint"));
    }
    let text = match scheme(&route.endpoint) {
        Some((kind, _)) => {
            route.kind = kind;
            route.endpoint.clone()
        }
        None if route.endpoint.contains("://") => route.endpoint.clone(),
        None => format!("{}://{}", route.kind.as_str(), route.endpoint),
    };
    let endpoint: route::Endpoint =
        text.parse().map_err(|mistake| syntax("route", &text, &mistake))?;
    route.endpoint = endpoint.name();
    if route.endpoint.len() > ENDPOINT_BYTES_MAX {
        return Err(invalid(format!(
            "route {} has {} bytes, {ENDPOINT_BYTES_MAX} are possible",
            route.endpoint,
            route.endpoint.len()
        )));
    }
    if route.https_only && route.kind == RouteKind::Tcp {
        return Err(invalid(format!("route tcp://{} cannot be https-only", route.endpoint))
            .hint("https-only is for http routes"));
    }
    let weight = route::Weight::from_percent(route.weight).ok_or_else(|| {
        invalid(format!("weight {} of route {} is not possible", route.weight, route.endpoint))
            .hint("a percentage such as 45, 33.3 or -10; 0 is auto")
    })?;
    route.weight = weight.percent();
    Ok(())
}

/// Several ports may share an endpoint, within the bound of the router and with one https-only flag.
fn validate_shared(job: &Job) -> Result<(), ApiError> {
    let mut ports = std::collections::BTreeMap::<_, (usize, bool)>::new();
    for (_, route) in job.routes() {
        let entry = ports.entry((route.kind, &route.endpoint)).or_insert((0, route.https_only));
        entry.0 += 1;
        if entry.1 != route.https_only {
            return Err(https_only_conflict(&route.endpoint));
        }
        if entry.0 > PORTS_PER_ENDPOINT_MAX {
            return Err(invalid(format!(
                "route {} leads to more than {PORTS_PER_ENDPOINT_MAX} ports of the job",
                route.endpoint
            )));
        }
    }
    Ok(())
}

/// The text is that of the original, word for word.
#[must_use]
pub fn https_only_conflict(endpoint: &str) -> ApiError {
    ApiError::new(ErrorCode::Conflict, format!("Route {endpoint} https-only flag conflict"))
        .because("a route keeps its https-only flag for as long as a job uses it")
        .hint("use the flag that the other jobs on the route use, or another route")
}

/// A place inside the instance that a file system can hold.
fn validate_install_path(path: &str) -> Result<(), ApiError> {
    let refused = |why: &str| {
        let shown: String = path.chars().take(80).collect();
        Err(invalid(format!("install_path {shown:?} is not possible"))
            .because(why)
            .hint("a path such as /app"))
    };
    if path.contains('\0') {
        return refused("it holds a NUL byte");
    }
    if path.len() > PATH_BYTES_MAX || path.split('/').any(|part| part.len() > PATH_PART_BYTES_MAX) {
        return refused("it is too long for a file system");
    }
    if path.split('/').any(|part| part == "..") {
        return refused("it leads out of the instance");
    }
    Ok(())
}

fn validate_process(name: &str, process: &Process) -> Result<(), ApiError> {
    for (field, seconds) in [
        ("start_command_timeout", process.start_command_timeout),
        ("stop_timeout", process.stop_timeout),
    ] {
        if seconds > TIMEOUT_SECONDS_MAX {
            return Err(invalid(format!(
                "processes.{name}.{field} is {seconds} seconds, {TIMEOUT_SECONDS_MAX} are possible"
            )));
        }
    }
    for key in process.environment.keys() {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(invalid(format!("\"{key}\" cannot be the name of a variable")));
        }
    }
    let words = process.environment.values().chain(&process.start_command_raw);
    let words = words.chain(&process.stop_command_raw);
    let commands = [&process.start_command, &process.stop_command];
    if words.chain(commands).any(|text| text.contains('\0')) {
        return Err(invalid(format!("processes.{name} holds a zero byte")));
    }
    Ok(())
}

fn validate_resources(job: &Job) -> Result<(), ApiError> {
    let resources = &job.resources;
    for (field, value) in [
        ("cpu", resources.cpu),
        ("memory", resources.memory),
        ("disk", resources.disk),
        ("network", resources.network),
        ("netmax", resources.netmax),
    ] {
        if value > RESOURCE_MAX {
            return Err(invalid(format!("resources.{field} is {value}, more than is possible")));
        }
    }
    Ok(())
}

fn validate_rollout(job: &Job) -> Result<(), ApiError> {
    let rollout = &job.rollout;
    if !(0.0..=1.0).contains(&rollout.flapping_percent) {
        return Err(invalid(format!(
            "rollout.flapping_percent is {}, it must be from 0 to 1",
            rollout.flapping_percent
        )));
    }
    for (field, seconds) in [
        ("force_stop_old_instances_after", rollout.force_stop_old_instances_after),
        ("flapping_window", rollout.flapping_window),
        ("errored_state_window", rollout.errored_state_window),
    ] {
        if seconds > WINDOW_SECONDS_MAX {
            return Err(invalid(format!(
                "rollout.{field} is {seconds} seconds, {WINDOW_SECONDS_MAX} are possible"
            )));
        }
    }
    Ok(())
}

fn validate_counts(job: &Job) -> Result<(), ApiError> {
    for (field, count, max) in [
        ("packages", job.packages.len(), PACKAGES_MAX),
        ("processes", job.processes.len(), PROCESSES_MAX),
        ("tags", job.tags.len(), TAGS_MAX),
        ("labels", job.labels.len(), TAGS_MAX),
        ("hard_scheduling_tags", job.hard_scheduling_tags.len(), TAGS_MAX),
        ("soft_scheduling_tags", job.soft_scheduling_tags.len(), TAGS_MAX),
        ("attract", job.attract.len(), TAGS_MAX),
        ("repel", job.repel.len(), TAGS_MAX),
        ("sticky_session_cookies", job.sticky_session_cookies.len(), TAGS_MAX),
        ("bindings", job.bindings.len(), TAGS_MAX),
        ("logs", job.logs.len(), TAGS_MAX),
    ] {
        if count > max {
            return Err(invalid(format!("{field} holds {count} entries, {max} are possible")));
        }
    }
    let tags = job.hard_scheduling_tags.keys().chain(job.soft_scheduling_tags.keys());
    for tag in tags {
        let bare = tag.strip_prefix('!').unwrap_or(tag);
        if bare.is_empty() || bare.contains(|c: char| c == ',' || c == '!' || c.is_whitespace()) {
            return Err(invalid(format!("\"{tag}\" cannot be a scheduling tag"))
                .hint("a word such as ssd, or !ssd for hosts without it"));
        }
    }
    Ok(())
}
