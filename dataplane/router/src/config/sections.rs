//! The sections that are not the table: `[listen]`, `[router]`, `[limits]`, `[timeouts]`, `[access_log]`, `[metrics]`,
//! `[[certificate]]`.
//!
//! Every key is optional and has the default of `settings.rs`. Deliberately absent: rules about more than one key, which
//! are in `checks.rs`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::reader::{Place, Reader};
use crate::access_log::Target;
use crate::settings::{
    AccessLog, AdminAddress, FIELDS_CEILING, HEAD_BYTES_CEILING, Limits, Metrics, Settings,
    Timeouts,
};
use crate::tls::CertificateFile;

/// Most listen addresses of a kind.
const LISTEN_MAX: usize = 64;
/// Most certificates.
const CERTIFICATES_MAX: usize = 100_000;
/// Most threads; beyond the machines we know.
const CORES_MAX: u64 = 1_024;

/// Where things stand that the checks across sections speak of.
#[derive(Default)]
pub(super) struct Places {
    pub(super) listen: Option<Place>,
    pub(super) http: Vec<(SocketAddr, Place)>,
    pub(super) https: Vec<(SocketAddr, Place)>,
    pub(super) admin: Option<Place>,
    pub(super) connect: Place,
    pub(super) connect_budget: Place,
    pub(super) target_bytes_max: Place,
    pub(super) first_certificate: Option<Place>,
}

pub(super) fn read(file: &mut Reader<'_, '_, '_>, folder: Option<&Path>) -> (Settings, Places) {
    let mut settings = Settings::default();
    let mut places = Places::default();
    file.section("listen", "[listen]", |section| listen(section, &mut settings, &mut places));
    file.section("router", "[router]", |section| router(section, &mut settings));
    file.section("limits", "[limits]", |section| {
        limits(section, &mut settings.limits, &mut places)
    });
    file.section("timeouts", "[timeouts]", |section| {
        timeouts(section, &mut settings.timeouts, &mut places);
    });
    file.section("access_log", "[access_log]", |section| {
        settings.access_log = Some(access_log(section, folder));
    });
    file.section("metrics", "[metrics]", |section| settings.metrics = metrics(section));
    settings.certificates = certificates(file, folder, &mut places);
    (settings, places)
}

fn listen(section: &mut Reader<'_, '_, '_>, settings: &mut Settings, places: &mut Places) {
    places.listen = Some(section.place());
    let wanted = "an IP address with a port";
    places.http = section.parsed("http", wanted, "http = [\"127.0.0.1:8080\"]");
    places.https = section.parsed("https", wanted, "https = [\"127.0.0.1:8443\"]");
    for (key, list) in [("http", &places.http), ("https", &places.https)] {
        if list.len() > LISTEN_MAX {
            let what =
                format!("`{key}` has {} addresses, but at most {LISTEN_MAX} fit", list.len());
            section.mistakes.add("too_many", section.place(), what);
        }
    }
    settings.http = places.http.iter().map(|(addr, _)| *addr).collect();
    settings.https = places.https.iter().map(|(addr, _)| *addr).collect();
    let example = "admin = \"127.0.0.1:9080\"";
    if let Some((text, place)) = section.string("admin", example) {
        settings.admin = admin(text);
        if settings.admin.is_none() {
            let what = format!(
                "\"{text}\" in `admin` is neither an IP address with a port nor a unix socket"
            );
            let mistake = section.mistakes.add("bad_value", place.clone(), what);
            mistake.advise(format!("`{example}` or `admin = \"unix:/run/router.sock\"`"));
        }
        places.admin = Some(place);
    }
}

fn admin(text: &str) -> Option<AdminAddress> {
    match text.strip_prefix("unix:") {
        Some("") => None,
        Some(path) => Some(AdminAddress::Unix(PathBuf::from(path))),
        None => text.parse().ok().map(AdminAddress::Tcp),
    }
}

fn router(section: &mut Reader<'_, '_, '_>, settings: &mut Settings) {
    let (cores, _) = section.number("cores", 0..=CORES_MAX, 0);
    settings.cores = u16::try_from(cores).ok().filter(|cores| *cores > 0);
    let wanted = "a network";
    for (text, place) in section.strings("trusted_proxies", "trusted_proxies = [\"10.0.0.0/8\"]") {
        let address = text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from);
        match text.parse::<ipnet::IpNet>().or(address) {
            // With host bits set, one of the two, address or length, is a typing mistake.
            Ok(net) if net.trunc() != net => {
                let what = format!("\"{text}\" has bits set beyond its prefix length");
                section
                    .mistakes
                    .add("bad_value", place, what)
                    .advise(format!("`\"{}\"`", net.trunc()));
            }
            Ok(net) => settings.trusted_proxies.push(net),
            Err(_) => {
                let what = format!("\"{text}\" in `trusted_proxies` is not {wanted}");
                section.mistakes.add("bad_value", place, what).advise("`\"10.0.0.0/8\"`");
            }
        }
    }
}

/// Numbers whose range ends within the target type.
fn narrow<T: TryFrom<u64>>(number: u64, default: T) -> T {
    T::try_from(number).unwrap_or(default)
}

fn limits(section: &mut Reader<'_, '_, '_>, limits: &mut Limits, places: &mut Places) {
    let d = Limits::DEFAULT;
    let most = u64::from(u32::MAX);
    let head = u64::from(HEAD_BYTES_CEILING);
    let (number, _) = section.number("head_bytes_max", 1_024..=head, d.head_bytes_max.into());
    limits.head_bytes_max = narrow(number, d.head_bytes_max);
    // A smaller head leaves room for a smaller target, unless the file says otherwise.
    let target = d.target_bytes_max.min(limits.head_bytes_max / 2);
    let (number, place) = section.number("target_bytes_max", 64..=head, target.into());
    limits.target_bytes_max = narrow(number, target);
    places.target_bytes_max = place;
    let (number, _) = section.number("fields_max", 8..=FIELDS_CEILING.into(), d.fields_max.into());
    limits.fields_max = narrow(number, d.fields_max);
    (limits.body_bytes_max, _) = section.number("body_bytes_max", 0..=u64::MAX, d.body_bytes_max);
    let (number, _) = section.number("connections_max", 1..=10_000_000, d.connections_max.into());
    limits.connections_max = narrow(number, d.connections_max);
    let (number, _) =
        section.number("connection_requests_max", 0..=most, d.connection_requests_max.into());
    limits.connection_requests_max = narrow(number, d.connection_requests_max);
    let (number, _) =
        section.number("upstream_idle_max", 0..=1_000_000, d.upstream_idle_max.into());
    limits.upstream_idle_max = narrow(number, d.upstream_idle_max);
    let (number, _) = section.number("attempts_max", 1..=255, d.attempts_max.into());
    limits.attempts_max = narrow(number, d.attempts_max);
    (limits.pages_bytes_max, _) =
        section.number("pages_bytes_max", 1 << 20..=1 << 40, d.pages_bytes_max);
}

fn timeouts(section: &mut Reader<'_, '_, '_>, timeouts: &mut Timeouts, places: &mut Places) {
    let d = Timeouts::DEFAULT;
    (timeouts.head, _) = section.millis("head_timeout_ms", d.head);
    (timeouts.client_idle, _) = section.millis("client_idle_timeout_ms", d.client_idle);
    (timeouts.connect, places.connect) = section.millis("connect_timeout_ms", d.connect);
    (timeouts.connect_budget, places.connect_budget) =
        section.millis("connect_budget_ms", d.connect_budget);
    (timeouts.origin_silence, _) = section.millis("origin_silence_timeout_ms", d.origin_silence);
    (timeouts.body_silence, _) = section.millis("body_silence_timeout_ms", d.body_silence);
    (timeouts.tunnel_idle, _) = section.millis("tunnel_idle_timeout_ms", d.tunnel_idle);
    (timeouts.upstream_idle, _) = section.millis("upstream_idle_timeout_ms", d.upstream_idle);
    (timeouts.drain, _) = section.millis("drain_timeout_ms", d.drain);
}

fn access_log(section: &mut Reader<'_, '_, '_>, folder: Option<&Path>) -> AccessLog {
    let example = "path = \"stdout\"";
    let target = match section.string("path", example) {
        Some(("stdout" | "-", _)) => Target::Stdout,
        Some((path, _)) => Target::File(within(folder, path)),
        None => {
            section.missing("path", example);
            Target::Stdout
        }
    };
    let (sample, _) = section.number("sample", 1..=1_000_000, 1);
    AccessLog { target, sample: narrow(sample, 1) }
}

fn metrics(section: &mut Reader<'_, '_, '_>) -> Metrics {
    let d = Metrics::default();
    let (series, _) = section.number("series_max", 0..=100_000, d.series_max.into());
    Metrics { series_max: narrow(series, d.series_max) }
}

fn certificates(
    file: &mut Reader<'_, '_, '_>,
    folder: Option<&Path>,
    places: &mut Places,
) -> Vec<CertificateFile> {
    let mut certificates = Vec::new();
    let tables = file.tables("certificate", "[[certificate]]");
    if tables.len() > CERTIFICATES_MAX {
        let what = format!("{} certificates, but at most {CERTIFICATES_MAX} fit", tables.len());
        file.mistakes.add("too_many", file.place(), what);
    }
    for (table, place) in tables {
        places.first_certificate.get_or_insert_with(|| place.clone());
        let mut reader = Reader::new(table, "[[certificate]]", place, file.mistakes);
        let names = reader.strings("server_names", "server_names = [\"*.example.com\"]");
        let server_names = names.iter().filter_map(|(name, place)| {
            let good = server_name_is_good(name);
            if !good {
                let what = format!("\"{name}\" is not a server name");
                let mistake = reader.mistakes.add("bad_value", place.clone(), what);
                mistake.advise("`\"app.example.com\"`, or `\"*.example.com\"` for one label more");
            }
            good.then(|| name.to_ascii_lowercase())
        });
        let server_names = server_names.collect();
        let mut path = |key, example: &str| {
            let path = reader.string(key, example);
            if path.is_none() && !table.contains_key(key) {
                reader.missing(key, example);
            }
            path.map(|(path, _)| within(folder, path)).unwrap_or_default()
        };
        let chain = path("chain", "chain = \"example.pem\"");
        let key = path("key", "key = \"example.key\"");
        certificates.push(CertificateFile { server_names, chain, key });
        reader.finish(&[]);
    }
    certificates
}

/// A DNS name, perhaps with `*` for its first label.
fn server_name_is_good(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    rest.len() <= 253 && rest.split('.').all(label_is_good)
}

fn within(folder: Option<&Path>, path: &str) -> PathBuf {
    folder.map_or_else(|| PathBuf::from(path), |folder| folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names() {
        for good in ["example.com", "*.example.com", "localhost", "a-b.c_d"] {
            assert!(server_name_is_good(good), "{good}");
        }
        for bad in ["", "*", "*.", "a.*.b", "**.a", "a..b", "ä.de", "a b"] {
            assert!(!server_name_is_good(bad), "{bad}");
        }
    }
}
