//! Rules about more than one place of the file.
//!
//! Deliberately absent: anything that needs the machine: whether a port is free or a certificate readable shows at the
//! start, or in `router check`.

use std::collections::HashMap;
use std::net::SocketAddr;

use route::{Desired, Endpoint};

use super::reader::{Mistakes, Place};
use super::routes::TablePlaces;
use super::sections::Places;
use crate::settings::{AdminAddress, Settings};

pub(super) fn across(
    settings: &Settings,
    places: &Places,
    desired: &Desired,
    table: &TablePlaces,
    mistakes: &mut Mistakes<'_>,
) {
    something_to_listen_on(settings, places, desired, mistakes);
    each_address_once(settings, places, table, mistakes);
    tls_needs_certificates(settings, places, desired, table, mistakes);
    bounds_fit_each_other(settings, places, mistakes);
    admin_stays_private(settings, places, mistakes);
}

fn something_to_listen_on(
    settings: &Settings,
    places: &Places,
    desired: &Desired,
    mistakes: &mut Mistakes<'_>,
) {
    let tcp = desired.routes.keys().any(|endpoint| matches!(endpoint, Endpoint::Tcp(_)));
    // With an admin API, TCP routes may still come.
    if settings.http.is_empty() && settings.https.is_empty() && settings.admin.is_none() && !tcp {
        let place = places.listen.clone().unwrap_or(0..0);
        let mistake = mistakes.add("no_listener", place, "there is nothing to listen on");
        mistake.advise("`[listen]` with `http = [\"127.0.0.1:8080\"]`");
    }
}

/// Who wants an address, and where that stands.
type Taken<'a> = HashMap<SocketAddr, &'a str>;

fn each_address_once(
    settings: &Settings,
    places: &Places,
    table: &TablePlaces,
    mistakes: &mut Mistakes<'_>,
) {
    let mut taken = Taken::new();
    let lists = [("listen.http", &places.http), ("listen.https", &places.https)];
    for (who, list) in lists {
        for (addr, place) in list {
            take(&mut taken, *addr, who, place, mistakes);
        }
    }
    if let (Some(AdminAddress::Tcp(addr)), Some(place)) = (&settings.admin, &places.admin) {
        take(&mut taken, *addr, "listen.admin", place, mistakes);
    }
    let mut tcp: Vec<_> = table
        .routes
        .iter()
        .filter_map(|(endpoint, place)| match endpoint {
            Endpoint::Tcp(addr) => Some((*addr, place)),
            Endpoint::Http(_) => None,
        })
        .collect();
    tcp.sort_by_key(|(_, place)| place.start);
    for (addr, place) in tcp {
        take(&mut taken, addr, "a TCP route", place, mistakes);
    }
}

fn take<'a>(
    taken: &mut Taken<'a>,
    addr: SocketAddr,
    who: &'a str,
    place: &Place,
    mistakes: &mut Mistakes<'_>,
) {
    // Port 0 is any free port: never the same twice.
    if addr.port() == 0 {
        return;
    }
    if let Some(other) = taken.insert(addr, who) {
        let what = format!("{addr} is wanted twice: by {other} and by {who}");
        mistakes.add("address_twice", place.clone(), what);
    }
}

fn tls_needs_certificates(
    settings: &Settings,
    places: &Places,
    desired: &Desired,
    table: &TablePlaces,
    mistakes: &mut Mistakes<'_>,
) {
    if let (Some((_, place)), true) = (places.https.first(), settings.certificates.is_empty()) {
        let mistake = mistakes.add("no_certificate", place.clone(), "`https` needs a certificate");
        mistake
            .advise("`[[certificate]]` with `chain = \"example.pem\"` and `key = \"example.key\"`");
    }
    if settings.https.is_empty()
        && let Some(place) = &places.first_certificate
    {
        let what = "a certificate is given, but nothing listens for TLS";
        mistakes
            .warn("unused_certificate", place.clone(), what)
            .advise("`https = [\"127.0.0.1:8443\"]`");
    }
    let redirected = desired.routes.iter().find(|(_, route)| route.https_only);
    if let (true, Some((endpoint, _))) = (settings.https.is_empty(), redirected) {
        let place = table.routes.get(endpoint).cloned().unwrap_or(0..0);
        let what = format!("{endpoint} is https_only, but nothing here listens for TLS");
        let mistake = mistakes.warn("https_only_without_tls", place, what);
        mistake.why(
            "plain requests are sent to https:// on the same host, where somebody else must answer",
        );
    }
}

fn bounds_fit_each_other(settings: &Settings, places: &Places, mistakes: &mut Mistakes<'_>) {
    let (limits, timeouts) = (&settings.limits, &settings.timeouts);
    if timeouts.connect > timeouts.connect_budget {
        let (one, all) = (timeouts.connect.as_millis(), timeouts.connect_budget.as_millis());
        let what = format!(
            "connect_timeout_ms is {one}, but connect_budget_ms allows {all} for all attempts"
        );
        let place =
            if places.connect.is_empty() { &places.connect_budget } else { &places.connect };
        let mistake = mistakes.add("bounds_disagree", place.clone(), what);
        mistake.advise(format!("`connect_timeout_ms = {}`", all.min(one / 2).max(1)));
    }
    if limits.target_bytes_max >= limits.head_bytes_max {
        let (target, head) = (limits.target_bytes_max, limits.head_bytes_max);
        let what = format!(
            "target_bytes_max is {target}, but a whole head may only have {head} (head_bytes_max)"
        );
        mistakes.add("bounds_disagree", places.target_bytes_max.clone(), what);
    }
}

fn admin_stays_private(settings: &Settings, places: &Places, mistakes: &mut Mistakes<'_>) {
    if let (Some(AdminAddress::Tcp(addr)), Some(place)) = (&settings.admin, &places.admin)
        && !addr.ip().is_loopback()
    {
        let what = format!("the admin API on {addr} is open to everybody who can reach it");
        let mistake = mistakes.warn("admin_exposed", place.clone(), what);
        mistake
            .why("it changes routes and asks for no password")
            .advise("`admin = \"127.0.0.1:9080\"` or a unix socket");
    }
}
