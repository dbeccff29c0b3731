//! Flags of a command line laid over a job record.
//!
//! Pure: the same record and flags give the same record. What a value must look like beyond its kind (endpoints,
//! rules for clients, bounds) is the API's decision. Deliberately absent: sending it.

use crate::cli::{JobFlags, RestartMode, Rollout};
use crate::failure::Failure;
use crate::units;
use route::Weight;
use std::collections::BTreeMap;
use wire::Job;
use wire::job::{Extra, JobPackage, Port, Process, Route, RouteKind};

/// Asks the API for an endpoint.
pub(crate) const AUTO: &str = "auto";

/// Lays the flags over the record.
pub(crate) fn apply(job: &mut Job, flags: &JobFlags) -> Result<(), Failure> {
    if let Some(instances) = flags.instances {
        job.num_instances = instances;
    }
    resources(job, flags)?;
    process(job, flags)?;
    behaviour(job, flags)?;
    for number in &flags.port_add {
        match job.ports.iter_mut().find(|port| port.number == *number) {
            Some(port) => port.optional = flags.optional,
            None => job.ports.push(new_port(*number, flags.optional)),
        }
    }
    for number in &flags.port_delete {
        let before = job.ports.len();
        job.ports.retain(|port| port.number != *number);
        if job.ports.len() == before {
            return Err(Failure::not_found(format!("{} has no port {number}", job.fqn))
                .hint("apc app show"));
        }
    }
    Ok(())
}

fn resources(job: &mut Job, flags: &JobFlags) -> Result<(), Failure> {
    let set = |field: &mut u64, text: &Option<String>, read: fn(&str) -> Result<u64, Failure>| {
        if let Some(text) = text {
            *field = read(text)?;
        }
        Ok::<(), Failure>(())
    };
    set(&mut job.resources.memory, &flags.memory, units::bytes)?;
    set(&mut job.resources.disk, &flags.disk, units::bytes)?;
    set(&mut job.resources.cpu, &flags.cpu, units::cpu)?;
    set(&mut job.resources.network, &flags.netmin, units::bits_per_second)?;
    set(&mut job.resources.netmax, &flags.netmax, units::bits_per_second)
}

fn process(job: &mut Job, flags: &JobFlags) -> Result<(), Failure> {
    let mut process = job.process().cloned().unwrap_or_default();
    if let Some(command) = &flags.start_cmd {
        process.start_command.clone_from(command);
        process.start_command_raw.clear();
    }
    if let Some(command) = &flags.stop_cmd {
        process.stop_command.clone_from(command);
        process.stop_command_raw.clear();
    }
    if let Some(time) = &flags.timeout {
        process.start_command_timeout = units::seconds(time)?;
    }
    if let Some(time) = &flags.stop_timeout {
        process.stop_timeout = units::seconds(time)?;
    }
    for pair in &flags.env_set {
        let (name, value) = pair_of(pair)?;
        process.environment.insert(name.to_owned(), value.to_owned());
    }
    for name in &flags.env_unset {
        process.environment.remove(name);
    }
    if let Some(user) = &flags.user {
        process.user.clone_from(user);
    }
    if let Some(group) = &flags.group {
        process.group.clone_from(group);
    }
    if job.process().is_some() || process != Process::default() {
        let name = process_name(job);
        job.processes.insert(name, process);
    }
    Ok(())
}

/// The process that counts, or the name of the first one.
fn process_name(job: &Job) -> String {
    let only = job.processes.keys().next().filter(|_| !job.processes.contains_key("app"));
    only.map_or_else(|| "app".to_owned(), Clone::clone)
}

fn behaviour(job: &mut Job, flags: &JobFlags) -> Result<(), Failure> {
    if let Some(Some(mode)) = flags.restart {
        job.restart.restart_mode = match mode {
            RestartMode::Always => wire::job::RestartMode::Always,
            RestartMode::No => wire::job::RestartMode::No,
            RestartMode::Failure => wire::job::RestartMode::Failure,
        };
    }
    if let Some(attempts) = flags.max_attempts {
        job.restart.maximum_attempts = attempts;
    }
    if let Some(rollout) = flags.rollout {
        job.rollout.mode = match rollout {
            Rollout::StopAll => wire::job::RolloutMode::StopAll,
            Rollout::Rolling => wire::job::RolloutMode::Rolling,
        };
    }
    if let Some(rules) = &flags.client_acl {
        job.client_acl.clone_from(rules);
    }
    if let Some(tags) = &flags.hard_tags {
        job.hard_scheduling_tags = tag_set(tags);
    }
    if let Some(tags) = &flags.soft_tags {
        job.soft_scheduling_tags = tag_set(tags);
    }
    if let Some(names) = &flags.sticky_session_cookies {
        job.sticky_session_cookies = list(names);
    }
    if flags.no_sticky_session_cookies {
        job.sticky_session_cookies.clear();
    }
    for pair in &flags.label {
        let (name, value) = pair_of(pair)?;
        if value.is_empty() {
            job.labels.remove(name);
        } else {
            job.labels.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(())
}

/// `NAME=VALUE`.
pub(crate) fn pair_of(pair: &str) -> Result<(&str, &str), Failure> {
    let found = pair.split_once('=').filter(|(name, _)| !name.is_empty());
    found.ok_or_else(|| {
        Failure::usage(format!("\"{pair}\" is not NAME=VALUE")).hint("--env-set COLOUR=green")
    })
}

/// The items of a list with commas; empty ones are nothing.
pub(crate) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn tag_set(text: &str) -> BTreeMap<String, bool> {
    list(text).into_iter().map(|tag| (tag, true)).collect()
}

pub(crate) fn new_port(number: u16, optional: bool) -> Port {
    Port { number, optional, routes: Vec::new(), extra: Extra::new() }
}

pub(crate) fn new_route(kind: RouteKind, endpoint: &str, weight: f64, https_only: bool) -> Route {
    Route { kind, endpoint: endpoint.to_owned(), weight, https_only, extra: Extra::new() }
}

/// `http://host/path`, `tcp://address:port`, `auto`, or without a scheme; what the flags say goes, if the text says
/// nothing.
pub(crate) fn endpoint(
    text: &str,
    asked: Option<RouteKind>,
) -> Result<(RouteKind, String), Failure> {
    let (said, rest) = match text.split_once("://") {
        Some(("http" | "https", rest)) => (Some(RouteKind::Http), rest),
        Some(("tcp", rest)) => (Some(RouteKind::Tcp), rest),
        Some((scheme, _)) => {
            return Err(
                Failure::usage(format!("\"{scheme}\" is not a type of route")).hint("http or tcp")
            );
        }
        None => (None, text),
    };
    if let (Some(said), Some(asked)) = (said, asked)
        && said != asked
    {
        return Err(Failure::usage(format!(
            "\"{text}\" is not a route of type {}",
            asked.as_str()
        ))
        .hint("leave --type, --http and --tcp away"));
    }
    let rest = if rest == AUTO { rest } else { rest.trim_end_matches('/') };
    if rest.is_empty() {
        return Err(Failure::usage(format!("\"{text}\" is not an endpoint"))
            .hint("app.example.com, tcp://10.0.0.1:5432 or auto"));
    }
    let kind = said.or(asked).unwrap_or(RouteKind::Http);
    Ok((kind, canonical(kind, rest)?))
}

/// The form in which the API keeps it.
fn canonical(kind: RouteKind, rest: &str) -> Result<String, Failure> {
    if rest == AUTO {
        return Ok(rest.to_owned());
    }
    let whole = format!("{}://{rest}", kind.as_str());
    match whole.parse::<route::Endpoint>() {
        Ok(endpoint) => Ok(endpoint.name()),
        Err(error) => {
            Err(Failure::usage(format!("\"{rest}\" is not an endpoint of type {}", kind.as_str()))
                .because(error.what)
                .hint(error.hint))
        }
    }
}

/// `50%`, `auto`, `-10`.
pub(crate) fn weight(text: &str) -> Result<f64, Failure> {
    let weight: Weight = text.trim().parse().map_err(|error: route::SyntaxError| {
        Failure::usage(format!("\"{text}\" is not a weight"))
            .because(error.to_string())
            .hint("50%, 33.3%, auto or -10%")
    })?;
    Ok(weight.percent())
}

/// `auto`, `45%`, `-10%`.
pub(crate) fn show_weight(percent: f64) -> String {
    Weight::from_percent(percent).map_or_else(|| format!("{percent}%"), |weight| weight.to_string())
}

/// A package of the user in a job.
pub(crate) fn job_package(uuid: wire::PackageId, install_path: Option<&str>) -> JobPackage {
    JobPackage {
        uuid,
        install_path: install_path.map(str::to_owned),
        state: None,
        source: Some("user".to_owned()),
        extra: Extra::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job::named("job::/sandbox/admin::web".parse().unwrap())
    }

    /// Goal: each flag lands in its field, and nothing else changes.
    #[test]
    fn flags_land_in_their_fields() {
        let flags = JobFlags {
            instances: Some(3),
            memory: Some("512MB".to_owned()),
            netmax: Some("10Mbps".to_owned()),
            start_cmd: Some("./x".to_owned()),
            timeout: Some("1m".to_owned()),
            restart: Some(Some(RestartMode::Failure)),
            env_set: vec!["A=b=c".to_owned()],
            port_add: vec![0, 4567],
            optional: true,
            hard_tags: Some("ssd, !gpu".to_owned()),
            client_acl: Some(", deny 10.0.0.0/8".to_owned()),
            label: vec!["team=a".to_owned()],
            ..JobFlags::default()
        };
        let mut changed = job();
        apply(&mut changed, &flags).unwrap();
        let mut expected = job();
        expected.num_instances = 3;
        expected.resources.memory = 512 << 20;
        expected.resources.netmax = 10_000_000;
        let process = Process {
            start_command: "./x".to_owned(),
            start_command_timeout: 60,
            environment: BTreeMap::from([("A".to_owned(), "b=c".to_owned())]),
            ..Process::default()
        };
        expected.processes.insert("app".to_owned(), process);
        expected.restart.restart_mode = wire::job::RestartMode::Failure;
        expected.ports = vec![new_port(0, true), new_port(4567, true)];
        expected.hard_scheduling_tags =
            BTreeMap::from([("!gpu".to_owned(), true), ("ssd".to_owned(), true)]);
        expected.client_acl = ", deny 10.0.0.0/8".to_owned();
        expected.labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        assert_eq!(changed, expected);
    }

    /// Goal: no flag, no change; a flag that cannot be is told.
    #[test]
    fn no_flag_no_change() {
        let mut changed = job();
        apply(&mut changed, &JobFlags::default()).unwrap();
        assert_eq!(changed, job());
        let gone = JobFlags { port_delete: vec![80], ..JobFlags::default() };
        assert_eq!(
            apply(&mut changed, &gone).unwrap_err().what,
            "job::/sandbox/admin::web has no port 80"
        );
        let pair = JobFlags { env_set: vec!["=x".to_owned()], ..JobFlags::default() };
        assert_eq!(apply(&mut changed, &pair).unwrap_err().what, "\"=x\" is not NAME=VALUE");
    }

    /// Goal: the ways to write an endpoint, and the type that follows.
    #[test]
    fn endpoints_and_their_types() {
        use RouteKind::{Http, Tcp};
        let read = |text: &str, asked| endpoint(text, asked).map_err(|failure| failure.what);
        for (text, asked, kind, name) in [
            ("http://myapp.example.me", None, Http, "myapp.example.me"),
            ("myapp.example.me/", Some(Http), Http, "myapp.example.me"),
            ("MyApp.example.me/shop", None, Http, "myapp.example.me/shop"),
            ("tcp://10.0.0.1:80", None, Tcp, "10.0.0.1:80"),
            ("10.0.0.1:80", Some(Tcp), Tcp, "10.0.0.1:80"),
            ("tcp://auto", None, Tcp, "auto"),
            ("auto", Some(Tcp), Tcp, "auto"),
            ("auto", None, Http, "auto"),
        ] {
            assert_eq!(read(text, asked), Ok((kind, name.to_owned())), "{text}");
        }
        assert_eq!(read("ftp://x", None).unwrap_err(), "\"ftp\" is not a type of route");
        assert_eq!(
            read("tcp://1.2.3.4:5", Some(Http)).unwrap_err(),
            "\"tcp://1.2.3.4:5\" is not a route of type http"
        );
        assert_eq!(
            read("a$b.com", None).unwrap_err(),
            "\"a$b.com\" is not an endpoint of type http"
        );
        assert_eq!(
            (weight("-10%").unwrap(), show_weight(0.0).as_str(), show_weight(-10.0).as_str()),
            (-10.0, "auto", "-10%")
        );
        assert_eq!(weight("much").unwrap_err().what, "\"much\" is not a weight");
    }
}
