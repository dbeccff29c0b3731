//! The JSON line of one record. Field order is fixed; a field that does not apply is left out.
//!
//! Bytes that are not UTF-8 are shown as U+FFFD: a log must be valid JSON whatever a client sends.
//! Deliberately absent: headers, cookies, bodies. They hold what a log should not.

use std::fmt::Write;
use std::net::SocketAddr;

use route::{JobSlot, RouteSlot};

use super::{Record, Text};

/// Looks up what a record holds as slots. `None`: the route or job is gone already.
pub trait Names {
    /// Endpoint text of a route.
    fn route(&self, slot: RouteSlot) -> Option<String>;
    /// Name of a job.
    fn job(&self, slot: JobSlot) -> Option<String>;
}

/// Append the line of `record`, with its newline.
pub fn write_line(out: &mut String, record: &Record, names: &impl Names) {
    out.push_str("{\"time\":\"");
    push_time(out, record.wall_us);
    out.push('"');
    push_text(out, "client", record.client.to_string().as_bytes());
    push_text(out, "protocol", record.protocol.as_bytes());
    push_cut(out, "method", "method_cut", &record.method);
    push_cut(out, "host", "host_cut", &record.host);
    push_cut(out, "path", "path_cut", &record.path);
    if record.status > 0 {
        push_number(out, "status", u64::from(record.status));
    }
    push_text(out, "reason", record.reason.as_bytes());
    if let Some(route) = record.route.and_then(|slot| names.route(slot)) {
        push_text(out, "route", route.as_bytes());
    }
    if let Some(job) = record.job.and_then(|slot| names.job(slot)) {
        push_text(out, "job", job.as_bytes());
    }
    if let Some(upstream) = record.upstream {
        push_upstream(out, upstream, record);
    }
    push_number(out, "bytes_in", record.bytes_in);
    push_number(out, "bytes_out", record.bytes_out);
    for (key, micros) in [
        ("head_us", record.head_us),
        ("connect_us", record.connect_us),
        ("first_byte_us", record.first_byte_us),
        ("total_us", Some(record.total_us)),
    ] {
        if let Some(micros) = micros {
            push_number(out, key, u64::from(micros));
        }
    }
    push_text(out, "tls", record.tls_protocol.as_bytes());
    push_text(out, "cipher", record.tls_cipher.as_bytes());
    push_text(out, "request_id", record.request_id.bytes());
    out.push_str("}\n");
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}

fn push_upstream(out: &mut String, upstream: SocketAddr, record: &Record) {
    push_text(out, "instance", upstream.to_string().as_bytes());
    out.push_str(if record.upstream_reused { ",\"reused\":true" } else { ",\"reused\":false" });
    if record.retries > 0 {
        push_number(out, "retries", u64::from(record.retries));
    }
}

fn push_number(out: &mut String, key: &str, number: u64) {
    put(out, format_args!(",\"{key}\":{number}"));
}

fn push_cut<const N: usize>(out: &mut String, key: &str, cut_key: &str, text: &Text<N>) {
    push_text(out, key, text.bytes());
    if text.is_cut() {
        put(out, format_args!(",\"{cut_key}\":true"));
    }
}

/// Nothing for an empty text.
fn push_text(out: &mut String, key: &str, text: &[u8]) {
    if text.is_empty() {
        return;
    }
    put(out, format_args!(",\"{key}\":\""));
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                put(out, format_args!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// RFC 3339 in UTC with microseconds.
fn push_time(out: &mut String, wall_us: u64) {
    let (seconds, micros) = (wall_us / 1_000_000, wall_us % 1_000_000);
    let (days, in_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (in_day / 3_600, in_day / 60 % 60, in_day % 60);
    put(
        out,
        format_args!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        ),
    );
}

/// Year, month and day of a day counted from 1970-01-01: years begin in March, so that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use route::Slot;

    struct Table;
    impl Names for Table {
        fn route(&self, slot: RouteSlot) -> Option<String> {
            (slot.0.index == 1).then(|| "http://app.example.com".into())
        }
        fn job(&self, slot: JobSlot) -> Option<String> {
            (slot.0.index == 2).then(|| "job::/sandbox/admin::app1".into())
        }
    }

    fn line(record: &Record) -> String {
        let mut out = String::new();
        write_line(&mut out, record, &Table);
        out
    }

    /// Goal: the line that operators' tools parse does not change by accident.
    #[test]
    fn a_served_request() {
        let record = Record {
            wall_us: 1_709_164_800_000_042,
            client: "128.66.3.4".parse().unwrap(),
            method: Text::new(b"GET"),
            host: Text::new(b"app.example.com"),
            path: Text::new(b"/a?b=\"c\""),
            protocol: "HTTP/1.1",
            status: 200,
            route: Some(RouteSlot(Slot { index: 1, generation: 0 })),
            job: Some(JobSlot(Slot { index: 2, generation: 0 })),
            upstream: Some("127.0.0.1:9001".parse().unwrap()),
            upstream_reused: true,
            bytes_in: 78,
            bytes_out: 1_200,
            head_us: Some(3),
            connect_us: Some(4),
            first_byte_us: Some(350),
            total_us: 361,
            tls_protocol: "TLSv1.3",
            tls_cipher: "TLS_AES_256_GCM_SHA384",
            request_id: Text::new(b"1f-2"),
            ..Record::default()
        };
        assert_eq!(
            line(&record),
            concat!(
                r#"{"time":"2024-02-29T00:00:00.000042Z","client":"128.66.3.4","protocol":"HTTP/1.1","#,
                r#""method":"GET","host":"app.example.com","path":"/a?b=\"c\"","status":200,"#,
                r#""route":"http://app.example.com","job":"job::/sandbox/admin::app1","#,
                r#""instance":"127.0.0.1:9001","reused":true,"bytes_in":78,"bytes_out":1200,"#,
                r#""head_us":3,"connect_us":4,"first_byte_us":350,"total_us":361,"#,
                r#""tls":"TLSv1.3","cipher":"TLS_AES_256_GCM_SHA384","request_id":"1f-2"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_refused_request_names_its_reason_and_leaves_out_what_never_was() {
        let record = Record {
            status: 404,
            reason: "no_route",
            route: Some(RouteSlot(Slot { index: 9, generation: 0 })),
            path: Text::new(&[b'x'; 200]),
            ..Record::default()
        };
        let line = line(&record);
        assert!(line.contains(r#""status":404,"reason":"no_route","bytes_in":0"#), "{line}");
        assert!(line.contains(r#"xx","path_cut":true"#), "{line}");
        assert!(!line.contains("route\":") && !line.contains("connect_us"), "{line}");
    }

    #[test]
    fn dates_are_right_at_the_edges() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(11_017), (2000, 3, 1));
        assert_eq!(date(20_453), (2025, 12, 31));
        assert_eq!(date(20_454), (2026, 1, 1));
        assert_eq!(date(47_540), (2100, 2, 28));
        assert_eq!(date(47_541), (2100, 3, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Goal: whatever bytes a client sends, a line is one line and valid JSON.
        #[test]
        fn any_bytes_give_one_valid_line(path in proptest::collection::vec(any::<u8>(), 0..170)) {
            let line = line(&Record { path: Text::new(&path), ..Record::default() });
            prop_assert_eq!(line.matches('\n').count(), 1);
            let parsed: serde_json::Value = serde_json::from_str(&line).expect("valid JSON");
            let kept = &path[..path.len().min(160)];
            if !kept.is_empty() {
                prop_assert_eq!(&parsed["path"], &String::from_utf8_lossy(kept).into_owned());
            }
        }
    }
}
