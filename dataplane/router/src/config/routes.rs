//! `[[job]]` and `[[route]]`: the table that the file wants.
//!
//! Endpoints, weights and ACLs are parsed by the `route` crate; here their mistakes get a line. Deliberately absent:
//! weights' meaning, and the changes that lead from one table to the next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use route::{
    ClientAcl, Desired, DesiredJob, DesiredRoute, Endpoint, INSTANCES_PER_JOB_MAX,
    JOB_NAME_BYTES_MAX, TARGETS_MAX, Weight,
};

use super::reader::{Place, Reader};
use super::suggest::closest;

/// Where endpoints stand, for the checks across sections.
#[derive(Default)]
pub(super) struct TablePlaces {
    pub(super) routes: HashMap<Endpoint, Place>,
}

pub(super) fn read(file: &mut Reader<'_, '_, '_>) -> (Desired, TablePlaces) {
    let mut desired = Desired::default();
    let mut places = TablePlaces::default();
    jobs(file, &mut desired);
    routes(file, &mut desired, &mut places);
    (desired, places)
}

fn jobs(file: &mut Reader<'_, '_, '_>, desired: &mut Desired) {
    for (table, place) in file.tables("job", "[[job]]") {
        let mut reader = Reader::new(table, "[[job]]", place.clone(), file.mistakes);
        let name = job_name(&mut reader, table.contains_key("name"));
        let client_acl = client_acl(&mut reader);
        let instances = instances(&mut reader);
        reader.finish(&[]);
        let Some((name, at)) = name else { continue };
        let job = DesiredJob { client_acl, instances: instances.into_iter().collect() };
        if desired.jobs.insert(name.clone(), job).is_some() {
            let what = format!("job \"{name}\" stands twice");
            let mistake = file.mistakes.add("duplicate_job", at, what);
            mistake
                .why("a job is one pool of instances with one ACL")
                .advise("put all instances into one `[[job]]`");
        }
    }
}

fn job_name(reader: &mut Reader<'_, '_, '_>, given: bool) -> Option<(String, Place)> {
    let example = "name = \"job::/sandbox/admin::app1\"";
    let Some((name, place)) = reader.string("name", example) else {
        if !given {
            reader.missing("name", example);
        }
        return None;
    };
    if name.is_empty() || name.len() > JOB_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let what =
            format!("a job name has 1 to {JOB_NAME_BYTES_MAX} bytes and no control characters");
        reader.mistakes.add("bad_value", place, what).advise(format!("`{example}`"));
        return None;
    }
    Some((name.to_owned(), place))
}

fn client_acl(reader: &mut Reader<'_, '_, '_>) -> ClientAcl {
    let example = "client_acl = \"allow 128.66.3.0/24, deny 128.66.0.0/16\"";
    let Some((text, place)) = reader.string("client_acl", example) else {
        return ClientAcl::default();
    };
    text.parse().unwrap_or_else(|error| {
        reader.mistakes.add_syntax("bad_acl", &place, "client_acl", text, &error);
        ClientAcl::default()
    })
}

fn instances(reader: &mut Reader<'_, '_, '_>) -> Vec<SocketAddr> {
    let example = "instances = [\"127.0.0.1:9001\"]";
    let list = reader.parsed::<SocketAddr>("instances", "an IP address with a port", example);
    if list.len() > INSTANCES_PER_JOB_MAX {
        let what = format!("{} instances, but at most {INSTANCES_PER_JOB_MAX} fit", list.len());
        reader.mistakes.add("too_many", reader.place(), what);
    }
    let mut seen = HashSet::new();
    for (addr, place) in &list {
        if addr.port() == 0 || addr.ip().is_unspecified() {
            let what = format!("nobody can connect to {addr}");
            reader.mistakes.add("bad_value", place.clone(), what).advise(format!("`{example}`"));
        }
        if !seen.insert(*addr) {
            let what = format!("instance {addr} stands twice");
            reader.mistakes.add("duplicate_instance", place.clone(), what);
        }
    }
    list.into_iter().map(|(addr, _)| addr).collect()
}

fn routes(file: &mut Reader<'_, '_, '_>, desired: &mut Desired, places: &mut TablePlaces) {
    for (table, place) in file.tables("route", "[[route]]") {
        let mut reader = Reader::new(table, "[[route]]", place.clone(), file.mistakes);
        let endpoint = endpoint(&mut reader, table.contains_key("endpoint"));
        let https_only = reader.boolean("https_only", false);
        let targets = targets(&mut reader, &desired.jobs, table.contains_key("targets"));
        reader.finish(&[]);
        let Some((endpoint, at)) = endpoint else { continue };
        if https_only && matches!(endpoint, Endpoint::Tcp(_)) {
            let what = format!("{endpoint} is a TCP route and cannot be https_only");
            file.mistakes.add("https_only_tcp", at.clone(), what).advise("`https_only = false`");
        }
        if let Some(first) = places.routes.get(&endpoint) {
            let line = file.mistakes.line(first.start);
            let what = format!("{endpoint} stands twice; the first is in line {line}");
            let mistake = file.mistakes.add("duplicate_route", at, what);
            mistake.advise("put all jobs of an endpoint into one `targets`");
            continue;
        }
        places.routes.insert(endpoint.clone(), at);
        desired.routes.insert(endpoint, DesiredRoute { https_only, targets });
    }
}

fn endpoint(reader: &mut Reader<'_, '_, '_>, given: bool) -> Option<(Endpoint, Place)> {
    let example = "endpoint = \"http://app.example.com\"";
    let Some((text, place)) = reader.string("endpoint", example) else {
        if !given {
            reader.missing("endpoint", example);
        }
        return None;
    };
    match text.parse() {
        Ok(endpoint) => Some((endpoint, place)),
        Err(error) => {
            reader.mistakes.add_syntax("bad_endpoint", &place, "endpoint", text, &error);
            None
        }
    }
}

fn targets(
    route: &mut Reader<'_, '_, '_>,
    jobs: &BTreeMap<String, DesiredJob>,
    given: bool,
) -> BTreeMap<String, Weight> {
    let example = "targets = [ { job = \"job::/sandbox/admin::app1\", weight = 45 } ]";
    let list = route.tables("targets", example);
    if list.is_empty() && !given {
        route.missing("targets", example);
    }
    if list.is_empty() && given {
        let mistake = route.mistakes.add(
            "no_targets",
            route.place(),
            "a route without targets does not exist",
        );
        mistake.advise(format!("`{example}`, or leave the route out"));
    }
    if list.len() > TARGETS_MAX {
        let what = format!("{} targets, but at most {TARGETS_MAX} fit", list.len());
        route.mistakes.add("too_many", route.place(), what);
    }
    let mut targets = BTreeMap::new();
    for (table, place) in list {
        let mut reader = Reader::new(table, "a target", place, route.mistakes);
        let weight = weight(&mut reader);
        match reader.string("job", "job = \"job::/sandbox/admin::app1\"") {
            Some((job, at)) => {
                unknown_job(&mut reader, jobs, job, &at);
                if targets.insert(job.to_owned(), weight).is_some() {
                    let what = format!("job \"{job}\" stands twice in `targets`");
                    reader.mistakes.add("duplicate_target", at, what);
                }
            }
            None if !table.contains_key("job") => {
                reader.missing("job", "job = \"job::/sandbox/admin::app1\"");
            }
            None => {}
        }
        reader.finish(&[]);
    }
    targets
}

fn unknown_job(
    reader: &mut Reader<'_, '_, '_>,
    jobs: &BTreeMap<String, DesiredJob>,
    job: &str,
    at: &Place,
) {
    if jobs.contains_key(job) {
        return;
    }
    let what = format!("there is no job \"{job}\"");
    let mistake = reader.mistakes.add("unknown_job", at.clone(), what);
    match closest(job, jobs.keys().map(String::as_str)) {
        Some(meant) => mistake.advise(format!("\"{meant}\"")),
        None => mistake.advise(format!("a `[[job]]` with `name = \"{job}\"`")),
    };
}

fn weight(reader: &mut Reader<'_, '_, '_>) -> Weight {
    let Some((text, place)) = reader.number_text("weight", "weight = 45") else {
        return Weight::default();
    };
    if text == "auto" {
        return Weight::default();
    }
    text.parse().unwrap_or_else(|error| {
        reader.mistakes.add_syntax("bad_weight", &place, "weight", text, &error);
        Weight::default()
    })
}
