//! `apc app|job update, scale, delete, list, show, instances, health`.
//!
//! Deliberately absent: starting and stopping (`life`), making (`app`).

use super::{app, life, package};
use crate::cli::{JobFlags, ListFlags, Named, UpdateFlags, Wait};
use crate::client::escaped;
use crate::edit;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::session::{Session, show_live};
use crate::table::Table;
use crate::units;
use std::collections::BTreeMap;
use wire::job::RouteKind;
use wire::{InstanceRecord, Job, JobState, Package};

/// `apc app update`
pub(super) async fn update(session: &Session, update: &UpdateFlags) -> Result<(), Failure> {
    let flags = &update.job;
    let job = session.job(&update.name).await?;
    let mut packaged = job.clone();
    app::add_packages(session, &mut packaged, flags).await?;
    let (before, after) = (job.packages.clone(), packaged.packages);
    let step = session.screen.step(format!("Updating \"{}\"", job.fqn.local()));
    let mut saved = life::save(session, job, !flags.no_restart, |job| {
        if before != after {
            job.packages.clone_from(&after);
        }
        edit::apply(job, flags)
    })
    .await?;
    step.done();
    if !saved.written {
        session.screen.say("Nothing to change");
    }
    let routed = saved.job.routes().next().is_some();
    if let Some(report) = saved.live.as_ref().filter(|report| report.routers > 0 || routed) {
        session.screen.say(format!("Change is {}", show_live(report)));
    }
    if flags.restart == Some(None) && !saved.restarted {
        saved.job = life::replace(session, &saved.job).await?;
        saved.restarted = true;
    }
    if saved.restarted {
        session.screen.say("The change needs new instances");
    }
    if saved.job.state == JobState::Started && (saved.restarted || flags.instances.is_some()) {
        life::await_running(session, &saved.job, &flags.wait).await?;
    }
    life::finish(session, &saved.job).await
}

/// `apc app scale`
pub(super) async fn scale(
    session: &Session,
    name: &str,
    count: Option<u32>,
    wait: Wait,
) -> Result<(), Failure> {
    let Some(count) = count else {
        return Err(Failure::usage("it is not said how many instances shall run")
            .hint(format!("apc app scale {name} --instances 3")));
    };
    let job = JobFlags { instances: Some(count), wait, ..JobFlags::default() };
    update(session, &UpdateFlags { name: name.to_owned(), job }).await
}

/// `apc app delete`
pub(super) async fn delete(session: &Session, named: &Named) -> Result<(), Failure> {
    let job = session.job(&named.name).await?;
    if !session.screen.confirm(&format!("Delete {}?", job.fqn))? {
        return Err(Failure::failed("nothing was deleted").because("you said no"));
    }
    let kind = if app::is_app(&job) { "app" } else { "job" };
    let step = session.screen.step(format!("Deleting {kind} \"{}\"", job.fqn.local()));
    let deleted = session.client()?.delete(&format!("/jobs/{}", job.uuid)).await;
    deleted.map_err(|failure| failure.while_doing("deleting job"))?;
    step.done();
    if app::is_app(&job) {
        for id in app::own_packages(&job) {
            package::delete_unused(session, id).await;
        }
    }
    session.print_json(&job)?;
    session.screen.success();
    Ok(())
}

/// `apc app list`, `apc job list`
pub(super) async fn list(session: &Session, flags: &ListFlags, apps: bool) -> Result<(), Failure> {
    let mut query = Vec::new();
    if !flags.all {
        query.push(format!("namespace={}", escaped(session.namespace().await?.as_str())));
    }
    if let Some(name) = &flags.filter_by_package {
        query.push(format!("package_id={}", session.package(name).await?.uuid));
    }
    let path =
        if query.is_empty() { "/jobs".to_owned() } else { format!("/jobs?{}", query.join("&")) };
    let mut jobs: Vec<Job> = session.client()?.list(&path).await?;
    jobs.retain(|job| !apps || app::is_app(job));
    if !flags.all {
        let here = session.namespace().await?;
        jobs.retain(|job| here.covers(job.fqn.namespace()));
    }
    jobs.sort_by(|a, b| a.fqn.cmp(&b.fqn));
    let counts = running(session, &jobs).await?;
    if session.print_json(&jobs)? {
        return Ok(());
    }
    if !flags.all {
        session.say_namespace().await?;
    }
    Screen::data(&table_of(&jobs, &counts, flags.long, apps).render());
    Ok(())
}

/// Jobs whose health is asked for at once.
const HEALTH_JOBS_MAX: usize = 64;

/// Running instances by job: the list may bring them, the health request does.
async fn running(session: &Session, jobs: &[Job]) -> Result<BTreeMap<wire::JobId, u32>, Failure> {
    let mut counts = BTreeMap::new();
    let unknown: Vec<&Job> = jobs.iter().filter(|job| job.health.is_none()).collect();
    for job in jobs {
        counts.insert(job.uuid, job.health.as_ref().map_or(0, running_of));
    }
    for some in unknown.chunks(HEALTH_JOBS_MAX) {
        let ids: Vec<String> = some.iter().map(|job| job.uuid.to_string()).collect();
        let path = format!("/jobs/health?ids={}", ids.join(","));
        // A list without counts is better than none: the health manager may be away.
        let health: BTreeMap<wire::JobId, wire::job::JobHealth> =
            session.client()?.get(&path).await.unwrap_or_default();
        counts.extend(health.iter().map(|(&id, health)| (id, running_of(health))));
    }
    Ok(counts)
}

fn running_of(health: &wire::job::JobHealth) -> u32 {
    ["RUNNING", "FIRST_RUNNING", "UPDATING"]
        .iter()
        .filter_map(|state| health.instance_state_count.get(*state))
        .sum()
}

/// Name, Type, Namespace, Status, Instances; an application needs no type.
fn table_of(jobs: &[Job], counts: &BTreeMap<wire::JobId, u32>, long: bool, apps: bool) -> Table {
    let mut head = vec!["Name"];
    if !apps {
        head.push("Type");
    }
    head.extend(["Namespace", "Status", "Instances"]);
    if long {
        head.extend(["Job FQN", "Job UUID"]);
    }
    let mut table = Table::new(&head);
    for job in jobs {
        let mut row = vec![job.fqn.local().to_owned()];
        if !apps {
            row.push(if app::is_app(job) { "app" } else { "job" }.to_owned());
        }
        let count = counts.get(&job.uuid).copied().unwrap_or(0);
        row.extend([
            job.fqn.namespace().to_string(),
            job.state.as_str().to_owned(),
            format!("{count}/{}", job.num_instances),
        ]);
        if long {
            row.extend([job.fqn.to_string(), job.uuid.to_string()]);
        }
        table.row(row);
    }
    table
}

/// `apc app show`
pub(super) async fn show(session: &Session, name: &str) -> Result<(), Failure> {
    let job = session.job(name).await?;
    if session.print_json(&job)? {
        return Ok(());
    }
    let client = session.client()?;
    let counts = running(session, std::slice::from_ref(&job)).await?;
    let mut packages = Vec::new();
    for one in &job.packages {
        // A package that is gone is shown by its id.
        let package: Result<Package, Failure> =
            client.get(&format!("/packages/{}", one.uuid)).await;
        packages
            .push(package.map_or_else(|_| one.uuid.to_string(), |package| package.fqn.to_string()));
    }
    let own = app::own_packages(&job);
    let marked = packages
        .into_iter()
        .zip(&job.packages)
        .map(|(name, one)| if own.contains(&one.uuid) { format!("{name} *") } else { name });
    let marked: Vec<String> = marked.collect();
    Screen::data(&shown(&job, counts.get(&job.uuid).copied().unwrap_or(0), &marked));
    Ok(())
}

/// Names and values, with the groups of the original.
fn shown(job: &Job, running: u32, packages: &[String]) -> String {
    let mut table = Table::new(&["Job:", job.fqn.local()]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let limit =
        |amount: u64, text: String| if amount == 0 { format!("{text} (no limit)") } else { text };
    row("FQN:", job.fqn.to_string());
    row("UUID:", job.uuid.to_string());
    let flaps = job.health.as_ref().is_some_and(|health| health.flapping);
    row("State:", format!("{}{}", job.state.as_str(), if flaps { " (flapping)" } else { "" }));
    row("Running Instances:", format!("{running}/{} started", job.num_instances));
    row("Restart:", job.restart.restart_mode.as_str().to_owned());
    row("", String::new());
    row("Resources:", String::new());
    row("  CPU:", limit(job.resources.cpu, format!("{}ms/s", job.resources.cpu)));
    row("  Memory:", units::show_bytes(job.resources.memory));
    row("  Disk:", units::show_bytes(job.resources.disk));
    row("  Network:", units::show_bits_per_second(job.resources.network));
    row(
        "  Netmax:",
        limit(job.resources.netmax, units::show_bits_per_second(job.resources.netmax)),
    );
    for (name, process) in &job.processes {
        row("", String::new());
        row("Process:", String::new());
        row("  Name:", name.clone());
        let raw = process.start_command_raw.join(" ");
        row(
            "  Start Command:",
            if process.start_command.is_empty() { raw } else { process.start_command.clone() },
        );
        for (at, (name, value)) in process.environment.iter().enumerate() {
            row(if at == 0 { "  Environment:" } else { "" }, format!("{name}={value}"));
        }
    }
    let routes = job.routes().map(|(port, route)| {
        let scheme = if route.kind == RouteKind::Tcp {
            "tcp"
        } else if route.https_only {
            "https"
        } else {
            "http"
        };
        let (endpoint, weight) = (&route.endpoint, edit::show_weight(route.weight));
        format!("{scheme}://{endpoint} [to port {}] (Weight: {weight})", port.number)
    });
    let mut groups: Vec<(&str, Vec<String>)> = vec![
        ("Exposed Ports:", job.ports.iter().map(shown_port).collect()),
        ("Routes:", routes.collect()),
        ("Tags:", job.tags.iter().map(|(name, value)| format!("{name}: {value}")).collect()),
        ("Packages:", packages.to_vec()),
        ("Labels:", job.labels.iter().map(|(name, value)| format!("{name}: {value}")).collect()),
        ("Hard Tags:", job.hard_scheduling_tags.keys().cloned().collect()),
        ("Soft Tags:", job.soft_scheduling_tags.keys().cloned().collect()),
    ];
    if !job.client_acl.is_empty() {
        groups.push(("Client ACL:", vec![job.client_acl.clone()]));
    }
    for (name, values) in groups.into_iter().filter(|(_, values)| !values.is_empty()) {
        row("", String::new());
        for (at, value) in values.into_iter().enumerate() {
            row(if at == 0 { name } else { "" }, value);
        }
    }
    table.render()
}

fn shown_port(port: &wire::job::Port) -> String {
    let number = if port.number == 0 {
        "0 (chosen by system, env: $PORT)".to_owned()
    } else {
        port.number.to_string()
    };
    if port.optional { format!("{number} (optional)") } else { number }
}

/// `apc app instances`
pub(super) async fn instances(session: &Session, name: &str) -> Result<(), Failure> {
    let job = session.job(name).await?;
    let mut all: Vec<InstanceRecord> =
        session.client()?.list(&format!("/jobs/{}/instances?ended=true", job.uuid)).await?;
    all.sort_by_key(|one| (one.exited, one.created_time, one.uuid));
    if session.print_json(&all)? {
        return Ok(());
    }
    session.screen.say(format!("Instances of '{}':", job.fqn));
    let mut table =
        Table::new(&["Instance", "State", "Host", "Version", "Created", "Exit", "Start (ms)"]);
    for one in &all {
        table.row([
            one.uuid.to_string(),
            one.state.as_str().to_owned(),
            one.host.clone(),
            one.job_version_id.to_string(),
            one.created_time.to_string(),
            one.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            one.legs.map(|legs| shown_legs(&legs)).unwrap_or_default(),
        ]);
    }
    Screen::data(&table.render());
    session.screen.say("Start (ms): asked + set up + spawned + listening + routed");
    Ok(())
}

/// Asked, set up, spawned, listening, routed.
fn shown_legs(legs: &wire::health::Legs) -> String {
    let routed = legs.routed.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
    format!("{}+{}+{}+{}+{routed}", legs.asked, legs.setup, legs.spawn, legs.listen)
}

/// `apc app health`
pub(super) async fn health(session: &Session, name: &str) -> Result<(), Failure> {
    let job = session.job(name).await?;
    let path = format!("/jobs/health?ids={}", job.uuid);
    let all: BTreeMap<wire::JobId, wire::job::JobHealth> = session.client()?.get(&path).await?;
    let health = all.get(&job.uuid).cloned().unwrap_or_default();
    if session.print_json(&health)? {
        return Ok(());
    }
    let mut table = Table::new(&["Job:", job.fqn.local()]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("State:", job.state.as_str().to_owned());
    row("Running Instances:", format!("{}/{} started", running_of(&health), job.num_instances));
    row("Score:", format!("{:.2}", health.score));
    row("Flapping:", if health.flapping { "yes" } else { "no" }.to_owned());
    for (state, count) in &health.instance_state_count {
        row(&format!("{state}:"), count.to_string());
    }
    Screen::data(&table.render());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        let mut job = Job::named("job::/sandbox/admin::web".parse().unwrap());
        job.uuid = "3b0a6209-5dcf-408c-8941-cf9f44295f58".parse().unwrap();
        job.state = JobState::Started;
        job.tags.insert("app".to_owned(), "web".to_owned());
        let process =
            wire::job::Process { start_command: "./serve".to_owned(), ..Default::default() };
        job.processes.insert("app".to_owned(), process);
        let mut port = edit::new_port(0, false);
        port.routes.push(edit::new_route(RouteKind::Http, "web.example.com", 0.0, false));
        job.ports = vec![port, edit::new_port(222, true)];
        job
    }

    /// Goal: the lists, byte for byte.
    #[test]
    fn lists() {
        let counts = BTreeMap::from([(job().uuid, 1)]);
        assert_eq!(
            table_of(&[job()], &counts, false, false).render(),
            "\
╭──────┬──────┬────────────────┬─────────┬───────────╮
│ Name │ Type │ Namespace      │ Status  │ Instances │
├──────┼──────┼────────────────┼─────────┼───────────┤
│ web  │ app  │ /sandbox/admin │ started │ 1/1       │
╰──────┴──────┴────────────────┴─────────┴───────────╯
"
        );
        let long = table_of(&[job()], &counts, true, true).render();
        assert!(long.contains("│ web  │ /sandbox/admin │ started │ 1/1       │ job::/sandbox/admin::web │ 3b0a6209"), "{long}");
    }

    /// Goal: one application, byte for byte.
    #[test]
    fn one_application() {
        assert_eq!(
            shown(&job(), 1, &["package::/sandbox/admin::web *".to_owned()]),
            "\
╭────────────────────┬───────────────────────────────────────────────────╮
│ Job:               │ web                                               │
├────────────────────┼───────────────────────────────────────────────────┤
│ FQN:               │ job::/sandbox/admin::web                          │
│ UUID:              │ 3b0a6209-5dcf-408c-8941-cf9f44295f58              │
│ State:             │ started                                           │
│ Running Instances: │ 1/1 started                                       │
│ Restart:           │ always                                            │
│                    │                                                   │
│ Resources:         │                                                   │
│   CPU:             │ 0ms/s (no limit)                                  │
│   Memory:          │ 256MiB                                            │
│   Disk:            │ 1GiB                                              │
│   Network:         │ 5Mbps                                             │
│   Netmax:          │ 0Mbps (no limit)                                  │
│                    │                                                   │
│ Process:           │                                                   │
│   Name:            │ app                                               │
│   Start Command:   │ ./serve                                           │
│                    │                                                   │
│ Exposed Ports:     │ 0 (chosen by system, env: $PORT)                  │
│                    │ 222 (optional)                                    │
│                    │                                                   │
│ Routes:            │ http://web.example.com [to port 0] (Weight: auto) │
│                    │                                                   │
│ Tags:              │ app: web                                          │
│                    │                                                   │
│ Packages:          │ package::/sandbox/admin::web *                    │
╰────────────────────┴───────────────────────────────────────────────────╯
"
        );
    }
}
