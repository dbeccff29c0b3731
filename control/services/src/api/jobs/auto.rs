//! Endpoints that the server is asked to choose: a name under the cluster's domain for http, a free port for tcp.
//!
//! What is chosen here may be taken by somebody else before it is written; the guards notice, and the choice is made
//! anew. Deliberately absent: the guards.

use crate::api::respond::Failure;
use crate::api::state::Shared;
use crate::jobs::{free_tcp_endpoint, guard_key, is_auto, tcp_ports_taken};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use wire::job::RouteKind;
use wire::{ErrorCode, Job};

/// Random names that are tried; two in a row that are taken are a wonder.
const NAMES_MAX: usize = 8;
/// Letters of a label of a host name that the application's name may take.
const LABEL_BYTES_MAX: usize = 63 - "-h3f435".len();

/// Gives each `auto` route of the job an endpoint that nobody uses; the keys of their guards, which must still be free
/// when the job is written.
pub(super) async fn resolve(api: &Shared, job: &mut Job) -> Result<BTreeSet<String>, Failure> {
    let mut chosen = BTreeSet::new();
    let mut own: BTreeSet<String> = job.routes().map(|(_, route)| route.endpoint.clone()).collect();
    let label = label(job.fqn.local());
    for port in &mut job.ports {
        for route in &mut port.routes {
            let Some(kind) = is_auto(route) else { continue };
            route.kind = kind;
            route.endpoint = match kind {
                RouteKind::Http => free_name(api, &label, &own).await?,
                RouteKind::Tcp => free_port(api, &own).await?,
            };
            own.insert(route.endpoint.clone());
            chosen.insert(guard_key(kind, &route.endpoint));
        }
    }
    Ok(chosen)
}

async fn free_name(api: &Shared, label: &str, own: &BTreeSet<String>) -> Result<String, Failure> {
    for _ in 0..NAMES_MAX {
        let chosen = route::default_route_name(label, &api.six(), &api.settings.cluster_domain)
            .map_err(|mistake| {
                let message = format!("no default route can be made: {}", mistake.what);
                Failure::new(ErrorCode::Invalid, message).hint("a route of your own")
            })?
            .to_string();
        let taken = api.store.get(&guard_key(RouteKind::Http, &chosen)).await?.is_some();
        if !taken && !own.contains(&chosen) {
            return Ok(chosen);
        }
    }
    Err(Failure::new(ErrorCode::Unavailable, "no default route was free").hint("try again"))
}

async fn free_port(api: &Shared, own: &BTreeSet<String>) -> Result<String, Failure> {
    let Some(tcp) = &api.settings.tcp else {
        return Err(Failure::new(ErrorCode::Invalid, "this cluster has no ports for tcp auto")
            .hint("an address and a port of a router, such as 192.0.2.7:1999"));
    };
    let routers = api.routers.places(api.now_ms());
    if routers > 1 {
        let message = format!("tcp auto is not possible with {routers} routers");
        return Err(Failure::new(ErrorCode::Invalid, message)
            .because("a port can be chosen only on one router")
            .hint("an address and a port of a router, such as 192.0.2.7:1999"));
    }
    let mut keys = Vec::new();
    let prefix = guard_key(RouteKind::Tcp, "");
    let mut pages = api.store.pages(&prefix);
    while let Some(page) = pages.next().await? {
        keys.extend(page.records.into_iter().map(|record| record.key));
    }
    let mut taken = tcp_ports_taken(keys.iter().map(String::as_str), tcp.host);
    let own = own.iter().filter_map(|endpoint| endpoint.parse::<SocketAddr>().ok());
    taken.extend(own.filter(|address| address.ip() == tcp.host).map(|address| address.port()));
    free_tcp_endpoint(tcp.host, tcp.ports.clone(), &taken).ok_or_else(|| {
        let (low, high) = (tcp.ports.start(), tcp.ports.end());
        Failure::new(ErrorCode::Conflict, format!("all tcp ports from {low} to {high} are taken"))
            .hint("delete a tcp route that is no longer needed, or name an address and a port")
    })
}

/// A local name as a part of a host name. Dots go without a trace, as the documents say; what else no host name may have
/// becomes a dash.
fn label(local: &str) -> String {
    let kept = local
        .chars()
        .filter(|c| *c != '.')
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let mut label: String = kept.take(LABEL_BYTES_MAX).collect();
    label = label.trim_matches('-').to_owned();
    if label.is_empty() { "app".to_owned() } else { label }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whatever a job is called, its default route is a host name.
    #[test]
    fn every_name_makes_a_host() {
        assert_eq!(label("My.App"), "myapp");
        assert_eq!(label("web/front_end@2"), "web-front-end-2");
        assert_eq!(label("..."), "app");
        for local in ["a", "_", "@x+", "x/y", &"long".repeat(40)] {
            let name = route::default_route_name(&label(local), "h3f435", "apcera.test");
            assert!(name.is_ok(), "{local}: {name:?}");
        }
    }
}
