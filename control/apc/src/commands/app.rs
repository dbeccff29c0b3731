//! `apc app create` and `apc app deploy`: from a directory to a URL that answers.
//!
//! ```text
//! settings → pack → package → upload → job → start → wait → URL
//! ```
//!
//! What was made is taken back when a later step fails. Deliberately absent: staging; the start command says what runs.

use super::{life, package};
use crate::cli::{CreateFlags, DeployFlags, JobFlags, Source};
use crate::client::Answer;
use crate::edit;
use crate::failure::{Exit, Failure};
use crate::pack;
use crate::session::{Session, live_report, show_live};
use crate::start_command;
use crate::table;
use crate::units;
use conf::continuum::{Continuum, ContinuumPort};
use serde_json::Value;
use std::path::{Path, PathBuf};
use wire::api::Info;
use wire::job::{JobPackage, Port, RolloutMode, RouteKind};
use wire::{ErrorCode, Fqn, Job, JobState, Package, PackageId};

/// Where the files of an application go.
const INSTALL_PATH: &str = "/app";
/// Name of the file with settings.
const CONF_FILE: &str = "continuum.conf";
/// Tag of applications.
const APP_TAG: &str = "app";

/// `apc app create`
pub(super) async fn create(session: &Session, flags: CreateFlags) -> Result<(), Failure> {
    let asked = asked_directory(&flags.source);
    let directory = match asked {
        Some(path) => absolute(path)?,
        None => {
            let here = absolute(".")?.display().to_string();
            absolute(&session.screen.ask("Deploy path", &here)?)?
        }
    };
    let place = place(session, directory, &flags.source)?;
    let fqn = named(session, &flags.source, &place.conf).await?;
    if session.find_job(&fqn).await?.is_some() {
        return Err(Failure::new(
            Exit::Conflict,
            format!("error creating job: {fqn} is there already"),
        )
        .hint(format!("apc app deploy {}, to bring it new files", fqn.local())));
    }
    create_new(session, fqn, place, flags).await
}

fn asked_directory(source: &Source) -> Option<&str> {
    source.path.as_deref().or(source.directory.as_deref())
}

/// The name of the flags or of the file; flags win, for the namespace as well.
async fn named(session: &Session, source: &Source, conf: &Continuum) -> Result<Fqn, Failure> {
    let Some(name) = source.name.as_ref().or(conf.name.as_ref()) else {
        return Err(Failure::usage("the application has no name")
            .hint("apc app create NAME, or `name: NAME` in continuum.conf"));
    };
    let inside = conf.namespace.as_ref().filter(|_| session.globals.namespace.is_none());
    match inside {
        Some(namespace) if !name.contains("::") => {
            session.fqn("job", &format!("{namespace}::{name}")).await
        }
        _ => session.fqn("job", name).await,
    }
}

/// What an application is made from.
struct Place {
    directory: PathBuf,
    conf: Continuum,
}

async fn create_new(
    session: &Session,
    fqn: Fqn,
    place: Place,
    mut flags: CreateFlags,
) -> Result<(), Failure> {
    let screen = &session.screen;
    let Place { directory, conf } = place;
    let mut job = draft(fqn, &conf, &flags)?;
    if flags.job.instances.is_none() {
        let answer = screen.ask("Instances", &job.num_instances.to_string())?;
        job.num_instances = answer
            .parse()
            .map_err(|_| Failure::usage(format!("\"{answer}\" is not a number of instances")))?;
    }
    if flags.job.memory.is_none() {
        job.resources.memory =
            units::bytes(&screen.ask("Memory", &units::show_bytes(job.resources.memory))?)?;
    }
    screen.say_block(&table::settings("Application Settings", &settings_rows(&job, &directory)));
    if !screen.confirm("Is this correct?")? {
        return Err(Failure::failed("nothing was created").because("you said no"));
    }
    set_start_command(&mut job, &directory)?;
    add_packages(session, &mut job, &flags.job).await?;
    check(session, &job).await?;
    let packed = packed(session, &directory).await?;
    let wanted = Fqn::new("package", job.fqn.namespace(), job.fqn.local());
    let made = package::put(
        session,
        wanted.map_err(|error| Failure::usage(error.to_string()))?,
        &packed,
        true,
    )
    .await?;
    job.packages.insert(0, edit::job_package(made.package.uuid, Some(INSTALL_PATH)));
    flags.no_start |= conf.start == Some(false) && !flags.start;
    let job = match created(session, &job).await {
        Ok(job) => job,
        Err(failure) => {
            // The name would be taken at the next try.
            package::take_back(session, &made).await;
            return Err(failure);
        }
    };
    if let Some(process) = job.process() {
        screen.say(format!("Start Command: {}", process.start_command));
    }
    if flags.no_start {
        return life::finish(session, &job).await;
    }
    run(session, job, &flags.job.wait).await
}

/// `apc app deploy`
pub(super) async fn deploy(session: &Session, flags: DeployFlags) -> Result<(), Failure> {
    let DeployFlags { source, job: settings, no_start } = flags;
    let directory = absolute(asked_directory(&source).unwrap_or("."))?;
    let place = place(session, directory, &source)?;
    let fqn = named(session, &source, &place.conf).await?;
    let Some(job) = session.find_job(&fqn).await? else {
        let flags = CreateFlags { source, job: settings, start: false, no_start };
        return create_new(session, fqn, place, flags).await;
    };
    let Place { directory, conf } = place;
    let was_started = job.state == JobState::Started;
    let packed = packed(session, &directory).await?;
    let name = format!("{}-{}", job.fqn.local(), &hex::encode(packed.sha256)[..8]);
    let wanted = Fqn::new("package", job.fqn.namespace(), &name)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let old = job
        .packages
        .iter()
        .find(|one| one.install_path.as_deref() == Some(INSTALL_PATH))
        .map(|one| one.uuid);
    let made = package::put(session, wanted, &packed, true).await?;
    let fresh = made.package.uuid;
    let mut added = job.clone();
    add_packages(session, &mut added, &settings).await?;
    let more: Vec<_> =
        added.packages.into_iter().filter(|one| !job.packages.contains(one)).collect();
    let step = session.screen.step(format!("Updating app \"{}\"", job.fqn.local()));
    let saved = life::save(session, job, !settings.no_restart, |job| {
        exchange(job, old, fresh);
        let missing = |one: &&JobPackage| !job.packages.iter().any(|has| has.uuid == one.uuid);
        let missing: Vec<_> = more.iter().filter(missing).cloned().collect();
        job.packages.extend(missing);
        if let (Some(command), None) = (&conf.start_cmd, &settings.start_cmd) {
            let flags = JobFlags { start_cmd: Some(command.clone()), ..JobFlags::default() };
            edit::apply(job, &flags)?;
        }
        edit::apply(job, &settings)
    })
    .await;
    let saved = match saved {
        Ok(saved) => saved,
        Err(failure) => {
            drop(step);
            package::take_back(session, &made).await;
            return Err(failure);
        }
    };
    step.done();
    if let Some(old) = old.filter(|old| *old != fresh) {
        package::delete_unused(session, old).await;
    }
    if no_start {
        return life::finish(session, &saved.job).await;
    }
    if was_started && saved.job.rollout.mode == RolloutMode::StopAll {
        session
            .screen
            .say("Note: old instances end before new ones start; --rollout rolling leaves no gap");
    }
    run(session, saved.job, &settings.wait).await
}

/// The new files in the place of the old ones.
fn exchange(job: &mut Job, old: Option<PackageId>, fresh: PackageId) {
    match job.packages.iter_mut().find(|one| Some(one.uuid) == old) {
        Some(one) => one.uuid = fresh,
        None => job.packages.insert(0, edit::job_package(fresh, Some(INSTALL_PATH))),
    }
}

/// Starts, waits, tells the URL.
async fn run(session: &Session, mut job: Job, wait: &crate::cli::Wait) -> Result<(), Failure> {
    if job.state != JobState::Started {
        let saved = life::save(session, job, false, |job| {
            job.state = JobState::Started;
            Ok(())
        })
        .await?;
        job = saved.job;
    }
    let runs = life::await_running(session, &job, wait).await?;
    if runs && !wait.no_wait {
        say_urls(session, &job).await?;
    }
    life::finish(session, &job).await
}

/// `App should be accessible at "http://…"`
pub(super) async fn say_urls(session: &Session, job: &Job) -> Result<(), Failure> {
    if job.routes().next().is_none() {
        return Ok(());
    }
    let info = session.info().await?;
    for (_, route) in job.routes().filter(|(_, route)| route.weight >= 0.0) {
        session.screen.say(format!("App should be accessible at \"{}\"", url_of(route, info)));
    }
    Ok(())
}

/// What a browser needs.
pub(super) fn url_of(route: &wire::job::Route, info: &Info) -> String {
    let (scheme, port, usual) = match route.kind {
        RouteKind::Tcp => return format!("tcp://{}", route.endpoint),
        RouteKind::Http if route.https_only => ("https", info.https_port, 443),
        RouteKind::Http => ("http", info.http_port, 80),
    };
    let (host, path) = match route.endpoint.find('/') {
        Some(at) => route.endpoint.split_at(at),
        None => (route.endpoint.as_str(), ""),
    };
    let port = if port == usual || port == 0 { String::new() } else { format!(":{port}") };
    format!("{scheme}://{host}{port}{path}")
}

fn absolute(text: &str) -> Result<PathBuf, Failure> {
    let home = text
        .strip_prefix("~/")
        .and_then(|rest| std::env::var_os("HOME").map(|home| Path::new(&home).join(rest)));
    let path = home.unwrap_or_else(|| PathBuf::from(text));
    std::fs::canonicalize(&path).map_err(|error| {
        Failure::not_found(format!("there is no directory {}", path.display()))
            .because(error.to_string())
            .hint("-p DIR")
    })
}

/// The directory and the file with settings in it, which may name another directory.
fn place(session: &Session, directory: PathBuf, source: &Source) -> Result<Place, Failure> {
    let file = source.config.as_deref();
    let path = file.map_or_else(|| directory.join(CONF_FILE), PathBuf::from);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
            return Ok(Place { directory, conf: Continuum::default() });
        }
        Err(error) => {
            return Err(Failure::not_found(format!("cannot read {}", path.display()))
                .because(error.to_string()));
        }
    };
    let conf = conf::continuum::parse(&text).map_err(|mistake| {
        let (line, column) = (mistake.place.line, mistake.place.column);
        Failure::usage(format!("{}:{line}:{column}: {}", path.display(), mistake.what))
            .hint(mistake.remedy)
    })?;
    if !conf.ignored.is_empty() {
        let keys = conf.ignored.join(", ");
        session.screen.say(format!("Note: nothing acts on {keys} in {} yet", path.display()));
    }
    let directory = match &conf.path {
        Some(inside) if asked_directory(source).is_none() => {
            absolute(&directory.join(inside).display().to_string())?
        }
        _ => directory,
    };
    Ok(Place { directory, conf })
}

/// The record, from the file and the flags; flags win.
fn draft(fqn: Fqn, conf: &Continuum, flags: &CreateFlags) -> Result<Job, Failure> {
    let mut job = Job::named(fqn);
    job.tags.insert(APP_TAG.to_owned(), job.name.clone());
    job.num_instances = conf.instances.unwrap_or(job.num_instances);
    job.resources.memory = conf.memory.unwrap_or(job.resources.memory);
    job.resources.disk = conf.disk.unwrap_or(job.resources.disk);
    job.resources.cpu = conf.cpu.unwrap_or(job.resources.cpu);
    job.resources.network = conf.network.unwrap_or(job.resources.network);
    if let Some(mode) = &conf.restart_mode {
        job.restart.restart_mode =
            serde_json::from_value(Value::String(mode.clone())).map_err(|_| {
                Failure::usage(format!("restart_mode \"{mode}\" is not always, no or failure"))
            })?;
    }
    let process = job.processes.entry("app".to_owned()).or_default();
    process.environment.clone_from(&conf.env);
    process.start_command = conf.start_cmd.clone().unwrap_or_default();
    process.start_command_timeout = conf.timeout.unwrap_or(process.start_command_timeout);
    job.ports = ports(conf, flags)?;
    edit::apply(&mut job, &flags.job)?;
    Ok(job)
}

/// One port, the first that the flags name or one that is chosen at start, with the routes of the flags or one that the
/// cluster chooses.
fn ports(conf: &Continuum, flags: &CreateFlags) -> Result<Vec<Port>, Failure> {
    let number = flags.job.port_add.first().copied().unwrap_or(0);
    let flags = &flags.source;
    if flags.disable_routes {
        return Ok(Vec::new());
    }
    let Some(routes) = &flags.routes else {
        if conf.disable_routes {
            return Ok(Vec::new());
        }
        if !conf.ports.is_empty() {
            return conf.ports.iter().map(port_of).collect();
        }
        return Ok(vec![default_port(number, &[edit::AUTO.to_owned()], flags.https_only)?]);
    };
    Ok(vec![default_port(number, &edit::list(routes), flags.https_only)?])
}

fn default_port(number: u16, routes: &[String], https_only: bool) -> Result<Port, Failure> {
    let mut port = edit::new_port(number, false);
    for text in routes {
        let (kind, endpoint) = edit::endpoint(text, None)?;
        let https_only = https_only && kind == RouteKind::Http;
        port.routes.push(edit::new_route(kind, &endpoint, 0.0, https_only));
    }
    if port.routes.is_empty() {
        return Err(Failure::usage("--routes names no endpoint")
            .hint("--routes app.example.com, or --disable-routes"));
    }
    Ok(port)
}

fn port_of(said: &ContinuumPort) -> Result<Port, Failure> {
    let mut port = edit::new_port(said.number, said.optional);
    for route in &said.routes {
        let kind = match route.kind.as_str() {
            "tcp" => Some(RouteKind::Tcp),
            "http" => Some(RouteKind::Http),
            _ => None,
        };
        let (kind, endpoint) = edit::endpoint(&route.endpoint, kind)?;
        port.routes.push(edit::new_route(kind, &endpoint, route.weight, route.https_only));
    }
    Ok(port)
}

fn set_start_command(job: &mut Job, directory: &Path) -> Result<(), Failure> {
    let process = job.processes.entry("app".to_owned()).or_default();
    if process.start_command.is_empty() {
        process.start_command = start_command::find(directory)?;
    }
    Ok(())
}

/// `--pkg-add` and `--pkg-delete`.
pub(super) async fn add_packages(
    session: &Session,
    job: &mut Job,
    flags: &JobFlags,
) -> Result<(), Failure> {
    for text in &flags.pkg_add {
        let (name, path) =
            text.split_once('=').map_or((text.as_str(), None), |(name, path)| (name, Some(path)));
        let package = session.package(name).await?;
        if !job.packages.iter().any(|one| one.uuid == package.uuid) {
            job.packages.push(edit::job_package(package.uuid, path));
        }
    }
    for name in &flags.pkg_delete {
        let package = session.package(name).await?;
        job.packages.retain(|one| one.uuid != package.uuid);
    }
    Ok(())
}

/// What cannot be created is told before anything is packed. A cluster without the dry run says so with "not found".
async fn check(session: &Session, job: &Job) -> Result<(), Failure> {
    let checked: Result<Answer<Value>, Failure> = session.client()?.post("/jobs/check", job).await;
    match checked {
        Ok(_) => Ok(()),
        Err(failure)
            if matches!(
                failure.code(),
                Some(ErrorCode::Conflict | ErrorCode::Invalid | ErrorCode::Denied)
            ) =>
        {
            session.screen.step(creating(job)).end("error");
            Err(failure.while_doing("creating job"))
        }
        Err(failure) if failure.exit == Exit::Unreachable || failure.exit == Exit::Denied => {
            Err(failure)
        }
        Err(_) => Ok(()),
    }
}

fn creating(job: &Job) -> String {
    format!("Creating app \"{}\"", job.fqn.local())
}

async fn created(session: &Session, job: &Job) -> Result<Job, Failure> {
    let step = session.screen.step(creating(job));
    let path = format!("/jobs?wait=live&timeout_ms={}", crate::session::LIVE_TIMEOUT_MS);
    let answer: Result<Answer<Job>, Failure> = session.client()?.post(&path, job).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => {
            step.end("error");
            return Err(failure.while_doing("creating job"));
        }
    };
    step.done();
    if let Some(report) = live_report(&answer).filter(|_| answer.body.routes().next().is_some()) {
        session.screen.say(format!("Routes are {}", show_live(&report)));
    }
    Ok(answer.body)
}

/// Packs on a thread of its own: files are slow.
async fn packed(session: &Session, directory: &Path) -> Result<pack::Archive, Failure> {
    let step = session.screen.step("Packaging");
    let directory = directory.to_owned();
    let packed = tokio::task::spawn_blocking(move || pack::pack(&directory)).await;
    let archive = packed
        .map_err(|error| Failure::failed("packing broke off").because(error.to_string()))??;
    step.done();
    Ok(archive)
}

/// The rows of the documented box.
fn settings_rows(job: &Job, directory: &Path) -> Vec<(String, String)> {
    let resources = &job.resources;
    let uncapped = |amount: u64| if amount == 0 { " (uncapped)" } else { "" };
    let routes: Vec<String> = job
        .routes()
        .map(|(_, route)| match route.kind {
            RouteKind::Http => route.endpoint.clone(),
            RouteKind::Tcp => format!("tcp://{}", route.endpoint),
        })
        .collect();
    let process = job.process().cloned().unwrap_or_default();
    let rows = [
        ("FQN:", job.fqn.to_string()),
        ("Directory:", directory.display().to_string()),
        ("Instances:", job.num_instances.to_string()),
        ("Restart:", job.restart.restart_mode.as_str().to_owned()),
        ("Staging Pipeline:", "(will be auto-detected)".to_owned()),
        ("CPU:", format!("{}ms/s{}", resources.cpu, uncapped(resources.cpu))),
        ("Memory:", units::show_bytes(resources.memory)),
        ("Disk:", units::show_bytes(resources.disk)),
        ("NetMin:", units::show_bits_per_second(resources.network)),
        (
            "Netmax:",
            format!(
                "{}{}",
                units::show_bits_per_second(resources.netmax),
                uncapped(resources.netmax)
            ),
        ),
        ("Route(s):", if routes.is_empty() { "(none)".to_owned() } else { routes.join(", ") }),
        ("Startup Timeout:", format!("{} (seconds)", process.start_command_timeout)),
        ("Stop Timeout:", format!("{} (seconds)", process.stop_timeout)),
    ];
    rows.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The package of a job, if it is nobody else's.
pub(super) fn own_packages(job: &Job) -> Vec<PackageId> {
    job.packages
        .iter()
        .filter(|one| one.install_path.as_deref() == Some(INSTALL_PATH))
        .map(|one| one.uuid)
        .collect()
}

/// Whether a job is an application.
pub(super) fn is_app(job: &Job) -> bool {
    job.tags.contains_key(APP_TAG)
}

/// A package that this run made, or found as it should be.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) package: Package,
    pub(super) fresh: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(source: Source) -> CreateFlags {
        CreateFlags { source, ..Default::default() }
    }

    fn job(flags: &CreateFlags) -> Job {
        draft("job::/sandbox/admin::mynode".parse().unwrap(), &Continuum::default(), flags).unwrap()
    }

    /// Goal: the box of settings of a plain `apc app create`, byte for byte as the documents print it.
    #[test]
    fn the_documented_settings() {
        let rows = settings_rows(
            &job(&CreateFlags::default()),
            Path::new("/src/sample-apps/example-node-hello"),
        );
        assert_eq!(
            table::settings("Application Settings", &rows),
            "\
╭───────────────────────────────────────────────────────────────╮
│                     Application Settings                      │
├───────────────────┬───────────────────────────────────────────┤
│              FQN: │ job::/sandbox/admin::mynode               │
│        Directory: │ /src/sample-apps/example-node-hello       │
│        Instances: │ 1                                         │
│          Restart: │ always                                    │
│ Staging Pipeline: │ (will be auto-detected)                   │
│              CPU: │ 0ms/s (uncapped)                          │
│           Memory: │ 256MiB                                    │
│             Disk: │ 1GiB                                      │
│           NetMin: │ 5Mbps                                     │
│           Netmax: │ 0Mbps (uncapped)                          │
│         Route(s): │ auto                                      │
│  Startup Timeout: │ 30 (seconds)                              │
│     Stop Timeout: │ 5 (seconds)                               │
╰───────────────────┴───────────────────────────────────────────╯
"
        );
    }

    /// Goal: routes of the flags are on the port that is chosen at start; none means no port either.
    #[test]
    fn routes_of_the_flags() {
        let two = job(&flags(Source {
            routes: Some("http://a.com,http://b.com/x".to_owned()),
            https_only: true,
            ..Source::default()
        }));
        let seen: Vec<_> = two
            .routes()
            .map(|(port, route)| (port.number, route.endpoint.as_str(), route.https_only))
            .collect();
        assert_eq!(seen, [(0, "a.com", true), (0, "b.com/x", true)]);
        let mut fixed = flags(Source { routes: Some("f.com".to_owned()), ..Source::default() });
        fixed.job.port_add = vec![3000, 4000];
        let fixed = job(&fixed);
        assert_eq!(fixed.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [3000, 4000]);
        assert_eq!(
            fixed.routes().next().unwrap().0.number,
            3000,
            "the first is the one for clients"
        );
        let none = job(&flags(Source { disable_routes: true, ..Source::default() }));
        assert!(none.ports.is_empty());
        assert_eq!(settings_rows(&none, Path::new("/"))[10].1, "(none)");
    }

    /// Goal: the file's settings count, the flags win.
    #[test]
    fn flags_win_over_the_file() {
        let conf = conf::continuum::parse(
            "instances: 3\nstart_cmd: \"./x\"\nenv { A: \"1\" }\nresources { memory: \"512MB\" }\n",
        )
        .unwrap();
        let flags = CreateFlags {
            job: crate::cli::JobFlags { instances: Some(2), ..Default::default() },
            ..CreateFlags::default()
        };
        let job = draft("job::/a::b".parse().unwrap(), &conf, &flags).unwrap();
        assert_eq!((job.num_instances, job.resources.memory), (2, 512 << 20));
        assert_eq!(job.process().unwrap().start_command, "./x");
        assert_eq!(job.process().unwrap().environment["A"], "1");
    }

    /// Goal: URLs are what a browser needs, with the port only where it is not the usual one.
    #[test]
    fn urls_work_in_a_browser() {
        let info = |http_port, https_port| Info {
            name: String::new(),
            cluster_domain: String::new(),
            url: String::new(),
            http_port,
            https_port,
            tcp_host: String::new(),
        };
        let http = edit::new_route(RouteKind::Http, "a.com/shop", 0.0, false);
        let https = edit::new_route(RouteKind::Http, "a.com", 0.0, true);
        let tcp = edit::new_route(RouteKind::Tcp, "1.2.3.4:99", 0.0, false);
        assert_eq!(url_of(&http, &info(8080, 8443)), "http://a.com:8080/shop");
        assert_eq!(url_of(&http, &info(80, 443)), "http://a.com/shop");
        assert_eq!(url_of(&https, &info(80, 8443)), "https://a.com:8443");
        assert_eq!(url_of(&https, &info(80, 443)), "https://a.com");
        assert_eq!(url_of(&tcp, &info(80, 443)), "tcp://1.2.3.4:99");
    }
}
