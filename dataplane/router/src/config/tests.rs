//! The file form as promised, and the mistakes as operators see them.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::access_log::Target;
use crate::settings::{AdminAddress, Limits, Timeouts};

/// The form that other tools rely on, word for word.
const PROMISED: &str = r#"
[listen]
http  = ["127.0.0.1:8080"]
https = ["127.0.0.1:8443"]
admin = "127.0.0.1:9080"          # or "unix:/run/router.sock"

[router]                           # every key optional
cores = 2
trusted_proxies = ["10.0.0.0/8"]

[[certificate]]
server_names = ["*.example.com", "example.com"]   # empty: taken from the certificate
chain = "example.pem"
key   = "example.key"

[[job]]
name = "job::/sandbox/admin::app1"
client_acl = "allow 128.66.3.0/24, deny 128.66.0.0/16"
instances = ["127.0.0.1:9001", "127.0.0.1:9002"]

[[route]]
endpoint = "http://app.example.com"       # http://host[/prefix] or tcp://ip:port
https_only = false
targets = [ { job = "job::/sandbox/admin::app1", weight = 45 } ]   # weight in percent, 0 = auto, negative = inactive
"#;

#[test]
fn the_promised_form_is_read() {
    let config = parse_in(PROMISED, Some(Path::new("/etc/router"))).unwrap();
    let settings = &config.settings;
    assert_eq!(settings.http, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(settings.https, ["127.0.0.1:8443".parse().unwrap()]);
    assert_eq!(settings.admin, Some(AdminAddress::Tcp("127.0.0.1:9080".parse().unwrap())));
    assert_eq!(settings.cores, Some(2));
    assert_eq!(settings.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(settings.certificates[0].server_names, ["*.example.com", "example.com"]);
    assert_eq!(settings.certificates[0].chain, Path::new("/etc/router/example.pem"));
    assert_eq!((settings.limits, settings.timeouts), (Limits::DEFAULT, Timeouts::DEFAULT));
    assert_eq!(settings.access_log, None);

    let job = &config.desired.jobs["job::/sandbox/admin::app1"];
    assert_eq!(job.client_acl.to_string(), "allow 128.66.3.0/24, deny 128.66.0.0/16");
    assert_eq!(job.instances.len(), 2);
    let (endpoint, route) = config.desired.routes.iter().next().unwrap();
    assert_eq!(endpoint.to_string(), "http://app.example.com");
    assert_eq!(route.targets["job::/sandbox/admin::app1"].to_string(), "45%");
    assert!(config.warnings.is_empty());
}

#[test]
fn every_limit_and_time_out_is_settable() {
    let text = r#"
[listen]
http = []
admin = "unix:/run/router.sock"
[limits]
head_bytes_max = 4096
target_bytes_max = 1000
fields_max = 32
body_bytes_max = 1_000_000
connections_max = 10
connection_requests_max = 100
upstream_idle_max = 3
attempts_max = 2
pages_bytes_max = 8388608
[timeouts]
head_timeout_ms = 1
client_idle_timeout_ms = 2
connect_timeout_ms = 3
connect_budget_ms = 4
origin_silence_timeout_ms = 5
body_silence_timeout_ms = 6
tunnel_idle_timeout_ms = 7
upstream_idle_timeout_ms = 8
drain_timeout_ms = 9
[access_log]
path = "logs/access.json"
sample = 10
[metrics]
series_max = 7
"#;
    let settings = parse_in(text, Some(Path::new("/etc"))).unwrap().settings;
    assert_eq!(
        settings.limits,
        Limits {
            head_bytes_max: 4096,
            target_bytes_max: 1000,
            fields_max: 32,
            body_bytes_max: 1_000_000,
            connections_max: 10,
            connection_requests_max: 100,
            upstream_idle_max: 3,
            attempts_max: 2,
            pages_bytes_max: 8 << 20,
        }
    );
    let ms = Duration::from_millis;
    assert_eq!(
        settings.timeouts,
        Timeouts {
            head: ms(1),
            client_idle: ms(2),
            connect: ms(3),
            connect_budget: ms(4),
            origin_silence: ms(5),
            body_silence: ms(6),
            tunnel_idle: ms(7),
            upstream_idle: ms(8),
            drain: ms(9),
        }
    );
    assert_eq!(settings.admin, Some(AdminAddress::Unix("/run/router.sock".into())));
    let log = settings.access_log.unwrap();
    assert_eq!((log.target, log.sample), (Target::File("/etc/logs/access.json".into()), 10));
    assert_eq!(settings.metrics.series_max, 7);
}

/// Goal: the documented defaults are the real ones, and no key is undocumented.
#[test]
fn the_example_file_tells_the_truth() {
    let text = include_str!("../../../../docs/router.example.toml");
    let settings = parse_str(text).unwrap().settings;
    assert_eq!((settings.limits, settings.timeouts), (Limits::DEFAULT, Timeouts::DEFAULT));
    assert_eq!((settings.cores, settings.metrics), (None, crate::settings::Metrics::default()));
    let log = settings.access_log.unwrap();
    assert_eq!((log.target, log.sample), (Target::Stdout, 1));

    for section in ["[listen]", "[router]", "[limits]", "[timeouts]", "[access_log]", "[metrics]"] {
        let errors = parse_str(&format!("{section}\nnobody_knows_this_key = 1\n")).unwrap_err();
        let advice = &errors.list.iter().find(|one| one.code == "unknown_key").unwrap().r#try;
        let keys: Vec<&str> = advice.split('`').skip(1).step_by(2).collect();
        assert!(!keys.is_empty(), "{section}");
        for key in keys {
            let documented = text.lines().any(|line| line.split([' ', '=']).next() == Some(key));
            assert!(documented, "{key} of {section} is not in the example");
        }
    }
}

#[test]
fn weights_keep_two_decimals_and_may_be_text() {
    let weight = |text: &str| {
        let file = format!(
            "[listen]\nhttp = [\"127.0.0.1:0\"]\n[[job]]\nname = \"a\"\n[[route]]\nendpoint = \"http://x\"\n\
             targets = [ {{ job = \"a\", weight = {text} }} ]\n"
        );
        let config = parse_str(&file).unwrap();
        config.desired.routes.values().next().unwrap().targets["a"].to_string()
    };
    for (text, want) in [
        ("45", "45%"),
        ("33.33", "33.33%"),
        ("0", "auto"),
        ("\"auto\"", "auto"),
        ("-10", "-10%"),
        ("\"45%\"", "45%"),
    ] {
        assert_eq!(weight(text), want, "{text}");
    }
}

/// Goal: the form of an error is an interface for people; it does not change by accident.
#[test]
fn an_error_shows_place_reason_and_remedy() {
    let text = "[listen]\nhtp = [\"127.0.0.1:8080\"]\nadmin = \"127.0.0.1:9080\"\n";
    let told = parse_str(text).unwrap_err().to_string();
    assert_eq!(
        told,
        "error[unknown_key]: `htp` is not a key of [listen]\n \
         --> router.toml:2:1\n  \
         |\n\
         2 | htp = [\"127.0.0.1:8080\"]\n  \
         | ^^^\n  \
         why: unknown keys are refused, so that a typing mistake cannot go unnoticed\n  \
         try: `http`\n"
    );
}

/// A good beginning, so that each case below has just its own mistake.
const GOOD: &str = "[listen]\nhttp = [\"127.0.0.1:0\"]\n[[job]]\nname = \"job::/a::b\"\n";

/// Code and marked text of every mistake.
fn mistakes(text: &str) -> Vec<(&'static str, usize, String)> {
    let list = match parse_str(text) {
        Ok(config) => config.warnings,
        Err(errors) => errors.list,
    };
    let marked = |one: &Mistake| one.text.chars().skip(one.column - 1).take(one.width).collect();
    list.iter().map(|one| (one.code, one.line, marked(one))).collect()
}

/// Goal: each mistake has its code and points at the very text that is wrong.
#[test]
fn mistakes_point_at_their_text() {
    for (added, code, marked) in [
        ("[lisen]\n", "unknown_key", "lisen"),
        ("[router]\ncores = \"2\"\n", "wrong_type", "\"2\""),
        ("[router]\ncores = 5000\n", "out_of_range", "5000"),
        ("[router]\ncores = -1\n", "out_of_range", "-1"),
        ("[router]\ntrusted_proxies = [\"10.0.0.1/8\"]\n", "bad_value", "\"10.0.0.1/8\""),
        ("[router]\ntrusted_proxies = [\"ten\"]\n", "bad_value", "\"ten\""),
        ("[router]\ntrusted_proxies = [7]\n", "wrong_type", "7"),
        ("[limits]\nhead_bytes_max = 20000\n", "out_of_range", "20000"),
        ("[limits]\nhead_bytes_max = 2048\ntarget_bytes_max = 4096\n", "bounds_disagree", "4096"),
        ("[timeouts]\nconnect_timeout_ms = 9000\n", "bounds_disagree", "9000"),
        ("[timeouts]\ndrain_timeout_ms = 0\n", "out_of_range", "0"),
        ("[access_log]\nsample = 0\npath = \"-\"\n", "out_of_range", "0"),
        ("[access_log]\nsample = 1\n", "missing_key", "[access_log]"),
        ("[[job]]\nname = \"job::/a::b\"\n", "duplicate_job", "\"job::/a::b\""),
        ("[[job]]\nname = \"\"\n", "bad_value", "\"\""),
        ("[[job]]\ninstances = []\n", "missing_key", "[[job]]"),
        ("[[job]]\nname = \"c\"\ninstances = [\"localhost:1\"]\n", "bad_value", "\"localhost:1\""),
        ("[[job]]\nname = \"c\"\ninstances = [\"0.0.0.0:1\"]\n", "bad_value", "\"0.0.0.0:1\""),
        (
            "[[job]]\nname = \"c\"\ninstances = [\"1.1.1.1:1\", \"1.1.1.1:1\"]\n",
            "duplicate_instance",
            "\"1.1.1.1:1\"",
        ),
        (
            "[[job]]\nname = \"c\"\nclient_acl = \"allow 1.2.3.4, permit 5.6.7.8\"\n",
            "bad_acl",
            "permit",
        ),
        (
            "[[route]]\nendpoint = \"http://a_b!c\"\ntargets = [{ job = \"job::/a::b\" }]\n",
            "bad_endpoint",
            "!",
        ),
        (
            "[[route]]\nendpoint = \"http://x\"\ntargets = [{ job = \"job::/a::c\" }]\n",
            "unknown_job",
            "\"job::/a::c\"",
        ),
        (
            "[[route]]\nendpoint = \"http://x\"\ntargets = [{ job = \"job::/a::b\", wieght = 1 }]\n",
            "unknown_key",
            "wieght",
        ),
        (
            "[[route]]\nendpoint = \"http://x\"\ntargets = [{ weight = 1 }]\n",
            "missing_key",
            "{ weight = 1 }",
        ),
        (
            "[[route]]\nendpoint = \"http://x\"\ntargets = [{ job = \"job::/a::b\" }, { job = \"job::/a::b\" }]\n",
            "duplicate_target",
            "\"job::/a::b\"",
        ),
        ("[[route]]\nendpoint = \"http://x\"\ntargets = []\n", "no_targets", "[[route]]"),
        ("[[route]]\nendpoint = \"http://x\"\n", "missing_key", "[[route]]"),
        (
            "[[route]]\nendpoint = \"tcp://127.0.0.1:7\"\nhttps_only = true\ntargets = [{ job = \"job::/a::b\" }]\n",
            "https_only_tcp",
            "\"tcp://127.0.0.1:7\"",
        ),
        (
            "[[certificate]]\nchain = \"a\"\nkey = \"b\"\nserver_names = [\"a.*.b\"]\n",
            "bad_value",
            "\"a.*.b\"",
        ),
        ("x = \n", "syntax", ""),
    ] {
        let text = format!("{GOOD}{added}");
        let found = mistakes(&text);
        assert!(
            found
                .iter()
                .any(|(have, _, text)| *have == code && (text == marked || code == "syntax")),
            "{added}: want {code} at {marked:?}, found {found:?}"
        );
    }
}

#[test]
fn rules_across_sections() {
    let job = "[[job]]\nname = \"a\"\n";
    let tcp = "[[route]]\nendpoint = \"tcp://127.0.0.1:80\"\ntargets = [{ job = \"a\" }]\n";
    for (text, code) in [
        (String::new(), "no_listener"),
        ("[listen]\nhttp = []\n".into(), "no_listener"),
        ("[listen]\nhttp = [\"127.0.0.1:80\", \"127.0.0.1:80\"]\n".into(), "address_twice"),
        ("[listen]\nhttp = [\"127.0.0.1:80\"]\nadmin = \"127.0.0.1:80\"\n".into(), "address_twice"),
        (format!("[listen]\nhttp = [\"127.0.0.1:80\"]\n{job}{tcp}"), "address_twice"),
        ("[listen]\nhttps = [\"127.0.0.1:443\"]\n".into(), "no_certificate"),
        ("[listen]\nadmin = \"0.0.0.0:9080\"\n".into(), "admin_exposed"),
        ("[listen]\nadmin = \"here\"\n".into(), "bad_value"),
        (
            format!(
                "[listen]\nhttp = [\"127.0.0.1:80\"]\n{job}[[route]]\nendpoint = \"http://x\"\nhttps_only = true\ntargets = [{{ job = \"a\" }}]\n"
            ),
            "https_only_without_tls",
        ),
        (
            format!(
                "[listen]\nhttp = [\"127.0.0.1:80\"]\n{job}{0}{0}",
                "[[route]]\nendpoint = \"http://x/y\"\ntargets = [{ job = \"a\" }]\n"
            ),
            "duplicate_route",
        ),
    ] {
        let found = mistakes(&text);
        assert!(
            found.iter().any(|(have, ..)| *have == code),
            "{text}: want {code}, found {found:?}"
        );
    }
    assert!(mistakes("[listen]\nhttp = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n").is_empty());
}

/// Goal: an operator mends a file in one go, not mistake by mistake.
#[test]
fn all_mistakes_are_told_in_order() {
    let text = "[listen]\nhttp = [\"x\"]\n[limits]\nfields_max = 1\nhead = 2\n[[job]]\nname = 7\n";
    let lines: Vec<usize> = mistakes(text).iter().map(|(_, line, _)| *line).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines.is_sorted(), "{lines:?}");
}

#[test]
fn a_hopeless_file_is_told_in_part() {
    let mut text = String::from("[listen]\nhttp = [\"127.0.0.1:0\"]\n");
    (0..500).for_each(|n| text.push_str(&format!("[[job]]\nnam = \"{n}\"\n")));
    let errors = parse_str(&text).unwrap_err();
    assert_eq!((errors.list.len(), errors.more), (MISTAKES_MAX, 1_000 - MISTAKES_MAX));
    assert!(errors.first_line().ends_with("(and 999 more)"), "{}", errors.first_line());
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let errors = load(Path::new("/nowhere/router.toml")).unwrap_err();
    assert!(errors.first_line().starts_with("cannot read /nowhere/router.toml: No such file"));
}

/// Goal: a long line, tabs and letters beyond ASCII do not move the mark.
#[test]
fn marks_stand_where_they_should() {
    let text = format!(
        "{GOOD}[[job]]\nname = \"ä\"\n\tinstances = [{} \"ö\"]\n",
        "\"1.1.1.1:1\",".repeat(20)
    );
    let errors = parse_str(&text).unwrap_err();
    let mut told = String::new();
    let last = errors.list.iter().find(|one| one.code == "bad_value").unwrap();
    last.write(&mut told, "f").unwrap();
    let lines: Vec<Vec<char>> = told.lines().map(|line| line.chars().collect()).collect();
    let at = lines[4].iter().position(|c| *c == '^').unwrap();
    assert_eq!(lines[3][at..at + 3], ['"', 'ö', '"'], "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Goal: whatever stands in the file, the answer is a configuration or mistakes within the text; never a panic.
    #[test]
    fn any_text_is_answered(
        cut in 0usize..PROMISED.len(),
        put in "[\\PC\n\"\\[\\]{}=.]{0,20}",
        skip in 0usize..40,
    ) {
        let start: String = PROMISED.chars().take(cut).collect();
        let rest: String = PROMISED.chars().skip(cut + skip).collect();
        let text = format!("{start}{put}{rest}");
        if let Err(errors) = parse_str(&text) {
            prop_assert!(!errors.list.is_empty());
            let lines = text.matches('\n').count() + 1;
            prop_assert!(errors.list.iter().all(|one| one.line >= 1 && one.line <= lines));
            prop_assert!(!errors.to_string().is_empty());
        }
    }
}
