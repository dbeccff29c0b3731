//! The sentences of the product's documents about routes, each as an example.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, in its helpers too")]

use route::{
    Change, ClientAcl, Editor, Endpoint, Outcome, Question, RULES_MAX, Splitter, Step, TARGETS_MAX,
    Table, Weight, default_route_name,
};
use std::net::{IpAddr, SocketAddr};

fn endpoint(text: &str) -> Endpoint {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn put_job(name: &str, acl: &str) -> Change {
    let addr = SocketAddr::from(([127, 0, 0, 1], 9_000));
    Change::PutJob { name: name.into(), client_acl: acl.parse().unwrap(), instances: vec![addr] }
}

fn put_target(at: &str, https_only: bool, job: &str, weight: &str) -> Change {
    let weight: Weight = weight.parse().unwrap();
    Change::PutTarget { endpoint: endpoint(at), https_only, job: job.into(), weight }
}

fn table(changes: &[Change]) -> Table {
    Editor::new().apply(changes).unwrap_or_else(|error| panic!("{error}")).table
}

/// Name of the endpoint that serves, or the miss.
fn served(table: &Table, host: &str, path: &str) -> String {
    match table.find(host.as_bytes(), path.as_bytes()) {
        Ok(route) => route.endpoint.name(),
        Err(miss) => miss.to_string(),
    }
}

/// How many of the first hundred requests each job gets.
fn of_a_hundred(table: &Table, at: &str) -> Vec<u32> {
    let targets = &table.route_by_endpoint(&endpoint(at)).unwrap().targets;
    let mut splitter = Splitter::new(targets);
    let mut counts = vec![0; targets.list.len()];
    for _ in 0..100 {
        if let Some(picked) = splitter.pick(targets, u64::MAX) {
            counts[picked] += 1;
        }
    }
    counts
}

// === endpoints and default routes ===

#[test]
fn the_scheme_may_be_left_out_and_sets_the_type() {
    assert_eq!(endpoint("myapp.example.me"), endpoint("http://myapp.example.me"));
    assert_eq!(endpoint("http://myapp.example.me").scheme(), "http");
    assert_eq!(endpoint("tcp://10.0.0.1:1999").scheme(), "tcp");
}

#[test]
fn default_routes_are_appname_dash_six_characters_dot_cluster_name() {
    let name = default_route_name("my.web.site", "a1b2c3", "cluster.example.com").unwrap();
    assert_eq!(name.to_string(), "mywebsite-a1b2c3.cluster.example.com");
    let custom = default_route_name("app", "zzzzz9", "foo.bar.com").unwrap();
    assert_eq!(custom.to_string(), "app-zzzzz9.foo.bar.com", "a suffix that policy defines");
}

#[test]
fn both_default_and_custom_routes_can_be_used_by_several_apps() {
    let table = table(&[
        put_job("app1", ""),
        put_job("app2", ""),
        put_target("http://app-route.foo.com", false, "app1", "auto"),
        put_target("http://app-route.foo.com", false, "app2", "auto"),
    ]);
    let route = table.find(b"app-route.foo.com", b"/").unwrap();
    assert_eq!(route.targets.list.len(), 2);
    assert!(route.targets.list.iter().all(|target| target.weight.to_string() == "auto"));
}

// === weights ===

#[test]
fn autos_get_the_difference_between_the_sum_and_a_hundred() {
    let at = "http://myapp.example.me";
    let jobs = [put_job("a", ""), put_job("b", ""), put_job("c", "")];
    let weighted = |weights: [&str; 3]| {
        let [a, b, c] = weights;
        let targets = [("a", a), ("b", b), ("c", c)].map(|(job, w)| put_target(at, false, job, w));
        of_a_hundred(&table(&[&jobs[..], &targets].concat()), at)
    };
    assert_eq!(weighted(["45%", "45%", "0%"]), [45, 45, 10]);
    assert_eq!(weighted(["30%", "-10%", "auto"]), [30, 0, 70], "negative is inactive");
    assert_eq!(weighted(["100%", "auto", "-1"]), [100, 0, 0]);
    assert_eq!(weighted(["auto", "auto", "-1"]), [50, 50, 0]);
    assert_eq!(weighted(["10%", "10%", "20%"]), [25, 25, 50], "normalised to 100");
    assert_eq!(weighted(["120%", "80%", "auto"]), [60, 40, 0], "normalised from above too");
    assert_eq!(weighted(["-1%", "-1%", "-1%"]), [0, 0, 0], "the route exists, nobody serves");
}

#[test]
fn the_weight_command_changes_one_job_on_one_route() {
    let at = "http://myapp.example.me";
    let mut editor = Editor::new();
    let start = [put_job("blue", ""), put_job("green", ""), put_target(at, false, "blue", "100")];
    let first = editor.apply(&start).unwrap().table;
    let shift = |weight: &str| Change::SetWeight {
        endpoint: endpoint(at),
        job: "green".into(),
        weight: weight.parse().unwrap(),
    };
    assert_eq!(
        editor.apply(&[shift("50%")]).unwrap_err().text,
        "job green is not on route http://myapp.example.me"
    );
    editor.apply(&[put_target(at, false, "green", "-1")]).unwrap();
    let second = editor.apply(&[shift("100%")]).unwrap();
    assert_eq!(of_a_hundred(&second.table, at), [50, 50]);
    assert_eq!(of_a_hundred(&first, at), [100], "who holds the older version sees no change");
    let slot = |table: &Table| table.route_by_endpoint(&endpoint(at)).unwrap().slot;
    assert_eq!(second.delta.routes_changed, [slot(&first)], "it is the same route");
}

// === https-only ===

#[test]
fn the_https_only_flag_is_fixed_and_its_conflict_has_this_text() {
    for flag in [true, false] {
        let mut editor = Editor::new();
        let route = put_target("app.example.com", flag, "app1", "auto");
        editor.apply(&[put_job("app1", ""), put_job("app2", ""), route]).unwrap();
        let other = put_target("app.example.com", !flag, "app2", "auto");
        let error = editor.apply(&[put_job("app3", ""), other]).unwrap_err();
        assert_eq!(error.text, "Route app.example.com https-only flag conflict");
        assert_eq!(error.index, 1);
        assert!(editor.table().job_by_name("app3").is_none(), "all or nothing");
        let same = put_target("app.example.com", flag, "app2", "auto");
        assert!(editor.apply(&[same]).is_ok(), "a second job with the same flag joins");
    }
}

#[test]
fn plain_http_is_redirected_only_on_https_only_routes() {
    let table = table(&[
        put_job("app", ""),
        put_target("app1.example.com", true, "app", "auto"),
        put_target("app2.example.com", false, "app", "auto"),
    ]);
    let outcome = |host, https| {
        let client = IpAddr::from([127, 0, 0, 1]);
        table.explain(&Question { https, host, path: "/", client, live: &|_| true }).outcome
    };
    assert_eq!(outcome("app1.example.com", false), Outcome::Redirected);
    assert_eq!(outcome("app1.example.com", true), Outcome::Served);
    assert_eq!(outcome("app2.example.com", false), Outcome::Served);
    assert_eq!(outcome("app2.example.com", true), Outcome::Served);
}

// === client ACL ===

#[test]
fn the_acl_belongs_to_the_job_and_holds_on_all_its_routes() {
    let table = table(&[
        put_job("webapp", "allow 128.66.3.0/24, deny 128.66.0.0/16"),
        put_target("a.example.com", false, "webapp", "auto"),
        put_target("b.example.com", false, "webapp", "auto"),
        put_target("tcp://127.0.0.1:7000", false, "webapp", "auto"),
    ]);
    for route in table.routes() {
        let admitted = |client: &str| table.admitted(&route.targets, client.parse().unwrap());
        assert_eq!(admitted("128.66.3.7"), 1);
        assert_eq!(admitted("128.66.4.7"), 0);
        assert_eq!(admitted("10.0.0.1"), 1, "no match allows");
    }
}

#[test]
fn on_a_shared_route_jobs_are_filtered_before_shares_are_computed() {
    let table = table(&[
        put_job("inside", "10.0.0.0/8, deny 0.0.0.0/0"),
        put_job("outside", ""),
        put_target("app.example.com", false, "inside", "90%"),
        put_target("app.example.com", false, "outside", "10%"),
    ]);
    let targets = &table.find(b"app.example.com", b"/").unwrap().targets;
    let shares = |client: [u8; 4]| targets.shares(table.admitted(targets, client.into()));
    assert_eq!(shares([10, 0, 0, 1]).0.len(), 2);
    let (alone, whole) = shares([192, 0, 2, 1]);
    assert_eq!((alone.len(), alone[0].target, alone[0].parts), (1, 1, whole), "never at random");
}

#[test]
fn an_acl_is_bounded_and_empty_means_open() {
    assert!(ClientAcl::default().is_open() && "".parse::<ClientAcl>().unwrap().is_open());
    assert_eq!(
        vec!["deny 10.0.0.1"; RULES_MAX].join(",").parse::<ClientAcl>().unwrap().rules().len(),
        RULES_MAX
    );
}

// === hosts and paths ===

fn shop() -> Table {
    table(&[
        put_job("j", ""),
        put_target("shop.example.com", false, "j", "auto"),
        put_target("shop.example.com/shop", false, "j", "auto"),
        put_target("shop.example.com/shop/cart/*", false, "j", "auto"),
        put_target("*.example.com", false, "j", "auto"),
        put_target("only.example.com/app", false, "j", "auto"),
        put_target("whole.example.com", false, "j", "auto"),
    ])
}

#[test]
fn exact_hosts_come_before_wildcards_of_one_label() {
    let table = shop();
    for host in
        ["shop.example.com", "SHOP.Example.COM", "shop.example.com.", "shop.example.com:8443"]
    {
        assert_eq!(served(&table, host, "/"), "shop.example.com", "{host}");
    }
    assert_eq!(served(&table, "other.example.com", "/"), "*.example.com");
    for host in
        ["example.com", "a.b.example.com", ".example.com", "*.other.com", "shop.example.com.."]
    {
        assert_eq!(served(&table, host, "/"), "no route has this host", "{host}");
    }
    assert_eq!(
        served(&table, "only.example.com", "/"),
        "no route of this host covers the path",
        "a known host does not fall back to the wildcard"
    );
}

#[test]
fn the_longest_prefix_on_a_segment_border_serves() {
    let table = shop();
    let cases = [
        ("/", "shop.example.com"),
        ("", "shop.example.com"),
        ("*", "shop.example.com"),
        ("/shop", "shop.example.com/shop"),
        ("/shop/", "shop.example.com/shop"),
        ("/shop/x", "shop.example.com/shop"),
        ("/shop//cart", "shop.example.com/shop"),
        ("/shopping", "shop.example.com"),
        ("/Shop", "shop.example.com"),
        ("/shop/cart", "shop.example.com/shop/cart"),
        ("/shop/cart/1", "shop.example.com/shop/cart"),
        ("/shop/cartoon", "shop.example.com/shop"),
        ("//shop", "shop.example.com"),
    ];
    for (path, expected) in cases {
        assert_eq!(served(&table, "shop.example.com", path), expected, "{path}");
    }
}

#[test]
fn paths_are_compared_as_sent_and_dot_segments_belong_to_no_prefix() {
    let table = shop();
    let of_shop = |path| served(&table, "shop.example.com", path);
    assert_eq!(of_shop("/shop%2Fcart"), "shop.example.com", "an encoded slash is no border");
    assert_eq!(of_shop("/%73hop"), "shop.example.com", "nothing is decoded");
    for path in ["/shop/../admin", "/x/../shop", "/shop/./x", "/shop/%2e%2E/x", "/..", "/shop/.%2e"]
    {
        assert_eq!(of_shop(path), "no route of this host covers the path", "{path}");
    }
    assert_eq!(
        served(&table, "only.example.com", "/app/../secret"),
        "no route of this host covers the path",
        "one prefix is enough to make the path decide"
    );
    assert_eq!(served(&table, "whole.example.com", "/a/../b"), "whole.example.com");
    assert_eq!(of_shop("/shop/..x/...").as_str(), "shop.example.com/shop");
}

#[test]
fn only_depths_in_use_are_tried() {
    let mut editor = Editor::new();
    let prefixes = ["/a", "/a/b/c", "/x/y/z/u"];
    let at = |prefix: &str| format!("h{prefix}");
    editor.apply(&[put_job("j", "")]).unwrap();
    for prefix in prefixes {
        editor.apply(&[put_target(&at(prefix), false, "j", "auto")]).unwrap();
    }
    let tried = |editor: &Editor| {
        let client = IpAddr::from([127, 0, 0, 1]);
        let path = "/a/b/d/e/f";
        let question = Question { https: false, host: "h", path, client, live: &|_| true };
        let steps = editor.table().explain(&question).steps;
        steps.iter().filter(|step| matches!(step, Step::Prefix { .. })).count()
    };
    assert_eq!(tried(&editor), 3, "depths 4, 3 and 1");
    let remove = |prefix: &str| Change::RemoveRoute { endpoint: endpoint(&at(prefix)) };
    editor.apply(&[remove("/a/b/c")]).unwrap();
    assert_eq!(tried(&editor), 2);
    editor.apply(&[remove("/x/y/z/u")]).unwrap();
    assert_eq!(tried(&editor), 1);
}

// === the life of routes and jobs ===

#[test]
fn a_route_goes_with_its_last_target_and_a_job_only_when_on_no_route() {
    let mut editor = Editor::new();
    let at = "http://app.example.com/x";
    editor.apply(&[put_job("a", ""), put_target(at, true, "a", "auto")]).unwrap();
    let remove_job = Change::RemoveJob { name: "a".into() };
    assert_eq!(
        editor.apply(std::slice::from_ref(&remove_job)).unwrap_err().text,
        "job a is still on 1 route, for example http://app.example.com/x; take it off first"
    );
    let remove_target = Change::RemoveTarget { endpoint: endpoint(at), job: "a".into() };
    let commit = editor.apply(&[remove_target.clone(), remove_job]).unwrap();
    assert_eq!((commit.table.routes_count(), commit.table.jobs_count()), (0, 0));
    assert_eq!(commit.delta.freed().count(), 3, "route, job and instance");
    let again = editor.apply(&[remove_target]).unwrap();
    assert!(again.delta.is_empty(), "removing what is not there changes nothing");
    let flag = put_target(at, false, "a", "auto");
    assert!(editor.apply(&[put_job("a", ""), flag]).is_ok(), "a new life, so another flag");
}

#[test]
fn what_comes_and_goes_within_one_commit_leaves_no_slot_behind() {
    let mut editor = Editor::new();
    let whole = [put_job("a", ""), put_target("h", false, "a", "auto")];
    let gone = [
        Change::RemoveRoute { endpoint: endpoint("h") },
        Change::RemoveInstance { job: "a".into(), addr: SocketAddr::from(([127, 0, 0, 1], 9_000)) },
        Change::RemoveJob { name: "a".into() },
    ];
    for _ in 0..3 {
        assert!(editor.apply(&[&whole[..], &gone].concat()).unwrap().delta.is_empty());
    }
    let table = editor.apply(&whole).unwrap().table;
    let route = table.find(b"h", b"/").unwrap();
    let job = table.job(route.targets.list[0].job).unwrap();
    let slots = [route.slot.0, job.slot.0, job.instances[0].slot.0];
    assert!(slots.iter().all(|slot| (slot.index, slot.generation) == (0, 0)), "{slots:?}");
}

#[test]
fn every_refusal_is_a_sentence_for_the_operator() {
    let mut editor = Editor::new();
    editor.apply(&[put_job("a", ""), put_target("h", false, "a", "auto")]).unwrap();
    let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
    let job = |name: &str, instances| Change::PutJob {
        name: name.into(),
        client_acl: ClientAcl::default(),
        instances,
    };
    let cases = [
        (put_target("h", false, "b", "auto"), "job b does not exist"),
        (
            put_target("tcp://127.0.0.1:1", true, "a", "auto"),
            "tcp://127.0.0.1:1 cannot be https-only: it is no http route",
        ),
        (
            Change::SetWeight { endpoint: endpoint("x"), job: "a".into(), weight: Weight::AUTO },
            "route http://x does not exist",
        ),
        (Change::AddInstance { job: "b".into(), addr: addr("1.1.1.1:1") }, "job b does not exist"),
        (
            Change::SetAcl { job: "b".into(), client_acl: ClientAcl::default() },
            "job b does not exist",
        ),
        (
            Change::AddInstance { job: "a".into(), addr: addr("1.1.1.1:0") },
            "instance 1.1.1.1:0 has no port",
        ),
        (job("c", vec![addr("1.1.1.1:1"); 2]), "job c has the instance 1.1.1.1:1 twice"),
        (job("c", vec![addr("1.1.1.1:1"); 4_097]), "job c has 4097 instances, 4096 are allowed"),
        (job("", vec![]), "a job name has 1 to 512 bytes, not 0"),
        (job("a\nb", vec![]), "the job name \"a\\nb\" contains a control character"),
    ];
    for (change, expected) in cases {
        assert_eq!(editor.apply(&[change]).unwrap_err().text, expected);
        assert_eq!(editor.table().version(), 1);
    }
}

#[test]
fn a_route_has_at_most_as_many_jobs_as_a_mask_has_bits() {
    let name = |n: usize| format!("job{n}");
    let mut changes: Vec<_> = (0..=TARGETS_MAX).map(|n| put_job(&name(n), "")).collect();
    changes.extend((0..=TARGETS_MAX).map(|n| put_target("h", false, &name(n), "auto")));
    let error = Editor::new().apply(&changes).unwrap_err();
    assert_eq!(error.text, "route http://h has 64 jobs, the most it can");
    assert_eq!(error.index, changes.len() - 1);
}

#[test]
fn a_tcp_address_that_changes_hands_keeps_its_listener() {
    let at = "tcp://127.0.0.1:7000";
    let mut editor = Editor::new();
    let first = editor.apply(&[put_job("a", ""), put_target(at, false, "a", "auto")]).unwrap();
    let address = endpoint(at).tcp().unwrap();
    assert_eq!(first.delta.tcp_added, [address]);
    let remove = Change::RemoveRoute { endpoint: endpoint(at) };
    let both = [remove.clone(), put_target(at, false, "a", "50")];
    let second = editor.apply(&both).unwrap();
    assert_eq!((second.delta.tcp_added.len(), second.delta.tcp_removed.len()), (0, 0));
    assert_ne!(
        second.table.tcp_route(address).unwrap().slot,
        first.table.tcp_route(address).unwrap().slot
    );
    assert_eq!(editor.apply(&[remove]).unwrap().delta.tcp_removed, [address]);
}

#[test]
fn older_versions_are_dropped_by_the_editor_when_their_last_reader_has_gone() {
    let mut editor = Editor::new();
    let held = editor.apply(&[put_job("a", "")]).unwrap().table;
    editor.apply(&[put_job("b", "")]).unwrap();
    editor.apply(&[put_job("c", "")]).unwrap();
    assert_eq!(editor.sweep(), 1, "only the version that is still read");
    drop(held);
    assert_eq!(editor.sweep(), 0);
}

// === explain ===

#[test]
fn an_explanation_reads_like_this() {
    let table = table(&[
        put_job("inside", "10.0.0.0/8, deny 0.0.0.0/0"),
        put_job("blue", ""),
        put_job("green", ""),
        put_job("old", ""),
        put_target("*.example.com/shop", false, "inside", "50%"),
        put_target("*.example.com/shop", false, "blue", "30%"),
        put_target("*.example.com/shop", false, "green", "auto"),
        put_target("*.example.com/shop", false, "old", "-10%"),
        put_target("*.example.com/shop/a/b", false, "old", "auto"),
    ]);
    let explanation = table.explain(&Question {
        https: false,
        host: "App.example.com",
        path: "/shop/a/c",
        client: [192, 0, 2, 7].into(),
        live: &|_| true,
    });
    let expected = "\
http://App.example.com/shop/a/c from 192.0.2.7, table version 1
  host app.example.com: unknown
  host *.example.com: known
  prefix /shop/a/c: no route
  prefix /shop: covers
  https-only: passes
  inside rule 1, allow 10.0.0.0/8: no match
  inside rule 2, deny 0.0.0.0/0: matches
route http://*.example.com/shop
  inside (weight 50%): does not admit the client
  blue (weight 30%): 30.00 % (3000 of 10000)
  green (weight auto): 70.00 % (7000 of 10000)
  old (weight -10%): inactive
served";
    assert_eq!(explanation.to_string(), expected);
}
