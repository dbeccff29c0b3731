//! The shape of the tree as a test: module heads, sizes, arrows between crates, calls that are banned.
//!
//! Deliberately absent: taste. What a machine cannot judge is for reviews.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;

/// Crates and the crates of this workspace that they may name in `[dependencies]`. Arrows run downwards only. (Tests may
/// look up: those of `bus` and `store` take their servers from `tests`.)
const ARROWS: &[(&str, &[&str])] = &[
    ("dataplane/route", &[]),
    ("dataplane/http", &[]),
    ("dataplane/engine", &[]),
    ("dataplane/router", &["route", "http1", "engine"]),
    ("dataplane/feed", &["route", "router", "wire", "bus"]),
    ("control/wire", &[]),
    ("control/bus", &[]),
    ("control/store", &[]),
    ("control/conf", &[]),
    ("control/services", &["route", "wire", "bus", "store"]),
    ("control/apc", &["route", "wire", "conf"]),
    ("runtime", &["wire", "bus"]),
    ("deploy", &["route", "router", "feed", "wire", "bus", "store", "conf", "services", "runtime"]),
    (
        "bench",
        &[
            "route", "http1", "engine", "router", "feed", "wire", "bus", "store", "services",
            "runtime",
        ],
    ),
    ("tests", &[]),
];

/// Where `unsafe` may be: one crate of the data plane; outside it, an allocator that counts in a test, and two
/// programs of the bench that speak to io_uring directly, because they are what the engine is measured against.
const UNSAFE_PLACES: &[&str] = &[
    "dataplane/engine",
    "dataplane/router/tests/no_allocation.rs",
    "bench/src/load/ring.rs",
    "bench/src/bin/blind_relay/ring.rs",
];

/// Files that may be longer, each with its reason. A shrinking list.
const LONG_FILES: &[(&str, &str)] = &[];

/// Functions that may be longer, as file and name. A shrinking list: a table of mistakes and their texts, the life of an
/// instance on one screen, and the start of a whole cluster, one service after the other.
const LONG_FUNCTIONS: &[(&str, &str)] = &[
    ("dataplane/router/src/config/tests.rs", "mistakes_point_at_their_text"),
    ("runtime/src/life.rs", "step"),
    ("deploy/src/up.rs", "up"),
];

/// Goal: every file says what it is.
#[test]
fn every_file_has_a_head() {
    let bare: Vec<_> =
        sources().into_iter().filter(|file| !file.text.trim_start().starts_with("//!")).collect();
    assert!(bare.is_empty(), "no module head: {:?}", names(&bare));
}

/// Goal: no god file, and no function that needs scrolling.
#[test]
fn files_and_functions_are_small() {
    let mut complaints = Vec::new();
    for file in sources() {
        let lines = file.own_text().lines().count();
        let excused = LONG_FILES.iter().any(|(name, _)| *name == file.name);
        if lines > FILE_LINES_MAX && !excused {
            complaints.push(format!("{}: {lines} lines", file.name));
        }
        for (function, length) in functions(&file.text) {
            let excused = LONG_FUNCTIONS.contains(&(file.name.as_str(), function.as_str()));
            if length > FUNCTION_LINES_MAX && !excused {
                complaints.push(format!("{}: fn {function} has {length} lines", file.name));
            }
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Goal: arrows between crates run downwards only, and every crate has its line here.
#[test]
fn arrows_run_downwards() {
    let root = root();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for (folder, allowed) in ARROWS {
        let text = fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap();
        let start = text.find("[dependencies]").unwrap_or(text.len());
        let end = text[start + 1..].find("\n[").map_or(text.len(), |at| start + 1 + at);
        for name in [
            "route", "http1", "engine", "router", "feed", "wire", "bus", "store", "conf",
            "services", "apc", "runtime", "apcera", "bench", "tests",
        ] {
            let named = text[start..end].lines().any(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
            });
            assert!(!named || allowed.contains(&name), "{folder} must not depend on {name}");
        }
    }
    let members = manifest.lines().find(|line| line.starts_with("members")).expect("members");
    for member in members.split('"').skip(1).step_by(2) {
        assert!(ARROWS.iter().any(|(folder, _)| *folder == member), "{member} has no line here");
    }
}

/// Goal: `unsafe` lives where it is said, and nowhere else.
#[test]
fn unsafe_lives_where_it_is_said() {
    for file in sources() {
        let allowed = UNSAFE_PLACES.iter().any(|place| file.name.starts_with(place));
        let permits = file.text.contains(concat!("allow(", "unsafe_code)"))
            || file.text.contains(concat!("expect(", "unsafe_code"));
        assert!(allowed || !permits, "{} lets unsafe in", file.name);
    }
}

/// Goal: what must never stay in a tree does not.
#[test]
fn nothing_is_left_undone() {
    let banned = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("XX", "X "),
    ];
    for file in sources() {
        for word in banned {
            assert!(!file.text.contains(word), "{} contains {word}", file.name);
        }
        let sleeps = file.text.matches(concat!("thread::", "sleep")).count();
        let in_tests = file.name.starts_with("tests/") || file.name.starts_with("bench/");
        let measures = file.name.contains("/examples/");
        let allowed =
            file.name.contains("/src/") && in_tests || file.name.ends_with("e2e/limits.rs");
        let harmless = file.name.starts_with("dataplane/router/src/");
        assert!(
            sleeps == 0 || allowed || harmless || measures,
            "{} sleeps for a fixed time",
            file.name
        );
    }
}

/// Goal: the documents that a newcomer needs are there and not too long.
#[test]
fn the_documents_are_there() {
    let root = root();
    for (name, words) in [
        ("README.md", &["cargo run --release", "tests/run"][..]),
        ("ARCHITECTURE.md", &["route", "http", "engine", "router", "bench", "fuzz", "tests"]),
        ("CHANGELOG.md", &[]),
        ("LICENSE", &["Apache License"]),
    ] {
        let text = fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(text.lines().count() <= 300, "{name} is too long");
        for word in words {
            assert!(text.contains(word), "{name} does not speak of {word}");
        }
    }
}

/// Goal: the judge of lengths is right about lengths.
#[test]
fn functions_are_measured() {
    let text =
        "fn one() {\n    1;\n}\n\nimpl A {\n    pub fn two(\n    ) -> u8 {\n        2\n    }\n}\n";
    assert_eq!(functions(text), [("one".to_owned(), 3), ("two".to_owned(), 4)]);
}

struct Source {
    name: String,
    text: String,
}

impl Source {
    /// The text before its unit tests: nothing of a file that holds unit tests only, all of an integration test.
    fn own_text(&self) -> &str {
        if self.name.contains("/src/") && self.name.ends_with("/tests.rs") {
            return "";
        }
        let end = self.text.find("\n#[cfg(test)]\nmod ").unwrap_or(self.text.len());
        &self.text[..end]
    }
}

fn names(files: &[Source]) -> Vec<&str> {
    files.iter().map(|file| file.name.as_str()).collect()
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("tests/ lies in the workspace").to_owned()
}

fn sources() -> Vec<Source> {
    let (root, mut files) = (root(), Vec::new());
    for folder in ["dataplane", "control", "runtime", "deploy", "bench", "fuzz", "tests"] {
        collect(&root.join(folder), &root, &mut files);
    }
    assert!(files.len() > 20, "only {} files found", files.len());
    files
}

fn collect(folder: &Path, root: &Path, files: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, root, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            files.push(Source { name, text });
        }
    }
}

/// Name and lines of every function, found by the indentation that rustfmt guarantees.
fn functions(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(place) = code.find("fn ") else { continue };
        let before = code[..place].split_whitespace().all(|word| {
            word.starts_with("pub")
                || ["const", "async", "unsafe", "extern", "\"C\""].contains(&word)
                || word.ends_with(')')
        });
        let name: String =
            code[place + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !before || name.is_empty() || code.starts_with("//") {
            continue;
        }
        let end_of = |mark: &str| {
            let wanted = format!("{}{mark}", " ".repeat(indent));
            lines[at..].iter().position(|line| *line == wanted)
        };
        // A signature that ends in `;` has no body; one line holds it all or the end is a brace of the same depth.
        let one_line = code.ends_with('}') || code.ends_with(';');
        if let Some(length) = end_of("}").filter(|_| !one_line) {
            found.push((name, length + 1));
        }
    }
    found
}
