//! Keeps web pages of other origins away from the admin API.
//!
//! A browser on the machine is the confused deputy: it reaches 127.0.0.1 for any page it shows. Two doors are shut.
//! A changing request must be JSON and must not come from another origin (CSRF); and on a loopback address the `Host`
//! must be an address or `localhost`, because a name can be made to point here (DNS rebinding).
//! Deliberately absent: authentication; see the head of `mod.rs`.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer::Refusal;

/// What the listener knows of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard {
    /// The API listens on a loopback address.
    pub(super) loopback: bool,
}

pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match admit(guard, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn admit(guard: Guard, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    if guard.loopback && !is_local(host) {
        let what = format!("Host \"{host}\" is not this machine");
        return Err(Refusal::new(StatusCode::FORBIDDEN, "foreign_host", what)
            .why("a name that somebody else controls can point at 127.0.0.1")
            .advise("http://127.0.0.1 or http://localhost"));
    }
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let origin = text(header::ORIGIN);
    let foreign = origin.is_some_and(|origin| origin.strip_prefix("http://") != Some(host));
    if foreign || text(header::HeaderName::from_static("sec-fetch-site")) == Some("cross-site") {
        let what =
            format!("a page of {} may not change this router", origin.unwrap_or("another site"));
        return Err(Refusal::new(StatusCode::FORBIDDEN, "foreign_origin", what));
    }
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let what = format!("the body is \"{kind}\", but must be JSON");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", what)
            .advise("Content-Type: application/json"));
    }
    Ok(())
}

/// `localhost`, or an address, with or without a port.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: Method, headers: &[(&'static str, &'static str)]) -> &'static str {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        admit(Guard { loopback: true }, &method, &map)
            .map_or_else(|refusal| refusal.code, |()| "ok")
    }

    /// Goal: what curl and our own dashboard send passes; what a foreign page can make a browser send does not.
    #[test]
    fn foreign_pages_change_nothing() {
        const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
        const HERE: (&str, &str) = ("host", "127.0.0.1:9080");
        for (headers, want) in [
            (&[HERE, JSON][..], "ok"),
            (&[HERE, JSON, ("origin", "http://127.0.0.1:9080")], "ok"),
            (&[HERE, JSON, ("origin", "http://evil.example")], "foreign_origin"),
            (&[HERE, JSON, ("origin", "null")], "foreign_origin"),
            (&[HERE, JSON, ("origin", "https://127.0.0.1:9080")], "foreign_origin"),
            (&[HERE, JSON, ("sec-fetch-site", "cross-site")], "foreign_origin"),
            (&[HERE, ("content-type", "text/plain")], "not_json"),
            (&[HERE], "not_json"),
            (&[("host", "evil.example"), JSON], "foreign_host"),
            (&[JSON], "foreign_host"),
        ] {
            assert_eq!(verdict(Method::POST, headers), want, "{headers:?}");
        }
        assert_eq!(verdict(Method::GET, &[("host", "rebound.example:9080")]), "foreign_host");
        assert_eq!(verdict(Method::GET, &[HERE]), "ok");
    }

    #[test]
    fn local_hosts() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:9080", "[::1]", "[::1]:9"]
        {
            assert!(is_local(host), "{host}");
        }
        for host in
            ["", "example.com", "localhost.example.com", "127.0.0.1.example.com", "localhost:x"]
        {
            assert!(!is_local(host), "{host}");
        }
    }
}
