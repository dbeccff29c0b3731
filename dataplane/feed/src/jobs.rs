//! Routes by job: every write of a job once, by revision; the whole again, page by page, when something is missing.
//!
//! ```text
//!   change(revision, previous) ─▶ kept if newer than what is known of that job ─▶ head moves while there is no gap
//!   beat(revision, digest)     ─▶ gap or other digest ─▶ walk: page, page, … ─▶ head
//!                              └▶ same place, same digest ─▶ verified: nothing older counts any more
//! ```
//!
//! Of one job the later revision wins, so the order of arrival does not matter; what is gone leaves a mark until the next
//! verification. Deliberately absent: endpoints (`ims`), the table, time-outs of questions.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use wire::JobId;
use wire::digest::Digest;
use wire::routing::{JobRoutes, RoutesBeat, RoutesChanged, RoutesPage};

use crate::join::{Join, SharedRoutes};

/// Jobs with routes.
pub const JOBS_MAX: usize = 1 << 20;
/// Marks of jobs that are gone.
pub const GONE_MAX: usize = 1 << 18;
/// Changes known to lie behind a gap.
pub const LINKS_MAX: usize = 1 << 14;
/// Pages of one walk.
pub const PAGES_MAX: u32 = 1 << 16;
/// A gap may close by itself: messages on two subjects overtake each other.
const GRACE_MS: u64 = 50;
/// First and longest pause before a question is repeated.
const RETRY_MS: (u64, u64) = (100, 2_000);
/// Beats that say something else and are all behind this table for so long are told.
const BEHIND_MS: u64 = 30_000;
/// Longest pause between two walks that a differing digest asks for: a job manager may be wrong for long.
const DOUBT_MS_MAX: u64 = 30_000;

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Gaps between revisions.
    pub gaps: u64,
    /// Digests that differed at the same revision.
    pub mismatches: u64,
    /// Walks through all pages that came to their end.
    pub resyncs: u64,
    /// Messages and pages from before what is known.
    pub stale: u64,
    /// Pages that are not what was asked for.
    pub pages_wrong: u64,
    /// Left out because of a bound.
    pub beyond_bound: u64,
}

/// A question for one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// To tell answers apart.
    pub ask: u64,
    /// Continue after this job.
    pub after: Option<JobId>,
}

/// A job as known: its routes, or the mark that it has none.
#[derive(Debug)]
struct Entry {
    revision: u64,
    routes: Option<SharedRoutes>,
}

/// On the way through all pages.
#[derive(Debug)]
struct Walk {
    after: Option<JobId>,
    /// The oldest revision at which a page was read.
    oldest: u64,
    pages: u32,
    ask: Option<u64>,
    next_ms: u64,
    tries: u32,
}

/// See the module head.
#[derive(Debug, Default)]
pub struct Jobs {
    entries: BTreeMap<JobId, Entry>,
    live: usize,
    gone: usize,
    digest: Digest,
    /// Every write up to here is known.
    head: u64,
    /// The last place at which a digest agreed.
    verified: u64,
    verified_ms: Option<u64>,
    /// Changes behind a gap: revision, and the one before it.
    links: BTreeMap<u64, u64>,
    /// The furthest place that anybody spoke of.
    heard: u64,
    /// The place that the last change or beat named.
    told: u64,
    walk: Option<Walk>,
    /// When to begin a walk.
    doubt_ms: Option<u64>,
    doubts: u32,
    /// Walks in a row that ended before the furthest place that was heard of.
    short: u32,
    asked: u64,
    walked: bool,
    /// The place behind this table that was told last, so that it is told once.
    behind: Option<u64>,
    /// Since when every beat is behind this table and says something else.
    behind_ms: Option<u64>,
    /// See [`Counts`].
    pub counts: Counts,
}

impl Jobs {
    /// Begin by asking for the whole.
    pub fn begin(&mut self, now_ms: u64) {
        self.doubt_at(now_ms);
    }

    /// One write of one job.
    pub fn changed(&mut self, change: RoutesChanged, join: &mut Join, now_ms: u64) {
        self.heard = self.heard.max(change.revision);
        self.told = change.revision;
        if change.revision <= self.head {
            self.counts.stale += 1;
            return;
        }
        let routes = change.routes.filter(|routes| routes.job == change.job);
        self.put(change.job, change.revision, routes, join);
        if change.previous > self.head {
            self.counts.gaps += u64::from(self.links.is_empty());
            self.doubt_at(now_ms + GRACE_MS);
        }
        self.links.insert(change.revision, change.previous);
        self.advance();
        if self.links.len() > LINKS_MAX {
            // The gap before them will be closed by a walk, or not at all.
            self.links.pop_first();
        }
    }

    /// Where the store stands.
    pub fn beat(&mut self, beat: &RoutesBeat, now_ms: u64) {
        self.heard = self.heard.max(beat.revision);
        self.told = beat.revision;
        let behind = beat.revision < self.heard.max(self.head) && beat.digest != self.digest;
        match (behind, self.behind_ms) {
            (false, _) => self.behind_ms = None,
            (true, None) => self.behind_ms = Some(now_ms),
            (true, Some(since)) if now_ms.saturating_sub(since) >= BEHIND_MS => {
                self.tell_behind(beat.revision);
            }
            (true, Some(_)) => {}
        }
        if beat.revision < self.heard {
            // A job manager that is behind, or a late message. Neither may take anything back, nor a doubt away.
            self.counts.stale += 1;
        } else if beat.revision > self.head {
            self.counts.gaps += u64::from(self.doubt_ms.is_none() && self.walk.is_none());
            self.doubt_at(now_ms + GRACE_MS);
        } else if !self.links.is_empty() {
            self.doubt_at(now_ms + GRACE_MS);
        } else if self.digest == beat.digest {
            self.verify(now_ms);
        } else {
            self.counts.mismatches += 1;
            self.doubts += 1;
            let pause = match self.doubts {
                0..=3 => 0,
                more => (1_000 << (more - 3).min(6)).min(DOUBT_MS_MAX),
            };
            self.doubt_at(now_ms + pause);
        }
        if let Some(walk) = &mut self.walk {
            // Who beats can answer, so the pauses begin anew.
            walk.tries = 0;
            walk.next_ms = walk.next_ms.min(now_ms);
        }
    }

    /// Somebody waits for this revision: it exists.
    pub fn expect(&mut self, revision: u64, now_ms: u64) {
        if revision > self.head {
            self.doubt_at(now_ms + GRACE_MS);
        }
    }

    /// The answer to a question: a page, or nothing.
    pub fn answered(&mut self, ask: u64, page: Option<RoutesPage>, join: &mut Join, now_ms: u64) {
        let verified = self.verified;
        let Some(walk) = self.walk.as_mut().filter(|walk| walk.ask == Some(ask)) else { return };
        walk.ask = None;
        walk.tries += 1;
        let pause = RETRY_MS.0.saturating_mul(1 << walk.tries.min(10)).min(RETRY_MS.1);
        walk.next_ms = now_ms + pause;
        let Some(page) = page else { return };
        if page.digest == Some(self.digest) && self.links.is_empty() {
            // The same jobs at the same revisions: nothing to walk through. A job manager that listed the store later
            // names a later place for the same, so its place says nothing here.
            self.walk = None;
            self.end_walk(page.revision, now_ms);
            return;
        }
        if page.revision < verified {
            self.counts.stale += 1;
            self.tell_behind(page.revision);
            return;
        }
        if !fits(&page, walk.after) || walk.pages == PAGES_MAX {
            self.counts.pages_wrong += 1;
            return;
        }
        let from = walk.after;
        walk.oldest = walk.oldest.min(page.revision);
        (walk.after, walk.tries, walk.next_ms) = (page.next, 0, now_ms);
        walk.pages += 1;
        let (last, oldest) = (page.next.is_none(), walk.oldest);
        self.take_page(page, from, join);
        if last {
            self.walk = None;
            self.end_walk(oldest, now_ms);
        }
    }

    /// The question that is due, if any.
    pub fn due(&mut self, now_ms: u64) -> Option<Ask> {
        if self.walk.is_none() && self.doubt_ms.is_some_and(|at| at <= now_ms) {
            self.doubt_ms = None;
            // What a gap or a differing digest asked for may have come meanwhile.
            self.walk = Some(Walk {
                after: None,
                oldest: u64::MAX,
                pages: 0,
                ask: None,
                next_ms: now_ms,
                tries: 0,
            });
        }
        let walk = self.walk.as_mut()?;
        if walk.ask.is_some() || walk.next_ms > now_ms {
            return None;
        }
        self.asked += 1;
        walk.ask = Some(self.asked);
        Some(Ask { ask: self.asked, after: walk.after })
    }

    /// When [`Self::due`] may have something.
    pub fn wake_ms(&self) -> Option<u64> {
        match &self.walk {
            Some(walk) => walk.ask.is_none().then_some(walk.next_ms),
            None => self.doubt_ms,
        }
    }

    /// Every write up to this revision is known.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// The furthest revision that anybody spoke of.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// When digests last agreed.
    pub fn verified_ms(&self) -> Option<u64> {
        self.verified_ms
    }

    /// The whole was there at least once since the start.
    pub fn is_walked(&self) -> bool {
        self.walked
    }

    /// Nothing is missing as far as known.
    pub fn is_settled(&self) -> bool {
        self.walk.is_none() && self.doubt_ms.is_none()
    }

    /// Jobs with routes.
    pub fn count(&self) -> usize {
        self.live
    }

    /// The routes of a job.
    pub fn routes(&self, job: JobId) -> Option<&SharedRoutes> {
        self.entries.get(&job)?.routes.as_ref()
    }

    /// This write of this job is known, or a later one. A revision alone proves nothing, because a store that was set back
    /// counts its revisions again: what the job says must be the same, or what is known must be of a place that the store
    /// has reached by its own last word.
    pub fn knows(&self, job: JobId, revision: u64, routes: Option<&JobRoutes>) -> bool {
        match (self.entries.get(&job), routes) {
            (Some(entry), routes) => {
                let same = entry.revision == revision && entry.routes.as_deref() == routes;
                same || entry.revision > revision && entry.revision <= self.told.max(revision)
            }
            // A job without routes leaves nothing once that is verified, and nothing could be missing.
            (None, routes) => routes.is_none(),
        }
    }

    /// For the file: every job with routes.
    pub fn saved(&self) -> Vec<SharedRoutes> {
        self.entries.values().filter_map(|entry| entry.routes.clone()).collect()
    }

    /// For the file: jobs known to be gone by a revision that lies behind a gap.
    pub fn saved_gone(&self) -> Vec<(JobId, u64)> {
        let gone = self.entries.iter().filter(|(_, entry)| entry.routes.is_none());
        let gone = gone.filter(|(_, entry)| entry.revision > self.head);
        gone.map(|(job, entry)| (*job, entry.revision)).collect()
    }

    /// From the file. Messages from before its place are not news; what was gone by then needs no mark.
    pub fn restore(
        &mut self,
        head: u64,
        verified_ms: Option<u64>,
        jobs: Vec<JobRoutes>,
        gone: Vec<(JobId, u64)>,
        join: &mut Join,
    ) {
        for routes in jobs {
            self.put(routes.job, routes.revision, Some(routes), join);
        }
        for (job, revision) in gone {
            self.put(job, revision, None, join);
        }
        (self.head, self.verified, self.verified_ms) = (head, head, verified_ms);
    }

    // === within ===

    fn tell_behind(&mut self, place: u64) {
        if self.behind.replace(place) != Some(place) {
            let known = self.head;
            tracing::warn!(
                place,
                known,
                "a job manager is behind this table; if the store was set back, remove the table file and start anew"
            );
        }
    }

    fn doubt_at(&mut self, at_ms: u64) {
        self.doubt_ms = Some(self.doubt_ms.map_or(at_ms, |before| before.min(at_ms)));
    }

    fn advance(&mut self) {
        while let Some((&revision, &previous)) = self.links.first_key_value() {
            if revision > self.head {
                if previous > self.head {
                    return;
                }
                self.head = revision;
            }
            self.links.pop_first();
        }
        // The gap has closed by itself. (A differing digest would show again at the next beat.)
        if self.walk.is_none() && self.walked && self.head >= self.heard && self.doubts == 0 {
            self.doubt_ms = None;
        }
    }

    fn verify(&mut self, now_ms: u64) {
        self.verified = self.head;
        self.verified_ms = Some(now_ms);
        self.doubts = 0;
        if self.walked {
            self.doubt_ms = None;
        }
        if self.gone > 0 {
            // Nothing older than this place is listened to, so the marks up to it have done their work.
            self.entries.retain(|_, entry| entry.routes.is_some());
            self.gone = 0;
        }
    }

    /// What is newer than what is known, wins.
    fn put(&mut self, job: JobId, revision: u64, routes: Option<JobRoutes>, join: &mut Join) {
        let known = self.entries.get(&job);
        if known.is_some_and(|known| known.revision > revision) {
            return;
        }
        let was_live = known.is_some_and(|known| known.routes.is_some());
        if routes.is_some() && !was_live && self.live >= JOBS_MAX {
            self.counts.beyond_bound += 1;
            return;
        }
        self.forget(job);
        let routes = routes.map(|mut routes| {
            // The entry's revision is what counts, in the digest as well.
            routes.revision = revision;
            Arc::new(routes)
        });
        match &routes {
            Some(routes) => {
                self.digest.add(&routes.digest_bytes());
                self.live += 1;
                join.set_job(routes);
            }
            None => {
                if was_live {
                    join.remove_job(job);
                }
                if self.gone >= GONE_MAX {
                    self.counts.beyond_bound += 1;
                    return;
                }
                self.gone += 1;
            }
        }
        self.entries.insert(job, Entry { revision, routes });
    }

    fn forget(&mut self, job: JobId) {
        let Some(entry) = self.entries.remove(&job) else { return };
        match entry.routes {
            Some(routes) => {
                self.digest.remove(&routes.digest_bytes());
                self.live -= 1;
            }
            None => self.gone -= 1,
        }
    }

    /// What the page has, and what it lacks.
    fn take_page(&mut self, page: RoutesPage, from: Option<JobId>, join: &mut Join) {
        let lower = from.map_or(Bound::Unbounded, Bound::Excluded);
        let upper = page.next.map_or(Bound::Unbounded, Bound::Included);
        let mut listed = page.jobs.iter().map(|routes| routes.job).peekable();
        let mut lacking = Vec::new();
        for (job, entry) in self.entries.range((lower, upper)) {
            while listed.next_if(|next| next < job).is_some() {}
            let is_listed = listed.peek() == Some(job);
            if !is_listed && entry.routes.is_some() && entry.revision <= page.revision {
                lacking.push(*job);
            }
        }
        for job in lacking {
            self.put(job, page.revision, None, join);
        }
        for routes in page.jobs {
            // Whoever stands at a place has heard of every write before it: one that we know and he does not is of a history
            // that the store has lost.
            let known = self.entries.get(&routes.job).map(|entry| entry.revision);
            if known.is_some_and(|known| known > routes.revision && known <= page.revision) {
                tracing::warn!(job = %routes.job, "the store was set back: its older routes are taken");
                self.forget(routes.job);
            }
            // The same once more costs the table nothing: equal wishes make no change.
            let same = self.routes(routes.job).is_some_and(|known| **known == routes);
            if !same {
                self.put(routes.job, routes.revision, Some(routes), join);
            }
        }
    }

    fn end_walk(&mut self, oldest: u64, now_ms: u64) {
        self.counts.resyncs += 1;
        self.walked = true;
        self.head = self.head.max(oldest);
        self.doubt_ms = None;
        self.advance();
        if self.links.is_empty() && self.heard <= self.head {
            self.short = 0;
            return;
        }
        let pause = RETRY_MS.0.saturating_mul(1 << self.short.min(10)).min(RETRY_MS.1);
        self.short += 1;
        self.doubt_at(now_ms + pause);
    }
}

/// In order, within what was asked for, and going on.
fn fits(page: &RoutesPage, after: Option<JobId>) -> bool {
    let mut last = after;
    for routes in &page.jobs {
        if last.is_some_and(|last| routes.job <= last) || routes.revision > page.revision {
            return false;
        }
        last = Some(routes.job);
    }
    page.next
        .is_none_or(|next| last.is_none_or(|last| next >= last) && after.is_none_or(|a| next > a))
}
