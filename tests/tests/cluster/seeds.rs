//! The commands of the defining documents, typed against a fresh cluster, their output and the traffic compared.
//!
//! Deliberately absent: commands about docker images, policy and stagers, which are not there yet.

use tests::cluster::{Up, sample_app};
use tests::{Client, until};

/// Type and endpoint of the only route of a job, as the API has it; none without one.
fn routes_of(up: &Up, job: &str) -> Vec<(String, String)> {
    let job = up.apc().run(&format!("app show {job} --json")).ok().json();
    let ports = job["ports"].as_array().cloned().unwrap_or_default();
    let routes =
        ports.iter().flat_map(|port| port["routes"].as_array().cloned().unwrap_or_default());
    let text =
        |route: &serde_json::Value, key: &str| route[key].as_str().unwrap_or_default().to_owned();
    routes.map(|route| (text(&route, "type"), text(&route, "endpoint"))).collect()
}

/// The endpoint of a job that has one http route.
fn host_of(up: &Up, job: &str) -> String {
    let routes = routes_of(up, job);
    let [(kind, host)] = routes.as_slice() else { panic!("one route of {job}: {routes:?}") };
    assert_eq!(kind, "http");
    host.clone()
}

/// Goal: "apc app create mynode sample-apps/example-node-hello" gives the settings table of the documents, a route made
/// of the name and six characters, and a URL that answers.
#[test]
fn app_create_gives_a_url_that_answers() {
    let up = Up::start();
    let apps = up.folder().join("src");
    sample_app(&apps.join("sample-apps"), "example-node-hello", "");
    let apc = up.apc().standing_in(&apps);
    let ran = apc.run("app create mynode sample-apps/example-node-hello").ok();
    for line in [
        "                     Application Settings                      ",
        "│              FQN: │ job::/sandbox/admin::mynode",
        "│        Instances: │ 1 ",
        "│          Restart: │ always ",
        "│ Staging Pipeline: │ (will be auto-detected) ",
        "│              CPU: │ 0ms/s (uncapped) ",
        "│           Memory: │ 256MiB ",
        "│             Disk: │ 1GiB ",
        "│           NetMin: │ 5Mbps ",
        "│           Netmax: │ 0Mbps (uncapped) ",
        "│         Route(s): │ auto ",
        "│  Startup Timeout: │ 30 (seconds) ",
        "│     Stop Timeout: │ 5 (seconds) ",
        "Packaging... done",
        "Creating package \"mynode\"... done",
        "Uploading package contents... done!",
        "Creating app \"mynode\"... done",
        "Start Command: ./bash_start.sh",
        "Waiting for the application to start...",
        "Success!",
    ] {
        assert!(ran.err.contains(line), "no {line:?} in\n{}", ran.err);
    }
    let host = host_of(&up, "mynode");
    let (name, domain) = host.split_once('.').unwrap();
    let (app, six) = name.split_once('-').unwrap();
    assert_eq!((app, domain, six.len()), ("mynode", "apcera.localhost", 6));
    assert!(six.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{six}");
    let url = format!("App should be accessible at \"http://{host}:{}\"", up.router("http").port());
    assert!(ran.err.contains(&url), "no {url:?} in\n{}", ran.err);
    assert_eq!(up.get(&host, "/").0, 200, "the URL answers as soon as the command has ended");
}

/// Goal: custom routes by "--routes coolapp.apcera.com" and "--routes coolapp.apcera.com, coolapp2.apcera.com"; dots of
/// a name are removed in its default route; "--disable-routes" gives none.
#[test]
fn custom_default_and_disabled_routes() {
    let up = Up::start();
    let app = sample_app(up.folder(), "app", "");
    let apc = up.apc().standing_in(&app);
    apc.run("app create myapp --routes coolapp.apcera.com, coolapp2.apcera.com --batch").ok();
    for host in ["coolapp.apcera.com", "coolapp2.apcera.com"] {
        assert_eq!(up.get(host, "/").0, 200, "{host}");
    }
    apc.run("app create My.App --batch").ok();
    let host = host_of(&up, "My.App");
    assert!(host.starts_with("myapp-"), "{host}");
    let deaf = sample_app(up.folder(), "deaf", "--deaf");
    apc.standing_in(&deaf).run("app create someApp --disable-routes --batch").ok();
    assert_eq!(routes_of(&up, "someApp"), []);
}

/// Goal: the tables of "apc route list", "-l" and "route show" byte for byte, for the routes of the documents.
#[test]
fn route_tables_are_those_of_the_documents() {
    let up = Up::start();
    let app = sample_app(up.folder(), "app", "");
    let apc = up.apc().standing_in(&app);
    apc.run("app create app1 --routes app-route.foo.com --batch").ok();
    apc.run("app create app2 --routes http://app-route.foo.com,http://my-route2.foo.com --batch")
        .ok();
    let list = apc.run("route list").ok();
    assert_eq!(
        list.err.clone() + &list.out,
        "Working in \"/sandbox/admin\"\n\
         ╭──────┬───────────────────┬──────────────╮\n\
         │ Type │ Endpoint          │ # Times Used │\n\
         ├──────┼───────────────────┼──────────────┤\n\
         │ http │ app-route.foo.com │ 2            │\n\
         │ http │ my-route2.foo.com │ 1            │\n\
         ╰──────┴───────────────────┴──────────────╯\n"
    );
    let long = apc.run("route list -l").ok().out;
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(
        lines[1],
        "│ Type │ Endpoint          │ Weight │ Job FQN                   │ Job UUID                             │"
    );
    assert!(
        lines[3].starts_with("│ http │ app-route.foo.com │ auto   │ job::/sandbox/admin::app1 │ "),
        "{long}"
    );
    assert_eq!(lines.len(), 7, "{long}");
    let show = apc.run("route show app-route.foo.com").ok();
    assert_eq!(
        show.err.clone() + &show.out,
        "Jobs using route 'app-route.foo.com':\n\
         ╭──────┬────────────────┬────────╮\n\
         │ Name │ Namespace      │ Weight │\n\
         ├──────┼────────────────┼────────┤\n\
         │ app1 │ /sandbox/admin │ auto   │\n\
         │ app2 │ /sandbox/admin │ auto   │\n\
         ╰──────┴────────────────┴────────╯\n"
    );
}

/// Goal: "app create app1 … --https-only" redirects plain requests, serves TLS, and a second app without the flag is
/// refused with the documents' two lines.
#[test]
fn https_only_and_its_conflict() {
    let up = Up::start();
    let app = sample_app(up.folder(), "my-app", "");
    let apc = up.apc();
    let created = apc.run(&format!(
        "app create app1 -p {} --routes app.example.com --https-only --batch",
        app.display()
    ));
    assert!(created.ok().err.ends_with("Success!\n"));
    let response = Client::connect(up.router("http")).get("app.example.com", "/x?y=1");
    assert_eq!(response.status, 301);
    assert_eq!(response.get("location").as_deref(), Some("https://app.example.com/x?y=1"));
    let refused =
        apc.run(&format!("app create app2 -p {} --routes app.example.com --batch", app.display()));
    let text = refused.fails(4).err;
    let lines: Vec<&str> = text.lines().collect();
    let at = lines
        .iter()
        .position(|line| *line == "Creating app \"app2\"... error")
        .unwrap_or_else(|| panic!("{text}"));
    assert_eq!(
        lines[at + 1],
        "Error: error creating job: Route app.example.com https-only flag conflict"
    );
}

/// Goal: the client ACL of the documents, in its three forms, refuses and admits at the router.
#[test]
fn client_acl_from_the_command_to_the_router() {
    let up = Up::start();
    let app = sample_app(up.folder(), "app", "");
    let apc = up.apc().standing_in(&app);
    apc.run("app create webapp --routes w.test --client-acl=\"allow 128.66.3.0/24, deny 128.66.0.0/16\" --batch").ok();
    assert_eq!(up.get("w.test", "/").0, 200, "what no rule matches is admitted");
    apc.run("job update webapp --client-acl=\"128.66.3.0/24, deny 0.0.0.0/0\" --batch").ok();
    assert_eq!(up.get("w.test", "/").0, 403, "live as soon as the command has ended");
    apc.run("app update webapp --client-acl=\"allow 127.0.0.1/32, deny 0.0.0.0/0\" --batch").ok();
    assert_eq!(up.get("w.test", "/").0, 200);
    let shown = apc.run("app show webapp --json").ok().json();
    assert_eq!(shown["client_acl"], "allow 127.0.0.1/32, deny 0.0.0.0/0");
}

/// Goal: "route add", "route weight … 50%", "-10%": from the command to exact shares of live traffic.
#[test]
fn weights_from_the_command_to_the_traffic() {
    let up = Up::start();
    let app = sample_app(up.folder(), "app", "");
    let apc = up.apc().standing_in(&app);
    apc.run("app create blue --routes http://myapp.example.me --batch").ok();
    apc.run("app create green --disable-routes --batch").ok();
    apc.run("app update green --port-add 0 --batch").ok();
    let added = apc.run("route add http://myapp.example.me --app green --batch").ok();
    assert!(added.err.contains("live on 1/1 routers, "), "{}", added.err);
    apc.run("route weight myapp.example.me --app blue --weight 75%").ok();
    let blue = instance(&apc, "blue");
    assert_eq!(share(&up, &blue, 80), 60, "75 % and what is left");
    apc.run("route weight myapp.example.me --app blue --weight -10%").ok();
    assert_eq!(share(&up, &blue, 20), 0, "a negative weight is no traffic");
    let table = apc.run("route show myapp.example.me").ok().out;
    assert!(table.contains("│ blue  │ /sandbox/admin │ -10%   │"), "{table}");
    let proof = apc.run("route proof myapp.example.me").ok().out;
    assert!(proof.contains("green"), "{proof}");
    let explained = apc.run("route explain http://myapp.example.me/ --from 10.1.2.3").ok().out;
    assert!(explained.contains("myapp.example.me"), "{explained}");
}

fn instance(apc: &tests::cluster::Apc, app: &str) -> String {
    let list = apc.run(&format!("app instances {app} --json")).ok().json();
    list[0]["uuid"].as_str().unwrap_or_else(|| panic!("{list}")).to_owned()
}

/// Requests of `count` on one connection, and so on one core, that this instance answered.
fn share(up: &Up, instance: &str, count: usize) -> usize {
    let mut client = Client::connect(up.router("http"));
    (0..count).filter(|_| client.get("myapp.example.me", "/").text().trim_end() == instance).count()
}

/// Goal: "route add auto --tcp --app slogger --p 1999" picks a port of the router, and bytes go through.
#[test]
fn tcp_auto_from_the_command_to_the_bytes() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let up = Up::start();
    let held = tests::HeldPort::new();
    let port = held.addr().port();
    let addr = held.addr();
    drop(held);
    let app = sample_app(up.folder(), "slogger", &format!("--deaf --tcp {port}"));
    let apc = up.apc().standing_in(&app);
    apc.run("app create slogger --disable-routes --batch --no-start").ok();
    apc.run(&format!("app update slogger --port-add {port} --batch")).ok();
    let added = apc.run(&format!("route add auto --tcp --app slogger --p {port} --json")).ok();
    apc.run("app start slogger --batch").ok();
    let routes = routes_of(&up, "slogger");
    let [(kind, endpoint)] = routes.as_slice() else { panic!("{routes:?} {}", added.out) };
    assert_eq!(kind, "tcp");
    assert_ne!(*endpoint, addr.to_string());
    let mut stream = std::net::TcpStream::connect(endpoint.as_str()).unwrap();
    stream.write_all(b"hello\n").unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert_eq!(line, format!("{} hello\n", instance(&apc, "slogger")));
}

/// Goal: "If nothing is listening at that port, your application will fail to start"; with "--optional" it starts.
#[test]
fn a_port_that_nobody_listens_on() {
    let up = Up::start();
    let app = sample_app(up.folder(), "deaf", "--deaf");
    let apc = up.apc().standing_in(&app);
    apc.run("app create your-app --disable-routes --batch --timeout 1").ok();
    apc.run("app update your-app --port-add 4567 --optional --batch").ok();
    until("it runs although nothing listens", || {
        let list = apc.run("app instances your-app --json").ok().json();
        list.as_array().is_some_and(|list| list.iter().any(|one| one["state"] == "RUNNING"))
    });
    let failed = apc.run("app create bad-app --batch --timeout 1");
    assert_ne!(failed.code, 0, "{}", failed.err);
    assert!(failed.err.contains("\nError: "), "{}", failed.err);
    until("its own log tells why it flaps", || {
        apc.run("app logs bad-app --lines 50")
            .ok()
            .out
            .contains("job::/sandbox/admin::bad-app\" now considered flapping")
    });
}
