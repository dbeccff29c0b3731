//! Records of jobs under test: what they may say, what a change means, and what the guards of endpoints allow.
//!
//! Deliberately absent: sockets and the store; transactions are compared as values.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use store::{Expect, Record, Write};
use uuid::Uuid;

fn job(n: u128, routes: &[(&str, bool)]) -> Job {
    let mut job = Job::named(format!("job::/sandbox/admin::app{n}").parse().unwrap());
    job.uuid = JobId(Uuid::from_u128(n));
    job.version_id = 1;
    job.ports =
        vec![Port { number: 0, optional: false, routes: Vec::new(), extra: BTreeMap::new() }];
    job.ports[0].routes = routes.iter().map(|(endpoint, flag)| route(endpoint, *flag)).collect();
    job
}

fn route(endpoint: &str, https_only: bool) -> Route {
    Route {
        kind: RouteKind::Http,
        endpoint: endpoint.to_owned(),
        weight: 0.0,
        https_only,
        extra: BTreeMap::new(),
    }
}

/// The store, as far as transactions go.
#[derive(Default)]
struct Shelf(BTreeMap<String, (Vec<u8>, u64)>);

impl Shelf {
    fn guards(&self, keys: &[String]) -> Guards {
        let mut guards = Guards::default();
        for key in keys {
            guards.note(self.0.get(key).map(|(value, version)| Record {
                key: key.clone(),
                value: value.clone().into(),
                version: *version,
                revision: 0,
            }));
        }
        guards
    }

    fn commit(&mut self, writes: Vec<Write>) -> Result<(), String> {
        for write in &writes {
            let (key, expect) = match write {
                Write::Put { key, expect, .. }
                | Write::Delete { key, expect }
                | Write::Check { key, expect } => (key, *expect),
            };
            let found = self.0.get(key).map_or(0, |(_, version)| *version);
            let holds = match expect {
                Expect::Any => true,
                Expect::Absent => found == 0,
                Expect::Version(version) => found == version,
            };
            if !holds {
                return Err(key.clone());
            }
        }
        assert!(writes.len() <= store::WRITES_MAX);
        for write in writes {
            match write {
                Write::Put { key, value, .. } => {
                    let version = self.0.get(&key).map_or(0, |(_, version)| *version) + 1;
                    self.0.insert(key, (value.to_vec(), version));
                }
                Write::Delete { key, .. } => drop(self.0.remove(&key)),
                Write::Check { .. } => {}
            }
        }
        Ok(())
    }

    fn create(&mut self, job: &Job) -> Result<(), String> {
        let guards = self.guards(&guard_keys(None, Some(job)));
        self.commit(create(job, &guards).map_err(|e| e.message)?)
    }

    fn update(&mut self, old: &Job, new: &Job) -> Result<(), String> {
        let guards = self.guards(&guard_keys(Some(old), Some(new)));
        self.commit(update(old, new, &guards).map_err(|e| e.message)?)
    }

    fn delete(&mut self, old: &Job) -> Result<(), String> {
        let guards = self.guards(&guard_keys(Some(old), None));
        self.commit(delete(old, &guards, 1).map_err(|e| e.message)?)
    }
}

/// Goal: the flag of an endpoint is fixed for its life, in both directions, with the words of the original; the same
/// flag joins; the last job frees the endpoint.
#[test]
fn https_only_is_fixed_for_an_endpoints_life() {
    const TEXT: &str = "Route app.example.com https-only flag conflict";
    for flag in [true, false] {
        let mut shelf = Shelf::default();
        let (first, second) =
            (job(1, &[("app.example.com", flag)]), job(2, &[("app.example.com", flag)]));
        let other = job(3, &[("app.example.com", !flag)]);
        shelf.create(&first).unwrap();
        shelf.create(&second).unwrap();
        assert_eq!(shelf.create(&other).unwrap_err(), TEXT);
        let mut flipped = first.clone();
        flipped.version_id = 2;
        flipped.ports[0].routes[0].https_only = !flag;
        assert_eq!(shelf.update(&first, &flipped).unwrap_err(), TEXT);
        shelf.delete(&first).unwrap();
        assert_eq!(shelf.create(&other).unwrap_err(), TEXT);
        shelf.delete(&second).unwrap();
        shelf.create(&other).unwrap();
    }
}

/// Goal: two servers that read the same guards cannot both win, and each is told over what it stumbled.
#[test]
fn a_race_has_one_winner() {
    let mut shelf = Shelf::default();
    let (one, two) = (job(1, &[("a.example.com", true)]), job(2, &[("a.example.com", false)]));
    let guards = shelf.guards(&guard_keys(None, Some(&one)));
    let (first, second) = (create(&one, &guards).unwrap(), create(&two, &guards).unwrap());
    shelf.commit(first).unwrap();
    assert_eq!(conflict_on(&shelf.commit(second).unwrap_err()), Conflict::Guard);
    let mut namesake = job(3, &[]);
    namesake.fqn = one.fqn.clone();
    assert_eq!(conflict_on(&shelf.create(&namesake).unwrap_err()), Conflict::Name);
    let (stopped, write) = set_state(&one, JobState::Stopped, "test", 5).unwrap();
    shelf.commit(vec![write.clone()]).unwrap();
    assert_eq!(conflict_on(&shelf.commit(vec![write]).unwrap_err()), Conflict::Job);
    assert_eq!((stopped.version_id, shelf.0[&job_key(one.uuid)].1), (2, 2));
}

/// Goal: as many jobs as the router can split share an endpoint, and no more.
#[test]
fn an_endpoint_has_room_for_a_bounded_number() {
    let mut shelf = Shelf::default();
    for n in 0..JOBS_PER_ENDPOINT_MAX as u128 {
        shelf.create(&job(n + 1, &[("a.example.com", false)])).unwrap();
    }
    let refused = shelf.create(&job(1_000, &[("a.example.com", false)])).unwrap_err();
    assert_eq!(refused, "Route a.example.com is used by 32 jobs, more cannot share it");
}

proptest! {
    /// Goal: whatever jobs come, change and go, each guard names exactly the jobs that use its endpoint, and an
    /// exchange of all routes fits one transaction.
    #[test]
    fn guards_follow_the_jobs(steps in proptest::collection::vec((0u128..4, proptest::collection::btree_map(0u8..6, any::<bool>(), 0..4), any::<bool>()), 1..40)) {
        let mut shelf = Shelf::default();
        let mut jobs = BTreeMap::<u128, Job>::new();
        for (n, routes, delete) in steps {
            let names: Vec<_> = routes.iter().map(|(e, flag)| (format!("e{e}.example.com"), *flag)).collect();
            let routes: Vec<_> = names.iter().map(|(e, flag)| (e.as_str(), *flag)).collect();
            let mut new = job(n, &routes);
            match jobs.get(&n).cloned() {
                Some(old) if delete => { shelf.delete(&old).unwrap(); jobs.remove(&n); }
                Some(old) => {
                    new.version_id = old.version_id + 1;
                    if shelf.update(&old, &new).is_ok() { jobs.insert(n, new); }
                }
                None => if shelf.create(&new).is_ok() { jobs.insert(n, new); },
            }
            let mut wanted = BTreeMap::<String, Guard>::new();
            for job in jobs.values() {
                for ((kind, endpoint), https_only) in endpoints(job) {
                    let guard = wanted.entry(guard_key(kind, &endpoint)).or_default();
                    guard.https_only = https_only;
                    guard.jobs.insert(job.uuid);
                }
            }
            let kept: BTreeMap<_, Guard> = shelf.0.iter().filter(|(key, _)| key.starts_with(ENDPOINTS))
                .map(|(key, (value, _))| (key.clone(), serde_json::from_slice(value).unwrap())).collect();
            prop_assert_eq!(kept, wanted);
        }
    }
}

/// Goal: the largest record that is admitted can exchange all its routes in one transaction.
#[test]
fn a_whole_exchange_of_routes_fits() {
    let many = |prefix: &str| {
        let names: Vec<_> = (0..ROUTES_MAX).map(|n| format!("{prefix}{n}.example.com")).collect();
        let routes: Vec<_> = names.iter().map(|name| (name.as_str(), false)).collect();
        job(1, &routes)
    };
    let (mut old, mut new) = (many("a"), many("b"));
    validate(&mut old).unwrap();
    new.version_id = 2;
    let mut shelf = Shelf::default();
    shelf.create(&old).unwrap();
    shelf.update(&old, &new).unwrap();
    assert_eq!(
        shelf.0.keys().filter(|key| key.starts_with("endpoints/http/b")).count(),
        ROUTES_MAX
    );
    let mut more = many("c");
    more.ports[0].routes.push(route("d.example.com", false));
    assert_eq!(validate(&mut more).unwrap_err().message, "a job may have 30 routes, not 31");
}

/// Goal: a record comes out in canonical form, twice is once, and a scheme in the endpoint decides the type.
#[test]
fn validation_makes_canonical() {
    let mut wild =
        job(1, &[("HTTP://App.Example.COM./shop/*", true), ("tcp://10.0.0.1:99", false)]);
    wild.ports[0].routes[0].weight = 33.333;
    wild.client_acl = "128.66.3.0/24, deny 128.66.0.0/16".to_owned();
    wild.name = String::new();
    validate(&mut wild).unwrap();
    let routes: Vec<_> =
        wild.routes().map(|(_, r)| (r.kind, r.endpoint.as_str(), r.weight)).collect();
    assert_eq!(
        routes,
        [(RouteKind::Http, "app.example.com/shop", 33.33), (RouteKind::Tcp, "10.0.0.1:99", 0.0)]
    );
    assert_eq!(wild.client_acl, "allow 128.66.3.0/24, deny 128.66.0.0/16");
    assert_eq!(wild.name, "app1");
    let once = wild.clone();
    validate(&mut wild).unwrap();
    assert_eq!(wild, once);
}

/// Goal: what cannot be is refused, and the message names the field and the value.
#[test]
fn mistakes_are_named() {
    let refused = |change: &dyn Fn(&mut Job)| {
        let mut wrong = job(1, &[("a.example.com", false)]);
        change(&mut wrong);
        validate(&mut wrong).unwrap_err().message
    };
    let at = |path: &str| wire::job::JobPackage {
        install_path: Some(path.to_owned()),
        ..serde_json::from_value(serde_json::json!({ "uuid": Uuid::nil() })).unwrap()
    };
    let long_path = format!("install_path \"{}\" is not possible", "x".repeat(80));
    for (expected, change) in [
        (
            "num_instances is 401, at most 400 are possible",
            &(|j: &mut Job| j.num_instances = 401) as &dyn Fn(&mut Job),
        ),
        ("name is \"x\", but fqn is job::/sandbox/admin::app1", &|j| j.name = "x".into()),
        ("package::/a::b is not the name of a job", &|j| j.fqn = "package::/a::b".parse().unwrap()),
        ("port 0 is there twice", &|j| j.ports.push(j.ports[0].clone())),
        ("route a.example.com leads to port 0 twice", &|j| {
            j.ports[0].routes.push(route("A.example.com", false))
        }),
        ("Route a.example.com https-only flag conflict", &|j| {
            j.ports.push(Port {
                number: 7,
                optional: false,
                routes: vec![route("a.example.com", true)],
                extra: BTreeMap::new(),
            });
        }),
        ("route auto has not been given an endpoint", &|j| {
            j.ports[0].routes[0].endpoint = "tcp://auto".into()
        }),
        ("route \"http://a b\": ` ` cannot be part of a host", &|j| {
            j.ports[0].routes[0].endpoint = "a b".into()
        }),
        ("weight 20000 of route a.example.com is not possible", &|j| {
            j.ports[0].routes[0].weight = 20_000.0
        }),
        ("route tcp://10.0.0.1:1 cannot be https-only", &|j| {
            j.ports[0].routes[0] = route("tcp://10.0.0.1:1", true)
        }),
        ("client_acl \"allow x\": `x` is not an IP address", &|j| j.client_acl = "allow x".into()),
        ("install_path \"/a/../../b\" is not possible", &|j| j.packages = vec![at("/a/../../b")]),
        ("install_path \"/a\\0\" is not possible", &|j| j.packages = vec![at("/a\0")]),
        (long_path.as_str(), &|j| j.packages = vec![at(&"x".repeat(256))]),
        ("\"A=B\" cannot be the name of a variable", &|j| {
            j.processes
                .entry("app".into())
                .or_default()
                .environment
                .insert("A=B".into(), String::new());
        }),
        ("processes.app.stop_timeout is 9999 seconds, 3600 are possible", &|j| {
            j.processes.entry("app".into()).or_default().stop_timeout = 9_999
        }),
        ("rollout.flapping_percent is NaN, it must be from 0 to 1", &|j| {
            j.rollout.flapping_percent = f64::NAN
        }),
        ("\"!\" cannot be a scheduling tag", &|j| {
            j.hard_scheduling_tags.insert("!".into(), true);
        }),
    ] {
        assert_eq!(refused(change), expected);
    }
}

/// Goal: the table of what a running instance takes over and what it does not.
#[test]
fn restarts_are_asked_for_only_where_needed() {
    let before = job(1, &[("a.example.com", false)]);
    let fields = |change: &dyn Fn(&mut Job)| {
        let mut after = before.clone();
        change(&mut after);
        restart_needed(&before, &after)
    };
    let dynamic: [&dyn Fn(&mut Job); 8] = [
        &|j| j.num_instances = 9,
        &|j| j.ports[0].routes = vec![route("b.example.com", false)],
        &|j| j.client_acl = "deny 0.0.0.0/0".into(),
        &|j| drop(j.tags.insert("a".into(), "b".into())),
        &|j| j.sticky_session_cookies = vec!["JSESSIONID".into()],
        &|j| j.soft_scheduling_tags = [("ssd".to_owned(), true)].into(),
        &|j| j.rollout.mode = wire::job::RolloutMode::Rolling,
        &|j| j.attract = vec![Affinity { to: j.fqn.clone(), hard: false }],
    ];
    for (n, change) in dynamic.iter().enumerate() {
        assert_eq!(fields(change), [""; 0], "change {n}");
    }
    assert_eq!(fields(&|j| j.resources.memory *= 2), ["resources"]);
    assert_eq!(fields(&|j| j.ports[0].optional = true), ["ports"]);
    assert_eq!(
        fields(&|j| drop(j.processes.insert("app".into(), Process::default()))),
        ["processes"]
    );
    assert_eq!(
        fields(&|j| j.hard_scheduling_tags = [("ssd".to_owned(), true)].into()),
        ["hard_scheduling_tags"]
    );
    assert_eq!(fields(&|j| j.repel = vec![Affinity { to: j.fqn.clone(), hard: true }]), ["repel"]);
}

/// Goal: versions count up, and those from which instances must be new are marked: a change that needs it, an explicit
/// restart, a start after anything else.
#[test]
fn the_restart_version_moves_when_instances_must_be_new() {
    let mut old = job(1, &[]);
    (old.version_id, old.restart_version, old.state) = (7, 3, JobState::Started);
    let succeed = |old: &Job, restart: bool, change: &dyn Fn(&mut Job)| {
        let mut new = old.clone();
        change(&mut new);
        let fields = succeed(old, &mut new, restart);
        (new.version_id, new.restart_version, fields)
    };
    assert_eq!(succeed(&old, false, &|j| j.num_instances = 5), (8, 3, vec![]));
    assert_eq!(succeed(&old, true, &|_| ()), (8, 8, vec![]));
    assert_eq!(succeed(&old, false, &|j| j.resources.cpu = 5), (8, 8, vec!["resources"]));
    assert_eq!(succeed(&old, false, &|j| j.state = JobState::Stopped), (8, 3, vec![]));
    old.state = JobState::Errored;
    assert_eq!(succeed(&old, false, &|j| j.state = JobState::Started), (8, 8, vec![]));
}

/// Goal: `auto` for tcp is the lowest port of the range that no guard has on this host.
#[test]
fn tcp_auto_takes_the_lowest_free_port() {
    let host: IpAddr = "10.0.0.1".parse().unwrap();
    let keys = [
        "endpoints/tcp/10.0.0.1:10000",
        "endpoints/tcp/10.0.0.1:10002",
        "endpoints/tcp/10.0.0.2:10001",
    ];
    let taken = tcp_ports_taken(keys, host);
    assert_eq!(free_tcp_endpoint(host, 10_000..=10_002, &taken).as_deref(), Some("10.0.0.1:10001"));
    assert_eq!(free_tcp_endpoint(host, 10_002..=10_002, &taken), None);
    for (text, kind) in [
        ("auto", RouteKind::Http),
        ("tcp://auto", RouteKind::Tcp),
        ("http://AUTO", RouteKind::Http),
    ] {
        assert_eq!(is_auto(&route(text, false)), Some(kind));
    }
    assert_eq!(is_auto(&route("automatic.example.com", false)), None);
}
