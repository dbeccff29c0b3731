//! Properties of the table as a whole, seen from outside: it equals a naive scan, any history of
//! changes equals a rebuild, older versions stay, deltas tell exactly what differs.
//!
//! Names, prefixes and addresses come from small sets, so that short histories collide often.
//! Replay a failure with the seed that proptest prints.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, in its helpers too")]

use proptest::prelude::*;
use route::{
    Change, ClientAcl, Delta, Desired, DesiredJob, DesiredRoute, Editor, Endpoint, Freed, Job,
    JobSlot, Miss, Outcome, Question, Route, RouteSlot, Table, Weight, diff,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

const HOSTS: [&str; 9] = [
    "x",
    "a.x",
    "b.x",
    "*.x",
    "a.b.x",
    "*.b.x",
    "10.0.0.1",
    "[::1]",
    "a-rather-long-name.of.an.application.x",
];
const PREFIXES: [&str; 6] = ["", "/s", "/s/t", "/st", "/s/t/u", "/S"];
const TCP: [&str; 2] = ["tcp://127.0.0.1:7001", "tcp://[::1]:7001"];
const JOBS: [&str; 4] = ["job::/a::1", "job::/a::2", "b", "c"];
const ACLS: [&str; 4] =
    ["", "deny 10.0.0.0/8", "allow 10.1.0.0/16, deny 0.0.0.0/0", "::1, deny ::/0"];
const CLIENTS: [&str; 5] = ["10.1.2.3", "10.2.2.3", "::ffff:10.2.2.3", "::1", "192.0.2.1"];

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let http = (prop::sample::select(&HOSTS[..]), prop::sample::select(&PREFIXES[..]))
        .prop_map(|(host, prefix)| format!("http://{host}{prefix}").parse().unwrap());
    let tcp = prop::sample::select(&TCP[..]).prop_map(|text| text.parse().unwrap());
    prop_oneof![9 => http, 1 => tcp]
}

fn job_name() -> impl Strategy<Value = String> {
    prop::sample::select(&JOBS[..]).prop_map(str::to_owned)
}

fn acl() -> impl Strategy<Value = ClientAcl> {
    prop::sample::select(&ACLS[..]).prop_map(|text| text.parse().unwrap())
}

fn addr() -> impl Strategy<Value = SocketAddr> {
    (9_001u16..9_006).prop_map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
}

fn weight() -> impl Strategy<Value = Weight> {
    prop_oneof![Just(0), Just(-1_000), 1i32..20_000]
        .prop_map(|hundredths| Weight::from_hundredths(hundredths).unwrap())
}

fn change() -> impl Strategy<Value = Change> {
    let https = prop::bool::weighted(0.1);
    prop_oneof![
        3 => (job_name(), acl(), prop::collection::vec(addr(), 0..4))
            .prop_map(|(name, client_acl, instances)| Change::PutJob { name, client_acl, instances }),
        1 => job_name().prop_map(|name| Change::RemoveJob { name }),
        1 => (job_name(), acl()).prop_map(|(job, client_acl)| Change::SetAcl { job, client_acl }),
        2 => (job_name(), addr()).prop_map(|(job, addr)| Change::AddInstance { job, addr }),
        2 => (job_name(), addr()).prop_map(|(job, addr)| Change::RemoveInstance { job, addr }),
        8 => (endpoint(), https, job_name(), weight()).prop_map(
            |(endpoint, https_only, job, weight)| Change::PutTarget { endpoint, https_only, job, weight }),
        2 => (endpoint(), job_name(), weight())
            .prop_map(|(endpoint, job, weight)| Change::SetWeight { endpoint, job, weight }),
        3 => (endpoint(), job_name())
            .prop_map(|(endpoint, job)| Change::RemoveTarget { endpoint, job }),
        1 => endpoint().prop_map(|endpoint| Change::RemoveRoute { endpoint }),
    ]
}

fn history() -> impl Strategy<Value = Vec<Vec<Change>>> {
    prop::collection::vec(prop::collection::vec(change(), 1..5), 1..40)
}

fn desired() -> impl Strategy<Value = Desired> {
    let jobs = prop::collection::btree_map(
        job_name(),
        (acl(), prop::collection::btree_set(addr(), 0..4))
            .prop_map(|(client_acl, instances)| DesiredJob { client_acl, instances }),
        1..=4,
    );
    let targets = prop::collection::btree_map(job_name(), weight(), 1..=4);
    let routes = prop::collection::btree_map(endpoint(), (any::<bool>(), targets), 0..12);
    (jobs, routes).prop_map(|(jobs, routes)| {
        let route = |(endpoint, (https_only, mut targets)): (
            Endpoint,
            (bool, BTreeMap<String, Weight>),
        )| {
            targets.retain(|job, _| jobs.contains_key(job));
            let https_only = https_only && endpoint.http().is_some();
            (!targets.is_empty()).then_some((endpoint, DesiredRoute { https_only, targets }))
        };
        let routes = routes.into_iter().filter_map(route).collect();
        Desired { jobs, routes }
    })
}

// === the model: the meaning of every change, in maps ===

/// Makes the change in the model. False when it cannot be made.
fn make(model: &mut Desired, change: &Change) -> bool {
    match change.clone() {
        Change::PutJob { name, client_acl, instances } => {
            let distinct: BTreeSet<_> = instances.iter().copied().collect();
            let fine = distinct.len() == instances.len();
            model.jobs.insert(name, DesiredJob { client_acl, instances: distinct });
            fine
        }
        Change::RemoveJob { name } => {
            model.jobs.remove(&name);
            model.routes.values().all(|route| !route.targets.contains_key(&name))
        }
        Change::SetAcl { job, client_acl } => {
            model.jobs.get_mut(&job).map(|job| job.client_acl = client_acl).is_some()
        }
        Change::AddInstance { job, addr } => {
            model.jobs.get_mut(&job).map(|job| job.instances.insert(addr)).is_some()
        }
        Change::RemoveInstance { job, addr } => {
            if let Some(job) = model.jobs.get_mut(&job) {
                job.instances.remove(&addr);
            }
            true
        }
        Change::PutTarget { endpoint, https_only, job, weight } => {
            let fine = model.jobs.contains_key(&job) && (!https_only || endpoint.http().is_some());
            let route = model
                .routes
                .entry(endpoint)
                .or_insert_with(|| DesiredRoute { https_only, targets: BTreeMap::new() });
            route.targets.insert(job, weight);
            fine && route.https_only == https_only
        }
        Change::SetWeight { endpoint, job, weight } => {
            let route = model.routes.get_mut(&endpoint);
            let slot = route.and_then(|route| route.targets.get_mut(&job));
            slot.map(|old| *old = weight).is_some() && model.jobs.contains_key(&job)
        }
        Change::RemoveTarget { endpoint, job } => {
            if let Some(route) = model.routes.get_mut(&endpoint) {
                route.targets.remove(&job);
                if route.targets.is_empty() {
                    model.routes.remove(&endpoint);
                }
            }
            true
        }
        Change::RemoveRoute { endpoint } => {
            model.routes.remove(&endpoint);
            true
        }
    }
}

/// The definition of a match, by scanning all endpoints.
fn scan<'a>(model: &'a Desired, host: &str, path: &str) -> Result<&'a Endpoint, Miss> {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":8080").unwrap_or(&host);
    let host = host.strip_suffix('.').unwrap_or(host);
    let of_host = |pattern: &str| -> Vec<&Endpoint> {
        let is = |e: &&Endpoint| e.http().is_some_and(|http| http.host().as_str() == pattern);
        model.routes.keys().filter(is).collect()
    };
    let mut site = of_host(host);
    if site.is_empty()
        && let Some((label, rest)) = host.split_once('.')
        && !label.is_empty()
    {
        site = of_host(&format!("*.{rest}"));
    }
    if site.is_empty() {
        return Err(Miss::NoHost);
    }
    let prefix = |endpoint: &Endpoint| endpoint.http().unwrap().prefix().to_owned();
    let decides = site.iter().any(|endpoint| prefix(endpoint) != "/");
    let decoded = path.to_ascii_lowercase().replace("%2e", ".");
    if decides && decoded.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(Miss::NoPath);
    }
    let covers = |endpoint: &&Endpoint| {
        let prefix = prefix(endpoint);
        prefix == "/" || path == prefix || path.starts_with(&format!("{prefix}/"))
    };
    site.into_iter().filter(covers).max_by_key(|e| prefix(e).len()).ok_or(Miss::NoPath)
}

fn requests() -> impl Strategy<Value = (String, String)> {
    let host = prop_oneof![
        5 => prop::sample::select(&HOSTS[..]).prop_map(str::to_owned),
        2 => "[abc]{0,1}(\\.[abx]){0,3}",
        1 => prop::sample::select(vec!["", ".", "..", ".x", "x.x.x", "[0:0::1]", "10.0.0.1.", ":8080"])
            .prop_map(str::to_owned),
    ];
    let dressed = (host, any::<(bool, bool, bool)>()).prop_map(|(host, (upper, dot, port))| {
        let host = if upper { host.to_ascii_uppercase() } else { host };
        let dot = if dot && !host.starts_with('[') && !host.ends_with('.') { "." } else { "" };
        format!("{host}{dot}{}", if port { ":8080" } else { "" })
    });
    let path = prop_oneof![
        4 => (prop::sample::select(&PREFIXES[..]), "(/|/[stu]|[stu]|/\\.|/\\.\\.|/%2e){0,3}")
            .prop_map(|(prefix, rest)| format!("{prefix}{rest}")),
        1 => prop::sample::select(vec!["*", "", "/", "//", "/s%2ft", "/s//t", "/%73"])
            .prop_map(str::to_owned),
    ];
    (dressed, path)
}

// === checks ===

/// The model of a literal in another spelling is the canonical one.
fn canonical_literal(host: &str) -> String {
    host.replace("[0:0::1]", "[::1]")
}

fn check_lookups(
    table: &Table,
    model: &Desired,
    requests: &[(String, String)],
) -> Result<(), TestCaseError> {
    for (host, path) in requests {
        let found = table.find(host.as_bytes(), path.as_bytes()).map(|route| &route.endpoint);
        let expected = scan(model, &canonical_literal(host), path);
        prop_assert_eq!(found, expected, "host {:?} path {:?}", host, path);
    }
    for endpoint in model.routes.keys() {
        let route = table.route_by_endpoint(endpoint).expect("every wanted route is there");
        prop_assert_eq!(&route.endpoint, endpoint);
        prop_assert_eq!(table.route(route.slot).map(|same| &same.endpoint), Some(endpoint));
        let by_address = endpoint.tcp().and_then(|address| table.tcp_route(address));
        prop_assert_eq!(by_address.is_some(), endpoint.tcp().is_some());
    }
    for name in model.jobs.keys() {
        let job = table.job_by_name(name).expect("every wanted job is there");
        prop_assert_eq!(table.job(job.slot).map(|same| &*same.name), Some(&**name));
    }
    prop_assert_eq!(table.routes_count(), model.routes.len());
    prop_assert_eq!(table.jobs_count(), model.jobs.len());
    Ok(())
}

/// The difference of two tables by comparing all of them.
fn compare(old: &Table, new: &Table) -> Delta {
    let jobs = |table: &Table| -> BTreeMap<JobSlot, Job> {
        table.jobs().map(|job| (job.slot, job.clone())).collect()
    };
    let routes = |table: &Table| -> BTreeMap<RouteSlot, Route> {
        table.routes().map(|route| (route.slot, route.clone())).collect()
    };
    let (old_jobs, new_jobs, old_routes, new_routes) =
        (jobs(old), jobs(new), routes(old), routes(new));
    let same_job = |a: &Job, b: &Job| a.acl == b.acl && a.instances == b.instances;
    let same_route = |a: &Route, b: &Route| a.targets.list == b.targets.list;
    let mut delta = Delta { version: new.version(), ..Delta::default() };
    let changed =
        new_jobs.iter().filter(|(slot, job)| !old_jobs.get(slot).is_some_and(|o| same_job(o, job)));
    delta.jobs_changed = changed.map(|(slot, _)| *slot).collect();
    delta.jobs_removed =
        old_jobs.keys().filter(|slot| !new_jobs.contains_key(slot)).copied().collect();
    let changed = new_routes
        .iter()
        .filter(|(slot, r)| !old_routes.get(slot).is_some_and(|o| same_route(o, r)));
    delta.routes_changed = changed.map(|(slot, _)| *slot).collect();
    delta.routes_removed =
        old_routes.keys().filter(|slot| !new_routes.contains_key(slot)).copied().collect();
    let kept: BTreeSet<_> =
        new_jobs.values().flat_map(|job| job.instances.iter().map(|i| i.slot)).collect();
    for job in old_jobs.values() {
        let gone = job.instances.iter().filter(|instance| !kept.contains(&instance.slot));
        delta.instances_removed.extend(gone.map(|i| (i.slot, i.addr, job.name.clone())));
    }
    delta.instances_removed.sort_by_key(|(slot, ..)| *slot);
    let addresses = |table: &Table| -> BTreeSet<SocketAddr> {
        table.routes().filter_map(|route| route.endpoint.tcp()).collect()
    };
    delta.tcp_added = addresses(new).difference(&addresses(old)).copied().collect();
    delta.tcp_removed = addresses(old).difference(&addresses(new)).copied().collect();
    delta
}

fn sorted(delta: &Delta) -> Delta {
    let mut delta = delta.clone();
    delta.tcp_added.sort_unstable();
    delta.tcp_removed.sort_unstable();
    delta
}

/// All slots of a table.
fn slots(table: &Table) -> BTreeSet<Freed> {
    let routes = table.routes().map(|route| Freed::Route(route.slot));
    let jobs = table.jobs().map(|job| Freed::Job(job.slot));
    let instances =
        table.jobs().flat_map(|job| job.instances.iter().map(|i| Freed::Instance(i.slot)));
    routes.chain(jobs).chain(instances).collect()
}

/// The revision of targets is the version in which they last changed.
fn check_revisions(old: &Table, new: &Table) -> Result<(), TestCaseError> {
    for route in new.routes() {
        let before = old.route(route.slot).map(|route| &route.targets);
        let same = before.filter(|before| before.list == route.targets.list);
        match same {
            Some(before) => {
                prop_assert!((before.revision..=new.version()).contains(&route.targets.revision))
            }
            None => prop_assert_eq!(route.targets.revision, new.version()),
        }
    }
    Ok(())
}

/// A slot without its generation.
fn place(slot: Freed) -> (u8, u32) {
    match slot {
        Freed::Route(slot) => (0, slot.0.index),
        Freed::Job(slot) => (1, slot.0.index),
        Freed::Instance(slot) => (2, slot.0.index),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Goal: any history of commits gives the table that the model gives; a refused commit leaves
    /// no trace; every version stays as it was; the delta is the difference; slots are unique and
    /// never come back before release, nor ever with the same generation.
    #[test]
    fn any_history_equals_the_model(
        history in history(),
        requests in prop::collection::vec(requests(), 30),
        releases in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut editor = Editor::new();
        let mut model = Desired::default();
        let mut versions = vec![(editor.table().clone(), model.clone())];
        let (mut waiting, mut dead) = (BTreeSet::<Freed>::new(), BTreeSet::<Freed>::new());
        for (number, changes) in history.iter().enumerate() {
            let mut next = model.clone();
            let refused = changes.iter().position(|change| !make(&mut next, change));
            match editor.apply(changes) {
                Err(error) => {
                    prop_assert_eq!(Some(error.index), refused, "{}", error);
                    prop_assert_eq!(editor.table().version(), versions.last().unwrap().0.version());
                }
                Ok(commit) => {
                    prop_assert_eq!(refused, None);
                    let before = &versions.last().unwrap().0;
                    prop_assert_eq!(commit.table.version(), before.version() + 1);
                    prop_assert_eq!(sorted(&commit.delta), compare(before, &commit.table));
                    let now = slots(&commit.table);
                    let places: BTreeSet<_> = now.iter().copied().map(place).collect();
                    prop_assert_eq!(places.len(), now.len(), "two tenants in one place");
                    prop_assert!(now.is_disjoint(&dead), "a slot with its generation came back");
                    prop_assert!(waiting.iter().all(|slot| !places.contains(&place(*slot))));
                    check_revisions(before, &commit.table)?;
                    waiting.extend(commit.delta.freed());
                    dead.extend(commit.delta.freed());
                    for slot in &dead {
                        match slot {
                            Freed::Route(slot) => prop_assert!(commit.table.route(*slot).is_none()),
                            Freed::Job(slot) => prop_assert!(commit.table.job(*slot).is_none()),
                            Freed::Instance(_) => {}
                        }
                    }
                    model = next;
                    versions.push((commit.table, model.clone()));
                }
            }
            if releases[number] {
                editor.release(std::mem::take(&mut waiting));
            }
        }
        for (table, model) in &versions {
            prop_assert_eq!(&table.desired(), model);
            check_lookups(table, model, &requests)?;
        }
        // From scratch, in one commit, by the way a file would go.
        let mut fresh = Editor::with_seed(number_of(&model));
        let rebuilt = fresh.apply(&diff(&Desired::default(), &model)).expect("the model is sound");
        prop_assert_eq!(rebuilt.table.desired(), model.clone());
        check_lookups(&rebuilt.table, &model, &requests)?;
    }

    /// Goal: old + diff(old, new) = new, whatever they are, and diff of equals is nothing.
    #[test]
    fn a_difference_applied_to_the_old_gives_the_new(old in desired(), new in desired()) {
        let mut editor = Editor::new();
        let first = editor.apply(&diff(&Desired::default(), &old)).expect("the old is sound");
        prop_assert_eq!(first.table.desired(), old.clone());
        let changes = diff(&old, &new);
        let second = editor.apply(&changes).unwrap_or_else(|e| panic!("{e}: {:?}", changes[e.index]));
        prop_assert_eq!(second.table.desired(), new.clone());
        prop_assert_eq!(diff(&new, &new), vec![]);
        for (endpoint, route) in &new.routes {
            if old.routes.get(endpoint).is_some_and(|was| was.https_only == route.https_only) {
                let slot = |table: &Table| table.route_by_endpoint(endpoint).map(|route| route.slot);
                prop_assert_eq!(slot(&first.table), slot(&second.table), "the route lives on");
            }
        }
    }

    /// Goal: an explanation tells what the request path does, step by step.
    #[test]
    fn an_explanation_agrees_with_the_request_path(
        model in desired(),
        requests in prop::collection::vec((requests(), any::<bool>(), prop::sample::select(&CLIENTS[..])), 20),
        dead in prop::collection::btree_set(job_name(), 0..3),
    ) {
        let table = Editor::new().apply(&diff(&Desired::default(), &model)).unwrap().table;
        let live = |slot| table.job(slot).is_some_and(|job| !dead.contains(&*job.name));
        for ((host, path), https, client) in requests {
            let client = client.parse().unwrap();
            let question = Question { https, host: &host, path: &path, client, live: &live };
            let explanation = table.explain(&question);
            let expected = match table.find(host.as_bytes(), path.as_bytes()) {
                Err(Miss::NoHost) => Outcome::NoHost,
                Err(Miss::NoPath) => Outcome::NoPath,
                Ok(route) if route.https_only && !https => Outcome::Redirected,
                Ok(route) => {
                    let admitted = table.admitted(&route.targets, client);
                    let list = route.targets.list.iter().enumerate();
                    let alive = list.fold(0u64, |m, (i, t)| m | u64::from(live(t.job)) << i);
                    let (shares, whole) = route.targets.shares(admitted & alive);
                    for share in &shares {
                        let view = &explanation.targets[share.target];
                        prop_assert_eq!((view.parts, view.whole), (share.parts, whole));
                    }
                    let told: i64 = explanation.targets.iter().map(|view| view.parts).sum();
                    prop_assert_eq!(told, shares.iter().map(|share| share.parts).sum::<i64>());
                    match (route.targets.active(), admitted, shares.is_empty()) {
                        (1.., 0, _) => Outcome::Denied,
                        (.., true) => Outcome::NoInstance,
                        (.., false) => Outcome::Served,
                    }
                }
            };
            prop_assert_eq!(explanation.outcome, expected, "{}", explanation);
        }
    }

    #[test]
    fn endpoints_display_and_parse_back(endpoint in endpoint()) {
        prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
    }

    #[test]
    fn no_text_makes_the_endpoint_parser_panic(text in "(http://|tcp://|\\*\\.|[a-z0-9.:/%\\[\\]*-]|\\PC){0,20}") {
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
    }
}

/// Some number that depends on the model, so that many seeds are tried.
fn number_of(model: &Desired) -> u64 {
    model.routes.keys().map(|endpoint| endpoint.to_string().len() as u64).sum()
}
