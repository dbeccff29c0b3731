//! `apc` as the user sees it: what is on each stream, byte for byte, and the exit code.
//!
//! Deliberately absent: the cluster; a small API stands for it.

#[cfg(test)]
mod fake;

use fake::{Fake, Ran, error};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

const APP1: &str = "3b0a6209-5dcf-408c-8941-cf9f44295f58";
const APP2: &str = "0512b2a3-18a9-4d0e-9a45-717b525921dc";
const DEV2: &str = "9512b2a3-18a9-4d0e-9a45-717b525921dc";

fn route(endpoint: &str) -> Value {
    json!({"tags": {"app": "x"}, "ports": [{"number": 0, "routes": [{"type": "http", "endpoint": endpoint, "weight": 0}]}]})
}

/// The jobs of the documented tables.
fn documented(name: &str) -> Fake {
    let fake = Fake::start(name);
    fake.add_job("job::/sandbox/admin::app1", APP1, route("app-route.foo.com"));
    fake.add_job("job::/sandbox/admin::app2", APP2, route("app-route.foo.com"));
    fake.add_job("job::/dev::app2", DEV2, route("my-route2.foo.com"));
    fake
}

fn ran(out: &str, err: &str, code: i32) -> Ran {
    Ran { out: out.to_owned(), err: err.to_owned(), code }
}

/// Goal: the tables of routes are the documented ones; the table is data, the line above it is talk.
#[test]
fn tables_of_routes() {
    let fake = documented("routes");
    let list = "\
╭──────┬───────────────────┬──────────────╮
│ Type │ Endpoint          │ # Times Used │
├──────┼───────────────────┼──────────────┤
│ http │ app-route.foo.com │ 2            │
│ http │ my-route2.foo.com │ 1            │
╰──────┴───────────────────┴──────────────╯
";
    assert_eq!(fake.run("route list"), ran(list, "Working in \"/sandbox/admin\"\n", 0));
    let show = "\
╭──────┬────────────────┬────────╮
│ Name │ Namespace      │ Weight │
├──────┼────────────────┼────────┤
│ app1 │ /sandbox/admin │ auto   │
│ app2 │ /sandbox/admin │ auto   │
╰──────┴────────────────┴────────╯
";
    assert_eq!(
        fake.run("route show app-route.foo.com"),
        ran(show, "Jobs using route 'app-route.foo.com':\n", 0)
    );
    let long = fake.run("route list -l");
    assert!(
        long.out.contains(&format!(
            "│ http │ my-route2.foo.com │ auto   │ job::/dev::app2           │ {DEV2} │"
        )),
        "{long:?}"
    );
    assert_eq!((long.err.as_str(), long.code), ("", 0));
    let narrow = fake.run("route list --namespace /dev");
    assert!(
        !narrow.out.contains("app-route") && narrow.err == "Working in \"/dev\"\n",
        "{narrow:?}"
    );
}

fn write_script(folder: &std::path::Path) {
    let script = folder.join("bash_start.sh");
    std::fs::write(&script, "#!/bin/sh\n").expect("the folder is writable");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
        .expect("the folder is writable");
}

/// Goal: an application from a directory to its URL: the documented transcript.
#[test]
fn from_a_directory_to_a_url() {
    let fake = Fake::start("create");
    let folder = fake.home().join("site");
    std::fs::create_dir(&folder).unwrap();
    write_script(&folder);
    let folder = folder.canonicalize().unwrap().display().to_string();
    let made = fake.run_words(&["app", "create", "mywebsite", "-p", &folder, "--batch"]);
    assert_eq!((made.out.as_str(), made.code), ("", 0), "{}", made.err);
    let (settings, talk) = made.err.split_once("╯\n").unwrap();
    assert!(
        settings.contains("│              FQN: │ job::/sandbox/admin::mywebsite"),
        "{settings}"
    );
    assert_eq!(
        talk,
        "\
Packaging... done
Creating package \"mywebsite\"... done
Uploading package contents... done!
Creating app \"mywebsite\"... done
Routes are live on 2/2 routers, 4/4 cores, 9 ms
Start Command: ./bash_start.sh
Waiting for the application to start...
[a2434d21] RUNNING
App should be accessible at \"http://app-h3f435.example.com:8080\"
Success!
"
    );
    let job = fake.state.lock().unwrap().jobs[0].clone();
    assert_eq!(job["packages"][0]["install_path"], "/app");
    assert_eq!((&job["tags"]["app"], &job["state"]), (&json!("mywebsite"), &json!("started")));
    let again = fake.run_words(&["app", "create", "mywebsite", "-p", &folder]);
    assert_eq!(again.code, 4, "{again:?}");
    std::fs::write(std::path::Path::new(&folder).join("more"), "x").unwrap();
    let deployed = fake.run_words(&["app", "deploy", "mywebsite", "-p", &folder]);
    assert_eq!(deployed.code, 0, "{deployed:?}");
    assert!(deployed.err.contains("Updating app \"mywebsite\"... done\n"), "{}", deployed.err);
    assert_eq!(fake.run("app delete mywebsite").code, 0);
    assert!(fake.state.lock().unwrap().packages.is_empty(), "packages are left");
}

/// Goal: the conflict of the https-only flag is told as documented, and nothing is left behind.
#[test]
fn the_https_only_conflict() {
    let fake = Fake::start("conflict");
    let conflict = error(
        409,
        "conflict",
        "error creating job: Route app.example.com https-only flag conflict",
    );
    fake.answer_instead("POST /jobs?", 409, conflict);
    let folder = fake.home().display().to_string();
    let words = [
        "app",
        "create",
        "app2",
        "-p",
        &folder,
        "--routes",
        "app.example.com",
        "--start-cmd",
        "./x",
    ];
    let made = fake.run_words(&words);
    assert!(
        made.err.ends_with("Creating app \"app2\"... error\nError: error creating job: Route app.example.com https-only flag conflict\n"),
        "{}", made.err
    );
    assert_eq!((made.out.as_str(), made.code), ("", 4));
    assert!(fake.state.lock().unwrap().packages.is_empty(), "a package is left");
}

/// Goal: weights in every documented form; what is live is told.
#[test]
fn weights_and_what_is_live() {
    let fake = documented("weights");
    let text = |weight: &str| {
        format!(
            "Setting weight of route \"app-route.foo.com\" of \"app1\"... done\nWeight is {weight}\nlive on 2/2 routers, 4/4 cores, 9 ms\nSuccess!\n"
        )
    };
    assert_eq!(
        fake.run("route weight app-route.foo.com --app app1 --weight 50%"),
        ran("", &text("50%"), 0)
    );
    assert_eq!(
        fake.run("route weight app-route.foo.com -app app1 --weight -10%"),
        ran("", &text("-10%"), 0)
    );
    let again = fake.run("route add app-route.foo.com --app app1 --weight -10%");
    assert!(again.err.contains("Nothing to change\n"), "{again:?}");
    assert_eq!(fake.run("route add app-route.foo.com --app app1 --weight 30%").code, 0);
    assert_eq!(fake.state.lock().unwrap().jobs[0]["ports"][0]["routes"][0]["weight"], 30.0);
    assert_eq!(fake.run("route weight app-route.foo.com --app app1 --weight -10%").code, 0);
    let mapped = fake.run("route map app-route.foo.com -a app1");
    assert_eq!(mapped.code, 0, "{mapped:?}");
    assert_eq!(fake.state.lock().unwrap().jobs[0]["ports"][0]["routes"][0]["weight"], 10.0);
    assert_eq!(fake.run("route unmap app-route.foo.com -j app2").code, 0);
    assert!(
        fake.state.lock().unwrap().jobs[1]["ports"][0]["routes"][0]["weight"].as_f64().unwrap()
            < 0.0
    );
    assert_eq!(fake.run("route map app-route.foo.com -j app2").code, 0);
    assert_eq!(fake.state.lock().unwrap().jobs[1]["ports"][0]["routes"][0]["weight"], 0.0);
    let added = fake.run("route add auto --tcp --app app1 --p 1999");
    assert!(
        added.err.contains("App should be accessible at \"tcp://10.0.0.1:10000\"\n"),
        "{added:?}"
    );
    let deleted = fake.run("route delete app-route.foo.com --app app1");
    assert_eq!(deleted.code, 0, "{deleted:?}");
    fake.state.lock().unwrap().routers_away = true;
    let unheard = fake.run("route weight app-route.foo.com --app app2 --weight 20%");
    assert_eq!(unheard.code, 6, "{unheard:?}");
    assert!(
        unheard.err.contains("\nnot live yet: no router was heard\nError: no router serves it yet"),
        "{unheard:?}"
    );
    let ambiguous = documented("ambiguous").run("route delete app-route.foo.com");
    assert_eq!(
        (ambiguous.code, ambiguous.err.lines().next()),
        (2, Some("Error: 2 jobs use \"app-route.foo.com\""))
    );
}

/// Goal: stop, start, scale, restart, update; a change that needs a restart is made with one, unless that is forbidden.
#[test]
fn a_life() {
    let fake = documented("life");
    assert_eq!(fake.run("app stop app1"), ran("", "Stopping the job... done\nSuccess!\n", 0));
    let started = "Starting the job... done\nWaiting for the application to start...\n[a2434d21] RUNNING\nSuccess!\n";
    assert_eq!(fake.run("app start app1"), ran("", started, 0));
    assert_eq!(fake.run("app scale app1 3").code, 0);
    assert_eq!(fake.state.lock().unwrap().jobs[0]["num_instances"], 3);
    assert!(fake.run("app restart app1").err.starts_with("Restarting the job... done\n"));
    let uuid = format!("PUT /jobs/{APP2}?wait=live&timeout_ms=5000");
    let restart = error(409, "requires_restart", "resources need a restart");
    fake.answer_instead(&uuid, 409, restart);
    let refused = fake.run("app update app2 --memory 512MB --no-restart");
    assert_eq!(
        (refused.code, refused.err.lines().nth(1)),
        (4, Some("Error: error updating job: resources need a restart"))
    );
    let permitted = fake.run("app update app2 --memory 512MB");
    assert!(fake.requests().contains(&format!("{uuid}&restart=true")), "{permitted:?}");
}

/// Goal: with `--json` standard output is what the API answered, nothing else; errors too.
#[test]
fn json_is_the_answer() {
    let fake = documented("json");
    let list: Vec<Value> = serde_json::from_str(&fake.run("app list --json").out).unwrap();
    assert_eq!(list.len(), 2);
    let show: Value = serde_json::from_str(&fake.run("app show app1 -json").out).unwrap();
    assert_eq!(show["uuid"], APP1);
    let instances: Vec<Value> =
        serde_json::from_str(&fake.run("app instances app1 --json").out).unwrap();
    assert_eq!(instances.len(), 1);
    let weight: Value =
        serde_json::from_str(&fake.run("route weight app-route.foo.com -a app1 -w 5 --json").out)
            .unwrap();
    assert_eq!(weight["fqn"], "job::/sandbox/admin::app1");
    fake.answer_instead("GET /jobs?fqn", 403, error(403, "denied", "policy forbids it"));
    let denied = fake.run("app show app1 --json");
    assert_eq!((denied.code, denied.err.as_str()), (5, "Error: policy forbids it\n"));
    assert_eq!(serde_json::from_str::<Value>(&denied.out).unwrap()["error"], "denied");
}

/// Goal: every exit code, with its text.
#[test]
fn exit_codes() {
    let fake = documented("codes");
    let first = |ran: &Ran| ran.err.lines().next().unwrap_or_default().to_owned();
    let missing = fake.run("app show app3");
    assert_eq!(
        (missing.code, missing.err.as_str()),
        (3, "Error: there is no \"job::/sandbox/admin::app3\"\n  try: \"app1\"\n")
    );
    let usage = fake.run("app shwo x");
    assert_eq!(
        (usage.code, usage.err.as_str()),
        (2, "Error: \"shwo\" is not a verb of \"app\"\n  try: apc app show\n")
    );
    let lacking = fake.run("route show");
    assert_eq!(lacking.code, 2, "{lacking:?}");
    assert!(
        lacking.err.starts_with("Error: the following required arguments were not provided"),
        "{lacking:?}"
    );
    fake.answer_instead("DELETE /jobs", 409, error(409, "conflict", "in use"));
    assert_eq!(fake.run("app delete app1").code, 4);
    fake.answer_instead("GET /jobs/", 200, json!([]));
    let late = fake.run("app restart app1 --wait-timeout 0");
    assert_eq!(late.code, 1, "an answer that is no job: {late:?}");
    let failed = fake.run("app update app1 --env-set nothing");
    assert_eq!(
        (failed.code, failed.err.lines().nth(1)),
        (2, Some("Error: \"nothing\" is not NAME=VALUE"))
    );
    fake.answer_instead("GET /jobs?", 504, error(504, "timed_out", "not in time"));
    assert_eq!(
        (fake.run("app list").code, first(&fake.run("app list"))),
        (6, "Error: not in time".to_owned())
    );
}

/// Goal: a cluster that is not there is told in three lines, without a stack, with its code.
#[test]
fn a_cluster_that_is_away() {
    let fake = Fake::start("away");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_apc"))
        .args(["app", "list"])
        .env_clear()
        .env("APC_HOME", fake.home())
        .env("APC_TARGET", format!("http://{gone}"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(text.starts_with(&format!("Error: http://{gone} does not answer\n  why: ")), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
}

/// Goal: target, login, namespace and logout remember what they should, for the owner only.
#[test]
fn who_and_where() {
    let fake = Fake::start("who");
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_apc"))
            .args(words)
            .env_clear()
            .env("APC_HOME", fake.home())
            .output()
            .unwrap();
        ran(
            &String::from_utf8(output.stdout).unwrap(),
            &String::from_utf8(output.stderr).unwrap(),
            output.status.code().unwrap(),
        )
    };
    assert_eq!(run(&["app", "list"]).code, 2);
    let note = "Note: the target uses http; tokens are sent without encryption\n";
    assert_eq!(
        run(&["target", &fake.url]),
        ran("", &format!("{note}Targeted [{}]\n", fake.url), 0)
    );
    let refused = run(&["login", "--token", "wrong"]);
    assert_eq!(
        (refused.code, refused.err.as_str()),
        (5, "Logging in... error\nError: the token is not known\n  try: apc login\n")
    );
    assert_eq!(run(&["login", "--token", "secret"]), ran("", "Logging in... done\nSuccess!\n", 0));
    assert_eq!(run(&["namespace"]), ran("/sandbox/admin\n", "", 0));
    assert_eq!(run(&["namespace", "/dev"]), ran("", "Setting namespace to '/dev'... done\n", 0));
    let shown = run(&["target"]);
    assert_eq!(
        shown.out,
        format!("Targeted [{}] with the default namespace set to \"/dev\"\n", fake.url)
    );
    assert_eq!(shown.out.split_whitespace().nth(8), Some("\"/dev\""));
    assert_eq!(run(&["version"]), ran("apc 0.1.0\ncluster 1.2.3 (API 1)\n", "", 0));
    assert_eq!(run(&["logout"]).code, 0);
    assert_eq!(run(&["app", "list"]).code, 5);
}

/// Goal: help names every exit code, nouns and verbs; completion scripts and names work.
#[test]
fn help_and_completion() {
    let fake = documented("help");
    let help = fake.run("help");
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    for line in [
        "  0  done",
        "  7  the cluster does not answer",
        "  app ",
        "  route ",
        "  package ",
        "  target ",
    ] {
        assert!(help.out.contains(line), "{line}: {}", help.out);
    }
    for (noun, verbs) in [
        (
            "app",
            "create deploy update scale start stop restart delete list show logs instances health",
        ),
        ("job", "update start stop restart delete list show logs instances health"),
        ("route", "add delete list show weight map unmap explain proof"),
        ("package", "list show create download delete"),
    ] {
        let help = fake.run(&format!("help {noun}"));
        for verb in verbs.split(' ') {
            assert!(help.out.contains(&format!("\n  {verb} ")), "{noun} {verb}: {}", help.out);
        }
    }
    let bare = fake.run("app");
    assert_eq!((bare.out.as_str(), bare.code), ("", 2), "a script must notice");
    assert!(bare.err.contains("\n  create "), "{}", bare.err);
    assert_eq!(fake.run("--version"), ran(concat!("apc ", env!("CARGO_PKG_VERSION"), "\n"), "", 0));
    let help = fake.run("app create -h");
    assert!(
        help.out.contains("-r, --routes <LIST>") && help.out.contains("[alias: --dr]"),
        "{}",
        help.out
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = fake.run(&format!("completion {shell}"));
        assert!(script.out.contains("apc __names") && script.code == 0, "{shell}");
    }
    assert_eq!(fake.run_words(&["__names", "--", "app", "show", "a"]), ran("app1\napp2\n", "", 0));
    assert_eq!(
        fake.run_words(&["__names", "--", "route", "weight", ""]),
        ran("app-route.foo.com\nmy-route2.foo.com\n", "", 0)
    );
}

/// Goal: who waits for an API that accepts and does not answer is told so, and gets the answer when it comes.
#[test]
fn a_slow_api_is_named() {
    let fake = Fake::start("slow");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut running = fake
        .command(&url)
        .args(["tag", "list", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut told = String::new();
    BufReader::new(running.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert_eq!(told, format!("Waiting for {url} to answer...\n"));
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
        .unwrap();
    let ran = running.wait_with_output().unwrap();
    assert_eq!((ran.stdout.as_slice(), ran.status.code()), (b"[]\n".as_slice(), Some(0)));
}

/// Goal: the file beside the source names the application and its namespace; flags win; without any name it is asked for
/// one, and what nothing acts on is told.
#[test]
fn the_file_names_the_application() {
    let fake = Fake::start("named");
    let folder = fake.home().join("site");
    std::fs::create_dir(&folder).unwrap();
    write_script(&folder);
    let path = folder.display().to_string();
    let nameless = fake.run_words(&["app", "create", "-p", &path, "--batch"]);
    assert_eq!(
        (nameless.code, nameless.err.lines().next()),
        (2, Some("Error: the application has no name"))
    );
    let conf = "name: \"from-file\"\nnamespace: \"/dev\"\nstaging_pipeline: \"x\"\n";
    std::fs::write(folder.join("continuum.conf"), conf).unwrap();
    let made = fake.run_words(&["app", "create", "-p", &path, "--batch"]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.err.contains("Note: nothing acts on staging_pipeline in "), "{made:?}");
    let deployed = fake.run_words(&["app", "deploy", "-p", &path, "--batch"]);
    assert!(deployed.err.contains("Updating app \"from-file\"... done\n"), "{deployed:?}");
    let elsewhere = ["app", "create", "web", "-p", &path, "--namespace", "/prod", "--batch"];
    assert_eq!(fake.run_words(&elsewhere).code, 0);
    let names: Vec<_> =
        fake.state.lock().unwrap().jobs.iter().map(|job| job["fqn"].clone()).collect();
    assert_eq!(names, ["job::/dev::from-file", "job::/prod::web"]);
}
