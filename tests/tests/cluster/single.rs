//! One process: the life of an application, ending and coming back, bad input.
//!
//! Deliberately absent: the documents' own words (`seeds.rs`).

use tests::cluster::{Up, sample_app};
use tests::until;

/// Goal: ready in under two seconds on an empty state, as measured by itself, and it tells what to do next.
#[test]
fn ready_soon_and_says_what_next() {
    let up = Up::start();
    let ms = up.about["ready_ms"].as_u64().unwrap();
    // The promise is for the release build on a quiet machine; a debug build among other tests gets more.
    assert!(ms < 10_000, "{ms} ms");
    let said = up.output();
    for part in ["apc target http://127.0.0.1:", "apc login", "apc app create", "Ctrl-C"] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

/// Goal: what ran before Ctrl-C runs after the next start, at the same URL, and nothing outlives the process.
#[test]
fn state_survives_the_end() {
    let up = Up::start();
    let app = sample_app(up.folder(), "app", "");
    let apc = up.apc().standing_in(&app);
    apc.run("app create keep --routes keep.test --instances 2 --batch").ok();
    let before = apc.run("app show keep --json").ok().json();
    let children = children_of(&app);
    assert_eq!(children.len(), 2, "{children:?}");
    let folder = up.end();
    until("no instance outlives the cluster", || children_of(&app).is_empty());
    let up = Up::start_in(folder);
    until("the application is back", || up.get("keep.test", "/").0 == 200);
    let after = up.apc().run("app show keep --json").ok().json();
    assert_eq!((&after["uuid"], &after["version_id"]), (&before["uuid"], &before["version_id"]));
}

/// Ids of sample programs that were started from this application's directory tree or of its instances.
fn children_of(app: &std::path::Path) -> Vec<u32> {
    let folder = app.parent().expect("it lies in a folder").display().to_string();
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        let command = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let cwd = std::fs::read_link(format!("/proc/{id}/cwd")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains("sample_app")
            && cwd.display().to_string().starts_with(&folder)
    })
    .collect()
}

/// Goal: create, list, show, scale, restart, stop, start, logs, delete: a life of an application.
#[test]
fn a_life_of_an_application() {
    let up = Up::start();
    let app = sample_app(up.folder(), "app", "");
    let apc = up.apc().standing_in(&app);
    apc.run("app create life --routes life.test --batch -e GREETING=hello").ok();
    assert!(up.get("life.test", "/env").1.contains("GREETING=hello\n"));
    let list = apc.run("app list").ok().out;
    assert!(list.contains("life") && list.contains("1/1"), "{list}");
    apc.run("app scale life 3 --batch").ok();
    until("three instances answer", || {
        let answers: std::collections::BTreeSet<String> =
            (0..12).map(|_| up.get("life.test", "/").1).collect();
        answers.len() == 3
    });
    up.get("life.test", "/log?text=a-line-of-output");
    up.get("life.test", "/err?text=a-line-of-errors");
    until("both lines are in the log", || {
        let log = apc.run("app logs life --lines 100").ok().out;
        log.contains("] a-line-of-output\n")
            && log.contains("[stderr][")
            && log.contains("] a-line-of-errors\n")
    });
    let before = apc.run("app instances life --json").ok().json();
    apc.run("app restart life --batch").ok();
    let after = apc.run("app instances life --json").ok().json();
    assert!(
        after.as_array().is_some_and(|list| !list.is_empty()) && before != after,
        "{before} {after}"
    );
    apc.run("app stop life --batch").ok();
    assert_eq!(up.get("life.test", "/").0, 503, "its route is there, nobody serves");
    apc.run("app start life --batch").ok();
    assert_eq!(up.get("life.test", "/").0, 200);
    apc.run("app delete life --batch").ok();
    assert_eq!(up.get("life.test", "/").0, 404);
    apc.run("app show life").fails(3);
    until("no process is left", || children_of(&app).is_empty());
}

/// Goal: an instance that ends is replaced, and its exit status is told.
#[test]
fn a_crash_is_replaced_and_told() {
    let up = Up::start();
    let app = sample_app(up.folder(), "app", "");
    let apc = up.apc().standing_in(&app);
    apc.run("app create phoenix --routes phoenix.test --batch").ok();
    let first = up.get("phoenix.test", "/").1;
    up.get("phoenix.test", "/exit?code=3");
    until("another instance answers", || {
        let (status, text) = up.get("phoenix.test", "/");
        status == 200 && text != first
    });
}

/// Goal: mistakes of a user get three lines, the right exit code, and lose nothing.
#[test]
fn mistakes_are_told_in_three_lines() {
    let up = Up::start();
    let apc = up.apc();
    let cases = [
        ("app show nobody", 3),
        ("app create x /does/not/exist --batch", 3),
        ("app create \"bad name\" --batch", 2),
        ("route add a$b.test --app nobody", 2),
        ("app craete x", 2),
        ("route weight x.test --app y --weight lots", 2),
    ];
    for (line, code) in cases {
        let ran = apc.run(line);
        assert_eq!(ran.code, code, "{line}: {}", ran.err);
        assert!(
            !ran.err.contains("panicked") && !ran.err.contains("RUST_BACKTRACE"),
            "{}",
            ran.err
        );
    }
    let stranger = tests::cluster::Apc::new(&up.folder().join("stranger"), up.folder());
    stranger.run(&format!("target {}", up.text("api"))).ok();
    stranger.run("app list").fails(5);
    stranger.run("target http://127.0.0.1:1").fails(7);
}
