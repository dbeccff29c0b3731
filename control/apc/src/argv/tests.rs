//! Tests of the reading of command lines, against the real table of commands.

use super::*;
use clap::CommandFactory;
use proptest::prelude::*;

fn root() -> Command {
    let mut root = crate::cli::Cli::command();
    root.build();
    root
}

fn read(line: &[&str]) -> Result<String, String> {
    let words = line.iter().map(|&word| word.to_owned()).collect();
    match normalise(&root(), words) {
        Ok(words) => Ok(words.join(" ")),
        Err(failure) => Err(failure.render().trim_end().replace("\n  ", " | ")),
    }
}

/// Goal: every form that the documents show means the same command.
#[test]
fn every_documented_form_is_read() {
    let table: &[(&[&str], &str)] = &[
        (
            &["route", "weight", "e.com", "--app", "a", "--weight", "-10%"],
            "route weight --app=a --weight=-10% e.com",
        ),
        (
            &["route", "weight", "e.com", "--weight=-10%", "-job", "a"],
            "route weight --weight=-10% --job=a e.com",
        ),
        (
            &["route", "add", "auto", "--tcp", "--app", "s", "--p", "1999"],
            "route add --tcp --app=s --port=1999 auto",
        ),
        (
            &["route", "add", "auto", "-tcp", "-a", "s", "-p", "1999"],
            "route add --tcp --app=s --port=1999 auto",
        ),
        (&["route", "add", "e", "-t", "http", "-ho"], "route add --type=http --https-only e"),
        (&["route", "add", "e", "-http=true", "--tcp=false"], "route add --http e"),
        (
            &["app", "create", "m", "--routes", "a.com,", "b.com"],
            "app create --routes=a.com, b.com m",
        ),
        (
            &["app", "create", "m", "-r", "a.com", ",", "b.com", "--batch"],
            "app create --routes=a.com , b.com --batch m",
        ),
        (
            &["app", "create", "m", "--routes", "a.com,", "--batch"],
            "app create --routes=a.com, --batch m",
        ),
        (
            &["app", "create", "m", "--client-acl=, deny 1.2.3.4/8"],
            "app create --client-acl=, deny 1.2.3.4/8 m",
        ),
        (
            &["app", "create", "m", "--client-acl", "allow 128.66.3.0/24, deny 128.66.0.0/16"],
            "app create --client-acl=allow 128.66.3.0/24, deny 128.66.0.0/16 m",
        ),
        (&["app", "create", "m", "-ae", "-dr"], "app create --allow-egress --disable-routes m"),
        (
            &["app", "create", "m", "-sc", "./x -v", "-i", "3"],
            "app create --start-cmd=./x -v --instances=3 m",
        ),
        (&["app", "create", "m", "-p", "~/my-app"], "app create --path=~/my-app m"),
        (&["app", "update", "m", "-pa", "0", "--optional"], "app update --port-add=0 --optional m"),
        (&["app", "update", "m", "--restart", "failure"], "app update --restart=failure m"),
        (&["app", "update", "m", "-e", "K=-v"], "app update --env-set=K=-v m"),
        (&["-ns", "/dev", "app", "list"], "app list --namespace=/dev"),
        (&["app", "list", "--ns=/dev"], "app list --namespace=/dev"),
        (&["application", "list"], "app list"),
        (&["help", "app", "create"], "app create -h"),
        (&["app", "help"], "app -h"),
        (&["-h"], "-h"),
        (&["app", "-help"], "app --help"),
        (&["cluster", "im", "list", "-json"], "cluster im list --json"),
        (&["app", "show", "--", "-x"], "app show -- -x"),
        (&["target", "http://127.0.0.1:8790"], "target http://127.0.0.1:8790"),
    ];
    for (line, expected) in table {
        assert_eq!(read(line).as_deref(), Ok(*expected), "{line:?}");
    }
}

/// Goal: a mistake is told with what was probably meant.
#[test]
fn mistakes_are_told() {
    let table: &[(&[&str], &str)] = &[
        (&["ap", "list"], "Error: \"ap\" is not a command | try: apc app"),
        (
            &["app", "craete", "x"],
            "Error: \"craete\" is not a verb of \"app\" | try: apc app create",
        ),
        (
            &["app", "create", "x", "--instance", "3"],
            "Error: \"app create\" has no flag --instance | try: --instances",
        ),
        (
            &["app", "create", "x", "-instnaces=3"],
            "Error: \"app create\" has no flag --instnaces | try: --instances",
        ),
        (
            &["route", "weight", "e", "--weight"],
            "Error: --weight needs a value | try: apc help route weight",
        ),
        (&["route", "add", "e", "--http=maybe"], "Error: --http takes no value, got \"maybe\""),
        (
            &["app", "list", "--frobnicate"],
            "Error: \"app list\" has no flag --frobnicate | try: apc help app list",
        ),
    ];
    for (line, expected) in table {
        assert_eq!(read(line).unwrap_err(), *expected, "{line:?}");
    }
    assert!(read(&["frobnicate"]).unwrap_err().contains("known are app, "));
}

/// Goal: all names of all flags in all commands are free of doubt: no two flags share one.
#[test]
fn no_two_flags_share_a_name() {
    fn look(command: &Command, path: &str) {
        let mut seen = std::collections::BTreeMap::new();
        for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
            let mut names: Vec<String> =
                arg.get_long().iter().map(|&name| name.to_owned()).collect();
            assert_eq!(names.len(), 1, "{path}: {} has no long name", arg.get_id());
            names.extend(arg.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned));
            names.extend(arg.get_short().map(String::from));
            for name in names {
                let other = seen.insert(name.clone(), arg.get_id().clone());
                assert_eq!(other, None, "{path}: -{name} is also {}", arg.get_id());
            }
        }
        for verb in command.get_subcommands() {
            look(verb, &format!("{path} {}", verb.get_name()));
        }
    }
    look(&root(), "apc");
}

/// Goal: letters that were swapped, lost or doubled still find the name; strangers do not.
#[test]
fn near_names_are_found() {
    let names = ["create", "deploy", "delete", "list"];
    for (typed, expected) in [
        ("craete", Some("create")),
        ("creat", Some("create")),
        ("lst", Some("list")),
        ("xyz", None),
        ("", None),
    ] {
        assert_eq!(nearest(typed, names.into_iter()), expected, "{typed}");
    }
}

proptest! {
    /// Goal: one dash or two, space or equal sign: the same words for the parser, whatever the value.
    #[test]
    fn forms_are_equal(value in "[-a-zA-Z0-9%./:]{1,12}", dashes in 1..3_usize, equal: bool, short: bool) {
        let name = format!("{}{}", "-".repeat(dashes), if short { "a" } else { "app" });
        let mut line = vec!["route".to_owned(), "weight".to_owned(), "e.com".to_owned()];
        if equal { line.push(format!("{name}={value}")) } else { line.extend([name, value.clone()]) }
        let read = normalise(&root(), line).unwrap();
        prop_assert_eq!(read, vec!["route".to_owned(), "weight".to_owned(), format!("--app={value}"), "e.com".to_owned()]);
    }

    /// Goal: no words make the reading panic, and what is read is read the same again.
    #[test]
    fn reading_is_stable(words in proptest::collection::vec("(app|route|list|add|--|-|-?-?[a-z]{1,3}(=[a-z,]{0,3})?|[a-z,]{0,4})", 0..8)) {
        if let Ok(once) = normalise(&root(), words) {
            prop_assert_eq!(normalise(&root(), once.clone()).unwrap(), once);
        }
    }
}
