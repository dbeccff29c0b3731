//! What lists of jobs and of packages have in common: which page, its neighbours, tags.
//!
//! Deliberately absent: reading the records. Jobs are read along their names, packages all of them.

use super::respond::{json, set};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use std::collections::BTreeMap;

/// Records in one answer.
pub(super) const PAGE_MAX: usize = 1_000;
/// Pages that may be asked for: a skip beyond this is a slip.
const PAGES_MAX: usize = 1_000_000;

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// 1, 2, 3 …
    page: usize,
    pub take: usize,
}

impl Part {
    pub(super) fn new(count: Option<usize>, page: Option<usize>) -> Self {
        Self {
            page: page.unwrap_or(1).clamp(1, PAGES_MAX),
            take: count.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX),
        }
    }

    pub(super) const fn skip(self) -> usize {
        (self.page - 1) * self.take
    }

    /// The records; `Next` and `Prev` name the neighbouring pages of `/v1/<what>`.
    pub(super) fn answer<T: Serialize>(
        self,
        what: &str,
        uri: &Uri,
        records: &[T],
        more: bool,
    ) -> Response {
        let mut response = json(StatusCode::OK, records);
        if more {
            set(response.headers_mut(), "next", &link(what, uri, self.page + 1));
        }
        if self.page > 1 {
            set(response.headers_mut(), "prev", &link(what, uri, self.page - 1));
        }
        response
    }
}

/// The same question for another page.
fn link(what: &str, uri: &Uri, page: usize) -> String {
    let rest = uri.query().unwrap_or("").split('&');
    let rest: Vec<_> = rest.filter(|part| !part.is_empty() && !part.starts_with("page=")).collect();
    format!("/v1/{what}?page={page}{}{}", if rest.is_empty() { "" } else { "&" }, rest.join("&"))
}

/// Whether there is such a tag: `key`, or `key:value`.
pub(super) fn tagged(tags: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once([':', '=']) {
        Some((key, value)) => tags.get(key).is_some_and(|is| is == value),
        None => tags.contains_key(wanted),
    }
}
