//! All that is routed under one host pattern: one route for the whole host, or several by prefix.
//!
//! Paths are compared as sent, byte by byte, cut at slashes: `/shop` covers `/shop` and
//! `/shop/x`, not `/shopping`, `/Shop` or `/shop%2Fx`; nothing is decoded and no slashes are
//! merged. The one exception is on the safe side: where a prefix decides who serves, a path with
//! a dot segment (`/a/../b`, also as `%2e`) could mean one job here and another at the origin,
//! so it belongs to no route. Clients resolve such segments before they send them. A host that
//! is routed as a whole passes any path on. Deliberately absent: fall-back from a known host to
//! a wildcard; the host is decided first, then the path.
//!
//! The cost is bounded by the number of different depths in use, however many prefixes there are.

use crate::endpoint::{HttpEndpoint, PREFIX_SEGMENTS_MAX};
use crate::explain::{Step, Trace};
use crate::hash::{Seed, spells};
use crate::host::Host;
use crate::table::Route;
use crate::trie::Trie;
use std::sync::Arc;

/// The routes of one host pattern, at least one.
#[derive(Clone, Debug)]
pub(crate) enum Site {
    /// The only route has no prefix: by far the most frequent site, and it costs nothing extra.
    Whole(Arc<Route>),
    /// Any other set of prefixes.
    Split(Arc<Prefixes>),
}

#[derive(Clone, Debug)]
pub(crate) struct Prefixes {
    /// The pattern that all the routes have in common.
    host: Host,
    /// Routes by hash of their prefix.
    routes: Trie<Arc<Route>>,
    /// How many prefixes have so many segments.
    depths: Vec<u32>,
}

fn endpoint(route: &Route) -> &HttpEndpoint {
    route.endpoint.http().expect("only HTTP routes are put into sites")
}

impl Site {
    /// A site with one route.
    pub(crate) fn new(seed: Seed, route: Arc<Route>) -> Self {
        if endpoint(&route).is_whole_host() {
            return Self::Whole(route);
        }
        let mut prefixes = Prefixes::of(endpoint(&route).host());
        prefixes.insert(seed, route);
        Self::Split(Arc::new(prefixes))
    }

    /// Whether the host that was asked for, or its tail after the first label, is this site's.
    #[inline]
    pub(crate) fn is_of(&self, key: &[u8]) -> bool {
        let host = match self {
            Self::Whole(route) => endpoint(route).host(),
            Self::Split(prefixes) => &prefixes.host,
        };
        spells(host.key(), key)
    }

    /// The route with exactly this prefix.
    pub(crate) fn exact(&self, seed: Seed, stem: &str) -> Option<&Arc<Route>> {
        match self {
            Self::Whole(route) => stem.is_empty().then_some(route),
            Self::Split(prefixes) => prefixes.at(seed, stem.as_bytes()),
        }
    }

    /// Adds a route, or puts it in place of the one with the same prefix.
    pub(crate) fn put(&mut self, seed: Seed, route: Arc<Route>) {
        match self {
            Self::Whole(whole) if endpoint(&route).is_whole_host() => *whole = route,
            Self::Whole(whole) => {
                let mut prefixes = Prefixes::of(endpoint(whole).host());
                prefixes.insert(seed, Arc::clone(whole));
                prefixes.insert(seed, route);
                *self = Self::Split(Arc::new(prefixes));
            }
            Self::Split(prefixes) => Arc::make_mut(prefixes).put(seed, route),
        }
    }

    /// Takes out the route with this prefix. True when it was the last: the site is to go.
    pub(crate) fn remove(&mut self, seed: Seed, stem: &str) -> bool {
        let Self::Split(shared) = self else { return true };
        let prefixes = Arc::make_mut(shared);
        prefixes.remove(seed, stem);
        if prefixes.routes.len() == 1
            && let Some(whole) = prefixes.at(seed, b"")
        {
            *self = Self::Whole(Arc::clone(whole));
            return false;
        }
        prefixes.routes.len() == 0
    }

    /// The route that serves `path`, which ends before any `?`.
    #[inline]
    pub(crate) fn find(
        &self,
        seed: Seed,
        path: &[u8],
        trace: &mut impl Trace,
    ) -> Option<&Arc<Route>> {
        match self {
            Self::Whole(route) => {
                trace.note(|| Step::Prefix { prefix: "/".into(), covers: true });
                Some(route)
            }
            Self::Split(prefixes) => prefixes.find(seed, path, trace),
        }
    }

    /// Bytes beside the site itself, without the routes.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Whole(_) => 0,
            Self::Split(prefixes) => {
                size_of::<Prefixes>()
                    + 2 * size_of::<usize>()
                    + prefixes.host.heap_bytes()
                    + size_of_val(&*prefixes.depths)
                    + prefixes.routes.node_bytes(&|_| 0)
            }
        }
    }
}

impl Prefixes {
    fn of(host: &Host) -> Self {
        Self { host: host.clone(), routes: Trie::default(), depths: Vec::new() }
    }

    fn at(&self, seed: Seed, stem: &[u8]) -> Option<&Arc<Route>> {
        let is = |route: &Arc<Route>| endpoint(route).stem().as_bytes() == stem;
        self.routes.find(seed.of_path(stem), is)
    }

    fn insert(&mut self, seed: Seed, route: Arc<Route>) {
        let endpoint = endpoint(&route);
        let depth = endpoint.depth();
        let hash = seed.of_path(endpoint.stem().as_bytes());
        if self.depths.len() <= depth {
            self.depths.resize(depth + 1, 0);
        }
        self.depths[depth] += 1;
        self.routes.insert(hash, route);
    }

    fn put(&mut self, seed: Seed, route: Arc<Route>) {
        let stem = endpoint(&route).stem();
        let is = |other: &Arc<Route>| endpoint(other).stem() == stem;
        match self.routes.find_mut(seed.of_path(stem.as_bytes()), is) {
            Some(place) => *place = route,
            None => self.insert(seed, route),
        }
    }

    fn remove(&mut self, seed: Seed, stem: &str) {
        let is = |route: &Arc<Route>| endpoint(route).stem() == stem;
        let Some(gone) = self.routes.remove(seed.of_path(stem.as_bytes()), is) else { return };
        self.depths[endpoint(&gone).depth()] -= 1;
        while self.depths.last() == Some(&0) {
            self.depths.pop();
        }
    }

    fn find(&self, seed: Seed, path: &[u8], trace: &mut impl Trace) -> Option<&Arc<Route>> {
        if let Some(segment) = dot_segment(path) {
            trace.note(|| Step::DotSegment { segment: String::from_utf8_lossy(segment).into() });
            return None;
        }
        let mut cuts = [0; PREFIX_SEGMENTS_MAX + 1];
        let deepest = cut(path, &mut cuts[..self.depths.len()]);
        for depth in (0..=deepest).rev().filter(|&depth| self.depths[depth] > 0) {
            let stem = &path[..cuts[depth]];
            let found = self.at(seed, stem);
            trace.note(|| Step::Prefix {
                prefix: if depth == 0 { "/".into() } else { String::from_utf8_lossy(stem).into() },
                covers: found.is_some(),
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

/// Fills `cuts[d]` with the length of the first `d` segments of `path`, slashes included, and
/// returns the greatest `d` that was filled. `*` and the empty path have no segments.
#[inline]
fn cut(path: &[u8], cuts: &mut [usize]) -> usize {
    let mut depth = 0;
    if path.first() != Some(&b'/') {
        return depth;
    }
    let slashes = path.iter().enumerate().skip(1).filter(|&(_, &byte)| byte == b'/');
    for end in slashes.map(|(at, _)| at).chain([path.len()]) {
        let Some(cut) = cuts.get_mut(depth + 1) else { break };
        *cut = end;
        depth += 1;
    }
    depth
}

/// The first segment of `path` that is `.` or `..`, in any spelling that means the same.
#[inline]
fn dot_segment(path: &[u8]) -> Option<&[u8]> {
    const LONGEST: usize = "%2e%2e".len();
    path.split(|&byte| byte == b'/').find(|segment| {
        let dotted = matches!(segment.first(), Some(b'.' | b'%')) && segment.len() <= LONGEST;
        dotted && matches!(dots(segment), Some(1 | 2))
    })
}

/// How many dots `segment` consists of; `None` when of anything else.
fn dots(mut segment: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !segment.is_empty() {
        segment = match segment {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_at_slashes_and_at_the_end() {
        let cuts = |path: &str| {
            let mut cuts = [0; 4];
            let deepest = cut(path.as_bytes(), &mut cuts);
            cuts[..=deepest].iter().map(|&end| path[..end].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(cuts("/shop/x"), ["", "/shop", "/shop/x"]);
        assert_eq!(cuts("/shop/"), ["", "/shop", "/shop/"]);
        assert_eq!(cuts("/"), ["", "/"]);
        assert_eq!(cuts("/a/b/c/d/e"), ["", "/a", "/a/b", "/a/b/c"], "no deeper than asked");
        assert_eq!(cuts("*"), [""]);
        assert_eq!(cuts(""), [""]);
    }

    #[test]
    fn dot_segments_are_seen_in_every_spelling() {
        for path in ["/.", "/..", "/a/../b", "/a/./b", "/%2e", "/%2E%2e/x", "/.%2e", "/a/%2e."] {
            assert!(dot_segment(path.as_bytes()).is_some(), "{path}");
        }
        for path in ["/", "", "*", "/...", "/.a", "/a.", "/..a/b", "/%2f..", "/%2e%2e%2e", "/a..b"]
        {
            assert_eq!(dot_segment(path.as_bytes()), None, "{path}");
        }
    }
}
