//! `apc route …`: which job answers under which endpoint, and how much of the traffic it gets.
//!
//! Routes are part of job records; there is no other place for them. Every change reports when all routers serve it.
//! Deliberately absent: what makes an endpoint valid, which the API decides.

use super::app;
use super::life::{self, Saved};
use crate::cli::{Kind, RouteAdd, RouteUse, Target, TypeName};
use crate::client::escaped;
use crate::edit;
use crate::failure::{Exit, Failure};
use crate::screen::Screen;
use crate::session::{Session, show_live};
use crate::table::Table;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use wire::Job;
use wire::job::{Route, RouteKind};
use wire::routing::{Explain, Explained, Proof, Proved};

/// Where a route that is unmapped keeps the weight that it had.
const WEIGHT_BEFORE: &str = "weight_before_unmap";
/// Weight of a route without traffic that was `auto`; any negative number does.
const UNMAPPED: f64 = -100.0;
/// The port for ssh is not one for traffic.
const SSH_PORT: u16 = 222;

/// `apc route add`
pub(super) async fn add(session: &Session, flags: &RouteAdd) -> Result<(), Failure> {
    let (kind, endpoint) = edit::endpoint(&flags.endpoint, asked(&flags.kind)?)?;
    let asked_weight = flags.weight.as_deref().map(edit::weight).transpose()?;
    let weight = asked_weight.unwrap_or(0.0);
    if flags.https_only && kind == RouteKind::Tcp {
        return Err(Failure::usage("--https-only is for routes of type http"));
    }
    let record = session.job(target(&flags.target)?).await?;
    let before: Vec<Route> = record.routes().map(|(_, route)| route.clone()).collect();
    let name = record.fqn.local().to_owned();
    let step = session.screen.step(format!("Adding route \"{endpoint}\" to \"{name}\""));
    let saved = life::save(session, record, !flags.no_restart, |job| {
        insert(
            job,
            edit::new_route(kind, &endpoint, weight, flags.https_only),
            flags.target.port,
            flags.optional,
        );
        // A route that is there already gets the weight that was asked for, and no other.
        if let Some(weight) = asked_weight {
            let meant = |number| flags.target.port.is_none_or(|port| port == number);
            for port in job.ports.iter_mut().filter(|port| meant(port.number)) {
                let same = |route: &&mut Route| route.kind == kind && route.endpoint == endpoint;
                port.routes.iter_mut().filter(same).for_each(|route| route.weight = weight);
            }
        }
        Ok(())
    })
    .await?;
    step.done();
    let info = session.info().await?;
    let served = saved.live.as_ref().is_none_or(|live| live.routers_live > 0);
    for (_, route) in saved.job.routes().filter(|(_, route)| served && !before.contains(route)) {
        session.screen.say(format!("App should be accessible at \"{}\"", app::url_of(route, info)));
    }
    finish(session, saved).await
}

/// The port that is meant, or the first that is there, or one that is chosen at start.
fn insert(job: &mut Job, route: Route, port: Option<u16>, optional: bool) {
    let first = || job.ports.iter().map(|port| port.number).find(|number| *number != SSH_PORT);
    let number = port.or_else(first).unwrap_or(0);
    if !job.ports.iter().any(|port| port.number == number) {
        job.ports.push(edit::new_port(number, optional));
    }
    let Some(port) = job.ports.iter_mut().find(|port| port.number == number) else { return };
    let known = port.routes.iter().any(|other| {
        other.kind == route.kind
            && other.endpoint == route.endpoint
            && other.https_only == route.https_only
    });
    if !known || route.endpoint == edit::AUTO {
        port.routes.push(route);
    }
}

/// `apc route delete`
pub(super) async fn delete(session: &Session, flags: &RouteUse) -> Result<(), Failure> {
    let uses = Uses::read(flags)?;
    let record = uses.job(session, &flags.target).await?;
    let step = session.screen.step(format!(
        "Deleting route \"{}\" from \"{}\"",
        uses.endpoint,
        record.fqn.local()
    ));
    let saved = life::save(session, record, false, |job| {
        uses.each(job, |_| ())?;
        for port in job.ports.iter_mut().filter(|port| uses.is_port(port.number)) {
            port.routes.retain(|route| !uses.is(route));
        }
        Ok(())
    })
    .await?;
    step.done();
    finish(session, saved).await
}

/// `apc route weight`
pub(super) async fn weight(session: &Session, flags: &RouteUse) -> Result<(), Failure> {
    let Some(text) = &flags.weight else {
        return Err(Failure::usage("it is not said which weight")
            .hint("--weight 50%, --weight auto or --weight -10%"));
    };
    let weight = edit::weight(text)?;
    reweigh(session, flags, "Setting weight of", |route| {
        route.weight = weight;
        route.extra.remove(WEIGHT_BEFORE);
    })
    .await
}

/// `apc route map`
pub(super) async fn map(session: &Session, flags: &RouteUse) -> Result<(), Failure> {
    let weight = flags.weight.as_deref().map(edit::weight).transpose()?;
    let uses = Uses::read(flags)?;
    if let (Some(_), Ok(record)) = (named(&flags.target), uses.job(session, &flags.target).await)
        && !record.routes().any(|(port, route)| uses.is_port(port.number) && uses.is(route))
    {
        let RouteUse { endpoint, kind, target, weight, wait } = flags.clone();
        let flags = RouteAdd {
            endpoint,
            kind,
            target,
            weight,
            https_only: false,
            optional: false,
            wait,
            no_restart: false,
        };
        return add(session, &flags).await;
    }
    reweigh(session, flags, "Mapping", |route| {
        let before = route.extra.remove(WEIGHT_BEFORE).as_ref().and_then(Value::as_f64);
        let active =
            if route.weight < 0.0 { before.unwrap_or(-route.weight) } else { route.weight };
        route.weight = weight.unwrap_or(active);
    })
    .await
}

/// `apc route unmap`
pub(super) async fn unmap(session: &Session, flags: &RouteUse) -> Result<(), Failure> {
    reweigh(session, flags, "Unmapping", |route| {
        if route.weight >= 0.0 {
            route.extra.insert(WEIGHT_BEFORE.to_owned(), route.weight.into());
            route.weight = if route.weight > 0.0 { -route.weight } else { UNMAPPED };
        }
    })
    .await
}

async fn reweigh(
    session: &Session,
    flags: &RouteUse,
    doing: &str,
    change: impl Fn(&mut Route),
) -> Result<(), Failure> {
    let uses = Uses::read(flags)?;
    let record = uses.job(session, &flags.target).await?;
    let step = session.screen.step(format!(
        "{doing} route \"{}\" of \"{}\"",
        uses.endpoint,
        record.fqn.local()
    ));
    let saved = life::save(session, record, false, |job| uses.each(job, &change)).await?;
    step.done();
    for (_, route) in
        saved.job.routes().filter(|(port, route)| uses.is_port(port.number) && uses.is(route))
    {
        session.screen.say(format!("Weight is {}", edit::show_weight(route.weight)));
    }
    finish(session, saved).await
}

/// `live on 2/2 routers, 4/4 cores, 9 ms`, `Success!`
async fn finish(session: &Session, saved: Saved) -> Result<(), Failure> {
    if !saved.written {
        session.screen.say("Nothing to change");
    }
    if let Some(report) = &saved.live {
        session.screen.say(show_live(report));
    }
    if saved.restarted {
        life::await_running(session, &saved.job, &crate::cli::Wait::default()).await?;
    }
    session.print_json(&saved.job)?;
    let late = saved.live.as_ref().and_then(|live| match live.routers - live.routers_live {
        _ if live.routers == 0 => Some("no router serves it yet: none was heard".to_owned()),
        0 => None,
        late => Some(format!("{late} of {} routers do not serve it yet", live.routers)),
    });
    if let Some(what) = late {
        return Err(Failure::new(Exit::TimedOut, what)
            .because("the change is written; they take it over as soon as they can")
            .hint("apc route explain http://ENDPOINT/, to see what a router does now"));
    }
    session.screen.success();
    Ok(())
}

/// Which routes a command is about.
struct Uses {
    kind: Option<RouteKind>,
    endpoint: String,
    port: Option<u16>,
}

impl Uses {
    fn read(flags: &RouteUse) -> Result<Self, Failure> {
        let asked = asked(&flags.kind)?;
        // An address and a port are a tcp endpoint, whatever is not said.
        let tcp = asked.is_none() && flags.endpoint.parse::<std::net::SocketAddr>().is_ok();
        let guess = if tcp { Some(RouteKind::Tcp) } else { asked };
        let (kind, endpoint) = edit::endpoint(&flags.endpoint, guess)?;
        Ok(Self { kind: Some(kind), endpoint, port: flags.target.port })
    }

    fn is(&self, route: &Route) -> bool {
        route.endpoint == self.endpoint && self.kind.is_none_or(|kind| kind == route.kind)
    }

    fn is_port(&self, number: u16) -> bool {
        self.port.is_none_or(|port| port == number)
    }

    /// Does `change` to each route that is meant; none is an error.
    fn each(&self, job: &mut Job, mut change: impl FnMut(&mut Route)) -> Result<(), Failure> {
        let mut found = false;
        for port in job.ports.iter_mut().filter(|port| self.is_port(port.number)) {
            for route in port.routes.iter_mut().filter(|route| self.is(route)) {
                change(route);
                found = true;
            }
        }
        if found {
            return Ok(());
        }
        let here: Vec<String> = job.routes().map(|(_, route)| route.endpoint.clone()).collect();
        let failure =
            Failure::not_found(format!("\"{}\" has no route \"{}\"", job.fqn, self.endpoint));
        Err(match crate::argv::nearest(&self.endpoint, here.iter().map(String::as_str)) {
            Some(near) => failure.hint(near.to_owned()),
            None if here.is_empty() => failure.because("it has no routes"),
            None => failure.because(format!("it has {}", here.join(", "))),
        })
    }

    /// The job that is named, or the only one that uses the endpoint.
    async fn job(&self, session: &Session, target: &Target) -> Result<Job, Failure> {
        if let Some(name) = named(target) {
            return session.job(name).await;
        }
        let mut users = users(session, |route| self.is(route)).await?;
        match (users.pop(), users.is_empty()) {
            (Some(job), true) => Ok(job),
            (None, _) => Err(no_route(&self.endpoint)),
            (Some(last), false) => {
                let names: Vec<String> =
                    users.iter().chain([&last]).map(|job| job.fqn.to_string()).collect();
                Err(Failure::usage(format!("{} jobs use \"{}\"", names.len(), self.endpoint))
                    .because(names.join(", "))
                    .hint("--app NAME"))
            }
        }
    }
}

fn asked(kind: &Kind) -> Result<Option<RouteKind>, Failure> {
    let by_type = kind.kind.map(|name| match name {
        TypeName::Http => RouteKind::Http,
        TypeName::Tcp => RouteKind::Tcp,
    });
    let by_flag = if kind.tcp {
        Some(RouteKind::Tcp)
    } else if kind.http {
        Some(RouteKind::Http)
    } else {
        None
    };
    match (by_type, by_flag) {
        (Some(one), Some(other)) if one != other => {
            Err(Failure::usage("--type says one thing, --http or --tcp the other"))
        }
        _ => Ok(by_type.or(by_flag)),
    }
}

fn named(target: &Target) -> Option<&str> {
    target.app.as_deref().or(target.job.as_deref())
}

fn target(target: &Target) -> Result<&str, Failure> {
    named(target).ok_or_else(|| Failure::usage("it is not said which job").hint("--app NAME"))
}

fn no_route(endpoint: &str) -> Failure {
    Failure::not_found(format!("there is no route \"{endpoint}\"")).hint("apc route list")
}

/// Jobs with a route that fits, by name.
async fn users(session: &Session, fits: impl Fn(&Route) -> bool) -> Result<Vec<Job>, Failure> {
    let mut jobs: Vec<Job> = session.client()?.list("/jobs?health=false").await?;
    jobs.retain(|job| job.routes().any(|(_, route)| fits(route)));
    jobs.sort_by(|a, b| a.fqn.cmp(&b.fqn));
    Ok(jobs)
}

/// `apc route list`. The list is that of the cluster, like the documented one, which shows an endpoint of /dev to
/// somebody who works in /sandbox/admin; `--namespace` narrows it.
pub(super) async fn list(session: &Session, long: bool) -> Result<(), Failure> {
    let narrow = session.globals.namespace.is_some();
    let path = if narrow {
        format!("/jobs?health=false&namespace={}", escaped(session.namespace().await?.as_str()))
    } else {
        "/jobs?health=false".to_owned()
    };
    let mut jobs: Vec<Job> = session.client()?.list(&path).await?;
    if narrow {
        let here = session.namespace().await?;
        jobs.retain(|job| here.covers(job.fqn.namespace()));
    }
    jobs.retain(|job| job.routes().next().is_some());
    jobs.sort_by(|a, b| a.fqn.cmp(&b.fqn));
    if session.globals.json {
        session.print_json(&jobs)?;
        return Ok(());
    }
    if long {
        Screen::data(&long_table(&jobs).render());
        return Ok(());
    }
    session.say_namespace().await?;
    Screen::data(&short_table(&jobs).render());
    Ok(())
}

fn short_table(jobs: &[Job]) -> Table {
    let mut uses: BTreeMap<(RouteKind, &str), u32> = BTreeMap::new();
    for (_, route) in jobs.iter().flat_map(Job::routes) {
        *uses.entry((route.kind, &route.endpoint)).or_default() += 1;
    }
    let mut table = Table::new(&["Type", "Endpoint", "# Times Used"]);
    for ((kind, endpoint), times) in uses {
        table.row([kind.as_str().to_owned(), endpoint.to_owned(), times.to_string()]);
    }
    table
}

fn long_table(jobs: &[Job]) -> Table {
    let mut uses: Vec<(&Route, &Job)> =
        jobs.iter().flat_map(|job| job.routes().map(move |(_, route)| (route, job))).collect();
    uses.sort_by(|a, b| {
        (a.0.kind, &a.0.endpoint, &a.1.fqn).cmp(&(b.0.kind, &b.0.endpoint, &b.1.fqn))
    });
    let mut table = Table::new(&["Type", "Endpoint", "Weight", "Job FQN", "Job UUID"]);
    for (route, job) in uses {
        table.row([
            route.kind.as_str().to_owned(),
            route.endpoint.clone(),
            edit::show_weight(route.weight),
            job.fqn.to_string(),
            job.uuid.to_string(),
        ]);
    }
    table
}

/// `apc route show`
pub(super) async fn show(session: &Session, text: &str) -> Result<(), Failure> {
    let uses = Uses::read(&RouteUse { endpoint: text.to_owned(), ..RouteUse::default() })?;
    let jobs = users(session, |route| uses.is(route)).await?;
    if jobs.is_empty() {
        return Err(no_route(&uses.endpoint));
    }
    if session.print_json(&jobs)? {
        return Ok(());
    }
    session.screen.say(format!("Jobs using route '{}':", uses.endpoint));
    Screen::data(&users_table(&jobs, &uses).render());
    Ok(())
}

fn users_table(jobs: &[Job], uses: &Uses) -> Table {
    let mut table = Table::new(&["Name", "Namespace", "Weight"]);
    for job in jobs {
        for (_, route) in job.routes().filter(|(_, route)| uses.is(route)) {
            table.row([
                job.fqn.local().to_owned(),
                job.fqn.namespace().to_string(),
                edit::show_weight(route.weight),
            ]);
        }
    }
    table
}

/// `apc route explain`
pub(super) async fn explain(session: &Session, url: &str, from: IpAddr) -> Result<(), Failure> {
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let answer =
        session.client()?.post::<_, Explained>("/routes/explain", &Explain { url, from }).await?;
    if !session.print_json(&answer.body)? {
        Screen::data(&format!("{}\n", answer.body.text.trim_end()));
    }
    Ok(())
}

/// `apc route proof`
pub(super) async fn proof(session: &Session, text: &str, kind: &Kind) -> Result<(), Failure> {
    let uses = Uses::read(&RouteUse {
        endpoint: text.to_owned(),
        kind: kind.clone(),
        ..RouteUse::default()
    })?;
    let question =
        Proof { kind: uses.kind.unwrap_or(RouteKind::Http), endpoint: uses.endpoint.clone() };
    let answers = session.client()?.post::<_, Vec<Proved>>("/routes/proof", &question).await?.body;
    if session.print_json(&answers)? {
        return Ok(());
    }
    if answers.iter().all(|answer| answer.jobs.is_empty()) {
        return Err(no_route(&uses.endpoint).because(format!("{} routers know it", answers.len())));
    }
    Screen::data(&proof_table(&answers).render());
    let cores: u32 = answers.iter().map(|answer| answer.cores).sum();
    session.screen.say(format!(
        "{} routers, {cores} cores; each core may be off by less than one request",
        answers.len()
    ));
    for answer in &answers {
        if let Some((p50, p99, p999)) = answer.latency_us {
            session.screen.say(format!(
                "[{}] latency p50 {p50} µs, p99 {p99} µs, p99.9 {p999} µs",
                answer.router.short()
            ));
        }
    }
    Ok(())
}

/// All routers together; the share is that of the weights with the jobs that are live now.
fn proof_table(answers: &[Proved]) -> Table {
    let mut sums: BTreeMap<(String, u16), (f64, f64, u64)> = BTreeMap::new();
    for one in answers.iter().flat_map(|answer| &answer.jobs) {
        let sum = sums.entry((one.fqn.to_string(), one.port)).or_insert((one.weight, one.share, 0));
        sum.2 += one.requests;
    }
    let total: u64 = sums.values().map(|sum| sum.2).sum();
    let mut table = Table::new(&["Job FQN", "Port", "Weight", "Promised", "Requests", "Got"]);
    for ((fqn, port), (weight, share, requests)) in sums {
        #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
        let got = if total == 0 {
            "-".to_owned()
        } else {
            format!("{:.2}%", requests as f64 * 100.0 / total as f64)
        };
        table.row([
            fqn,
            port.to_string(),
            edit::show_weight(weight),
            format!("{:.2}%", share * 100.0),
            requests.to_string(),
            got,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn using(name: &str, uuid: &str, endpoints: &[(&str, f64)]) -> Job {
        let mut job = Job::named(name.parse().unwrap());
        job.uuid = uuid.parse().unwrap();
        let mut port = edit::new_port(0, false);
        port.routes = endpoints
            .iter()
            .map(|(name, weight)| edit::new_route(RouteKind::Http, name, *weight, false))
            .collect();
        job.ports = vec![port];
        job
    }

    fn documented() -> [Job; 3] {
        [
            using(
                "job::/sandbox/admin::app1",
                "3b0a6209-5dcf-408c-8941-cf9f44295f58",
                &[("app-route.foo.com", 0.0)],
            ),
            using(
                "job::/sandbox/admin::app2",
                "0512b2a3-18a9-4d0e-9a45-717b525921dc",
                &[("app-route.foo.com", 0.0)],
            ),
            using(
                "job::/dev::app2",
                "0512b2a3-18a9-4d0e-9a45-717b525921dc",
                &[("my-route2.foo.com", 0.0)],
            ),
        ]
    }

    /// Goal: the three tables of the documents, byte for byte, from the jobs that they show.
    #[test]
    fn documented_tables() {
        assert_eq!(
            short_table(&documented()).render(),
            "\
╭──────┬───────────────────┬──────────────╮
│ Type │ Endpoint          │ # Times Used │
├──────┼───────────────────┼──────────────┤
│ http │ app-route.foo.com │ 2            │
│ http │ my-route2.foo.com │ 1            │
╰──────┴───────────────────┴──────────────╯
"
        );
        assert_eq!(
            long_table(&documented()).render(),
            "\
╭──────┬───────────────────┬────────┬───────────────────────────┬──────────────────────────────────────╮
│ Type │ Endpoint          │ Weight │ Job FQN                   │ Job UUID                             │
├──────┼───────────────────┼────────┼───────────────────────────┼──────────────────────────────────────┤
│ http │ app-route.foo.com │ auto   │ job::/sandbox/admin::app1 │ 3b0a6209-5dcf-408c-8941-cf9f44295f58 │
│ http │ app-route.foo.com │ auto   │ job::/sandbox/admin::app2 │ 0512b2a3-18a9-4d0e-9a45-717b525921dc │
│ http │ my-route2.foo.com │ auto   │ job::/dev::app2           │ 0512b2a3-18a9-4d0e-9a45-717b525921dc │
╰──────┴───────────────────┴────────┴───────────────────────────┴──────────────────────────────────────╯
"
        );
        let uses = Uses {
            kind: Some(RouteKind::Http),
            endpoint: "app-route.foo.com".to_owned(),
            port: None,
        };
        assert_eq!(
            users_table(&documented(), &uses).render(),
            "\
╭──────┬────────────────┬────────╮
│ Name │ Namespace      │ Weight │
├──────┼────────────────┼────────┤
│ app1 │ /sandbox/admin │ auto   │
│ app2 │ /sandbox/admin │ auto   │
╰──────┴────────────────┴────────╯
"
        );
    }

    /// Goal: a route goes to the port that is meant, to the first that is for traffic, or to a new one; twice is once.
    #[test]
    fn a_route_finds_its_port() {
        let mut record = Job::named("job::/a::b".parse().unwrap());
        record.ports = vec![edit::new_port(222, true), edit::new_port(80, false)];
        let route = |name: &str| edit::new_route(RouteKind::Http, name, 0.0, false);
        insert(&mut record, route("a.com"), None, false);
        insert(&mut record, route("a.com"), None, false);
        insert(&mut record, route("b.com"), Some(1999), true);
        let seen: Vec<_> =
            record.routes().map(|(port, route)| (port.number, route.endpoint.as_str())).collect();
        assert_eq!(seen, [(80, "a.com"), (1999, "b.com")]);
        assert!(record.ports[2].optional);
        let mut bare = Job::named("job::/a::b".parse().unwrap());
        insert(&mut bare, route("auto"), None, false);
        assert_eq!(bare.ports[0].number, 0);
    }

    /// Goal: a route that is not there is told, with what is.
    #[test]
    fn a_missing_route_is_told() {
        let [mut job, ..] = documented();
        let uses = |endpoint: &str| Uses { kind: None, endpoint: endpoint.to_owned(), port: None };
        let near = uses("app-route.fo.com").each(&mut job, |_| ()).unwrap_err();
        assert_eq!(near.what, "\"job::/sandbox/admin::app1\" has no route \"app-route.fo.com\"");
        assert_eq!(near.remedy, "app-route.foo.com");
        assert_eq!(
            uses("x.com").each(&mut job, |_| ()).unwrap_err().why,
            "it has app-route.foo.com"
        );
    }

    /// Goal: what the routers counted is summed, and stands beside what the weights promise.
    #[test]
    fn the_proof() {
        let answer = |requests: [u64; 2]| {
            let job = |at: usize, name: &str, weight, share| wire::routing::ProvedJob {
                job: "3b0a6209-5dcf-408c-8941-cf9f44295f58".parse().unwrap(),
                fqn: name.parse().unwrap(),
                port: 0,
                weight,
                share,
                requests: requests[at],
            };
            Proved {
                router: "3b0a6209-5dcf-408c-8941-cf9f44295f58".parse().unwrap(),
                cores: 2,
                jobs: vec![job(0, "job::/a::blue", 30.0, 0.3), job(1, "job::/a::green", 0.0, 0.7)],
                latency_us: None,
            }
        };
        assert_eq!(
            proof_table(&[answer([3, 7]), answer([6, 14])]).render(),
            "\
╭────────────────┬──────┬────────┬──────────┬──────────┬────────╮
│ Job FQN        │ Port │ Weight │ Promised │ Requests │ Got    │
├────────────────┼──────┼────────┼──────────┼──────────┼────────┤
│ job::/a::blue  │ 0    │ 30%    │ 30.00%   │ 9        │ 30.00% │
│ job::/a::green │ 0    │ auto   │ 70.00%   │ 21       │ 70.00% │
╰────────────────┴──────┴────────┴──────────┴──────────┴────────╯
"
        );
    }
}
