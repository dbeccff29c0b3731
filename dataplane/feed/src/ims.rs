//! Endpoints by instance manager: announcements in order, gaps found, what was withdrawn stays withdrawn.
//!
//! ```text
//!              announcement seq+1 ─▶ applied, digest compared ─┐
//!  unknown ─▶ whole (epoch, seq)                               ├─ equal ─▶ whole
//!              gap, digest differs, new epoch ─▶ needy ─ ask ──┴─ the whole, of this or a later place
//! ```
//!
//! A withdrawal counts from the moment it is heard, however early: it masks the instance until the books have passed its
//! place. Nothing from before that place (late announcement, late page, old epoch, file) can undo it.
//! Deliberately absent: time-outs of questions (the caller reports each as answered or failed), jobs, the table.

use std::collections::{BTreeMap, BTreeSet};

use wire::announce::{AnnounceBeat, Announcement, EndpointChange, EndpointUp, EndpointsAll};
use wire::digest::Digest;
use wire::health::Lost;
use wire::{ImId, InstanceId};

use crate::join::Join;

/// Instance managers known at once.
pub const IMS_MAX: usize = 16_384;
/// Endpoints of one instance manager; more than one message of the bus can name.
pub const ENDPOINTS_PER_IM_MAX: usize = 16_384;
/// Announcements of one instance manager that wait for one before them.
pub const WAITING_PER_IM_MAX: usize = 1_024;
/// Withdrawals of one instance manager that the books have not passed yet.
pub const MASKS_PER_IM_MAX: usize = 16_384;
/// Questions on their way at once.
pub const ASKS_MAX: usize = 64;
/// A gap may close by itself: messages on two subjects overtake each other.
const GRACE_MS: u64 = 30;
/// First and longest pause between two questions to one who does not answer.
const RETRY_MS: (u64, u64) = (100, 2_000);
/// An instance manager that we heard this recently is not lost, whoever says so.
const HEARD_MS: u64 = 3_000;
/// One whose later life we know, and the health manager does not, is lost when we too heard nothing for this long: a
/// life can end before its first beat.
const FORMER_HEARD_MS: u64 = 30_000;

/// A place in the life of an instance manager: epoch, then announcement.
type Place = (u64, u64);

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Gaps between announcements.
    pub gaps: u64,
    /// Digests that differed.
    pub mismatches: u64,
    /// Times that the whole was taken over.
    pub resyncs: u64,
    /// Messages from before what is known.
    pub stale: u64,
    /// Instance managers declared lost.
    pub lost: u64,
    /// Left out because of a bound.
    pub beyond_bound: u64,
}

/// A question to one instance manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// To tell answers apart.
    pub ask: u64,
    /// To whom.
    pub im: ImId,
}

#[derive(Debug)]
struct Need {
    ask: Option<u64>,
    next_ms: u64,
    tries: u32,
}

#[derive(Debug, Default)]
struct Im {
    /// The latest process that was heard of.
    epoch: u64,
    /// The furthest place that was heard of.
    furthest: Place,
    /// Where the books stand.
    place: Place,
    /// The books are exactly the state at their place.
    whole: bool,
    books: BTreeMap<InstanceId, BTreeSet<EndpointUp>>,
    count: usize,
    digest: Digest,
    /// Of the latest epoch, by number.
    waiting: BTreeMap<u64, Announcement>,
    masks: BTreeMap<InstanceId, Place>,
    /// What the join was given.
    shown: BTreeMap<InstanceId, BTreeSet<EndpointUp>>,
    heard_ms: u64,
    need: Option<Need>,
    lost: bool,
}

/// See the module head.
#[derive(Debug, Default)]
pub struct Ims {
    all: BTreeMap<ImId, Im>,
    needy: BTreeSet<ImId>,
    asking: usize,
    asked: u64,
    /// See [`Counts`].
    pub counts: Counts,
}

impl Ims {
    /// Changes, perhaps early, late, twice or from a former life.
    pub fn announced(&mut self, told: Announcement, join: &mut Join, now_ms: u64) {
        let id = told.im;
        let Some(im) = entry(&mut self.all, &mut self.counts, id) else { return };
        let place = (told.epoch, told.seq);
        if place <= im.place {
            self.counts.stale += 1;
            return;
        }
        im.heard(place, now_ms);
        let mut touched: BTreeSet<InstanceId> = BTreeSet::new();
        for change in &told.changes {
            if let EndpointChange::Down(instance) = change {
                im.mask(*instance, place, &mut self.counts);
                touched.insert(*instance);
            }
        }
        if told.epoch < im.epoch {
            // A former life, which the books have not left yet: only what it withdrew counts.
            self.counts.stale += 1;
            im.show(touched, join);
            return;
        }
        im.wait(told, &mut touched, &mut self.counts);
        let agreed = im.catch_up(&mut touched, &mut self.counts);
        im.show(touched, join);
        let due = match (agreed, im.is_current()) {
            (false, _) => Some(now_ms),
            (true, true) => None,
            // Also of a stranger only the whole is believed: its first words may be a late copy.
            (true, false) => Some(now_ms + im.grace_ms()),
        };
        self.settle(id, due);
    }

    /// Where somebody stands.
    pub fn beat(&mut self, beat: &AnnounceBeat, now_ms: u64) {
        let Some(im) = entry(&mut self.all, &mut self.counts, beat.im) else { return };
        let place = (beat.epoch, beat.seq);
        if beat.epoch < im.epoch {
            self.counts.stale += 1;
            return;
        }
        im.heard(place, now_ms);
        if place < im.furthest {
            // Late; what was heard later counts.
            self.counts.stale += 1;
            return;
        }
        let due = if place > im.place {
            Some(now_ms + im.grace_ms())
        } else if im.whole && im.digest == beat.digest {
            None
        } else {
            self.counts.mismatches += u64::from(im.whole);
            im.whole = false;
            Some(now_ms)
        };
        // Who beats can answer, so the pauses begin anew.
        if let (Some(need), Some(due)) = (&mut im.need, due) {
            need.tries = 0;
            need.next_ms = need.next_ms.min(due);
        }
        self.settle(beat.im, due);
    }

    /// The answer to a question: the whole, or nothing.
    pub fn answered(&mut self, ask: Ask, all: Option<EndpointsAll>, join: &mut Join, now_ms: u64) {
        self.asking = self.asking.saturating_sub(1);
        let Some(im) = self.all.get_mut(&ask.im) else { return };
        let Some(need) = im.need.as_mut().filter(|need| need.ask == Some(ask.ask)) else { return };
        need.ask = None;
        need.tries += 1;
        let pause = RETRY_MS.0.saturating_mul(1 << need.tries.min(10)).min(RETRY_MS.1);
        need.next_ms = now_ms + pause;
        let Some(all) = all.filter(|all| all.im == ask.im) else { return };
        let place = (all.epoch, all.seq);
        if all.epoch < im.epoch || place < im.place {
            self.counts.stale += 1;
            return;
        }
        im.heard(place, now_ms);
        self.counts.resyncs += 1;
        let mut touched: BTreeSet<InstanceId> = im.shown.keys().copied().collect();
        im.take_over(place, all.endpoints, &mut self.counts);
        im.catch_up(&mut touched, &mut self.counts);
        touched.extend(im.books.keys());
        im.show(touched, join);
        let due = (!im.is_current()).then_some(now_ms + pause);
        self.settle(ask.im, due);
    }

    /// Withdrawn at a place that may not have been heard of: masked from now on.
    pub fn withdrawn(
        &mut self,
        id: ImId,
        place: Place,
        instances: impl Iterator<Item = InstanceId>,
        join: &mut Join,
        now_ms: u64,
    ) {
        let Some(im) = entry(&mut self.all, &mut self.counts, id) else { return };
        if place <= im.place && im.whole {
            return;
        }
        im.heard(place, now_ms);
        let mut touched = BTreeSet::new();
        for instance in instances {
            im.mask(instance, place, &mut self.counts);
            touched.insert(instance);
        }
        im.show(touched, join);
        self.settle(id, Some(now_ms + GRACE_MS));
    }

    /// Somebody exists, and has come as far as this.
    pub fn exists(&mut self, id: ImId, place: Place, now_ms: u64) {
        let Some(im) = entry(&mut self.all, &mut self.counts, id) else { return };
        if place.0 < im.epoch {
            return;
        }
        im.heard(place, now_ms);
        if !im.is_current() {
            let due = now_ms + im.grace_ms();
            self.settle(id, Some(due));
        }
    }

    /// A health manager gave somebody up. Whom we hear ourselves lives; the message is repeated while it is true.
    pub fn lost(&mut self, lost: &Lost, join: &mut Join, now_ms: u64) {
        let Some(im) = self.all.get_mut(&lost.im) else { return };
        let enough = if im.epoch > lost.start_time_ms { FORMER_HEARD_MS } else { HEARD_MS };
        let heard = im.heard_ms > 0 && now_ms.saturating_sub(im.heard_ms) < enough;
        if heard || im.lost {
            return;
        }
        self.counts.lost += 1;
        im.lost = true;
        im.whole = false;
        im.waiting.clear();
        im.empty();
        let touched = im.shown.keys().copied().collect();
        im.show(touched, join);
        // Answers on their way are from before.
        im.need = None;
        self.needy.remove(&lost.im);
    }

    /// Messages were lost: everybody is asked.
    pub fn doubt_all(&mut self, now_ms: u64) {
        let all: Vec<ImId> =
            self.all.iter().filter(|(_, im)| !im.lost).map(|(id, _)| *id).collect();
        // What is whole stays so: the next number or digest tells.
        all.into_iter().for_each(|id| self.settle(id, Some(now_ms)));
    }

    /// Questions that are due.
    pub fn due(&mut self, now_ms: u64, asks: &mut Vec<Ask>) {
        for id in &self.needy {
            if self.asking == ASKS_MAX {
                return;
            }
            let need = self.all.get_mut(id).and_then(|im| im.need.as_mut());
            let Some(need) = need.filter(|need| need.ask.is_none() && need.next_ms <= now_ms)
            else {
                continue;
            };
            self.asked += 1;
            self.asking += 1;
            need.ask = Some(self.asked);
            asks.push(Ask { ask: self.asked, im: *id });
        }
    }

    /// When [`Self::due`] may have something; none while nothing is needed.
    pub fn wake_ms(&self) -> Option<u64> {
        let needs = self.needy.iter().filter_map(|id| self.all.get(id)?.need.as_ref());
        needs.filter(|need| need.ask.is_none()).map(|need| need.next_ms).min()
    }

    /// Nobody's state is in doubt.
    pub fn is_settled(&self) -> bool {
        self.needy.is_empty()
    }

    /// Whether the books of an instance manager have passed a place.
    pub fn reached(&self, id: ImId, place: Place) -> bool {
        self.all.get(&id).is_some_and(|im| im.whole && im.place >= place)
    }

    /// An endpoint is offered to the table, by anybody of this instance manager.
    pub fn shows(&self, id: ImId, endpoint: &EndpointUp) -> bool {
        let shown = self.all.get(&id).and_then(|im| im.shown.get(&endpoint.instance));
        shown.is_some_and(|list| list.contains(endpoint))
    }

    /// Everybody who is known whole, and where.
    pub fn places(&self) -> impl Iterator<Item = (ImId, u64, u64)> {
        let whole = self.all.iter().filter(|(_, im)| im.whole);
        whole.map(|(id, im)| (*id, im.place.0, im.place.1))
    }

    /// Known instance managers, and how many of them are in doubt.
    pub fn count(&self) -> (usize, usize) {
        (self.all.len(), self.needy.len())
    }

    /// For the file: what is served now.
    pub fn saved(&self) -> Vec<EndpointsAll> {
        let saved = |(id, im): (&ImId, &Im)| EndpointsAll {
            im: *id,
            epoch: im.place.0,
            seq: im.place.1,
            endpoints: im.shown.values().flatten().cloned().collect(),
        };
        self.all.iter().filter(|(_, im)| !im.shown.is_empty()).map(saved).collect()
    }

    /// From the file: served at once, and in doubt until its owner was asked.
    pub fn restore(&mut self, saved: EndpointsAll, join: &mut Join, now_ms: u64) {
        let id = saved.im;
        let Some(im) = entry(&mut self.all, &mut self.counts, id) else { return };
        im.epoch = saved.epoch;
        im.take_over((saved.epoch, saved.seq), saved.endpoints, &mut self.counts);
        // What was masked is not in the file, so a place of the file says less than one of the bus.
        im.whole = false;
        let touched = im.books.keys().copied().collect();
        im.show(touched, join);
        self.settle(id, Some(now_ms));
    }

    /// In doubt from `due` on, or not at all.
    fn settle(&mut self, id: ImId, due: Option<u64>) {
        let Some(im) = self.all.get_mut(&id) else { return };
        match due {
            None => {
                // An answer that is still on its way is then not waited for.
                im.need = None;
                self.needy.remove(&id);
            }
            Some(due) => {
                if im.need.is_none() {
                    im.need = Some(Need { ask: None, next_ms: due, tries: 0 });
                }
                if let Some(need) = &mut im.need
                    && need.tries == 0
                {
                    need.next_ms = need.next_ms.min(due);
                }
                self.needy.insert(id);
            }
        }
    }
}

/// The entry of an instance manager; a stranger beyond the bound takes the place of a lost one, or has none.
fn entry<'a>(all: &'a mut BTreeMap<ImId, Im>, counts: &mut Counts, id: ImId) -> Option<&'a mut Im> {
    if !all.contains_key(&id) && all.len() >= IMS_MAX {
        let lost = all.iter().find(|(_, im)| im.lost).map(|(id, _)| *id);
        let Some(lost) = lost else {
            counts.beyond_bound += 1;
            return None;
        };
        all.remove(&lost);
    }
    Some(all.entry(id).or_default())
}

impl Im {
    fn heard(&mut self, place: Place, now_ms: u64) {
        let (epoch, _) = place;
        self.heard_ms = now_ms.max(1);
        self.furthest = self.furthest.max(place);
        if epoch > self.epoch {
            self.epoch = epoch;
            self.waiting.clear();
        }
    }

    /// How long a gap may take to close by itself. One to another life does not.
    fn grace_ms(&self) -> u64 {
        if self.place.0 == self.epoch { GRACE_MS } else { 0 }
    }

    /// The books are whole, and nobody spoke of a later place.
    fn is_current(&self) -> bool {
        self.whole && self.place >= self.furthest
    }

    fn mask(&mut self, instance: InstanceId, place: Place, counts: &mut Counts) {
        if self.masks.len() >= MASKS_PER_IM_MAX && !self.masks.contains_key(&instance) {
            counts.beyond_bound += 1;
            // Taken out for good, and the books are asked for anew.
            self.take_out(instance);
            self.whole = false;
            return;
        }
        let at = self.masks.entry(instance).or_insert(place);
        *at = place.max(*at);
    }

    /// Keep an announcement until the one before it has come.
    fn wait(
        &mut self,
        told: Announcement,
        touched: &mut BTreeSet<InstanceId>,
        counts: &mut Counts,
    ) {
        let next = if self.place.0 == self.epoch { self.place.1 + 1 } else { 1 };
        counts.gaps += u64::from(told.seq != next && self.waiting.is_empty());
        self.waiting.insert(told.seq, told);
        while self.waiting.len() > WAITING_PER_IM_MAX {
            // The gap before it will not close any more; the whole is asked for anyway. Its withdrawals are masks.
            counts.beyond_bound += 1;
            if let Some((_, dropped)) = self.waiting.pop_first() {
                self.whole = false;
                touched.extend(dropped.changes.iter().map(instance_of));
            }
        }
    }

    /// Apply what waits as far as there is no gap. False when a digest differed.
    fn catch_up(&mut self, touched: &mut BTreeSet<InstanceId>, counts: &mut Counts) -> bool {
        let mut agreed = true;
        while self.whole && self.place.0 == self.epoch {
            let Some(told) = self.waiting.remove(&(self.place.1 + 1)) else { break };
            self.place.1 += 1;
            self.lost = false;
            for change in &told.changes {
                touched.insert(instance_of(change));
                match change {
                    EndpointChange::Up(up) => self.put_in(up.clone(), counts),
                    EndpointChange::Down(instance) => self.take_out(*instance),
                }
            }
            if self.digest != told.digest {
                counts.mismatches += 1;
                self.whole = false;
                agreed = false;
            }
        }
        let place = self.place;
        // Books in doubt may still hold what was withdrawn before their place.
        if !self.whole {
            return agreed;
        }
        self.masks.retain(|instance, at| {
            if *at <= place {
                touched.insert(*instance);
            }
            *at > place
        });
        agreed
    }

    fn take_over(&mut self, place: Place, endpoints: Vec<EndpointUp>, counts: &mut Counts) {
        self.empty();
        self.place = place;
        self.whole = true;
        self.lost = false;
        for endpoint in endpoints {
            self.put_in(endpoint, counts);
        }
        if place.0 == self.epoch {
            self.waiting.retain(|seq, _| *seq > place.1);
        }
    }

    fn put_in(&mut self, up: EndpointUp, counts: &mut Counts) {
        if self.count >= ENDPOINTS_PER_IM_MAX {
            counts.beyond_bound += 1;
            return;
        }
        let bytes = up.digest_bytes();
        if self.books.entry(up.instance).or_default().insert(up) {
            self.count += 1;
            self.digest.add(&bytes);
        }
    }

    fn take_out(&mut self, instance: InstanceId) {
        for up in self.books.remove(&instance).into_iter().flatten() {
            self.count -= 1;
            self.digest.remove(&up.digest_bytes());
        }
    }

    fn empty(&mut self) {
        self.books.clear();
        self.count = 0;
        self.digest = Digest::default();
    }

    /// Bring the join up to date for these instances.
    fn show(&mut self, touched: BTreeSet<InstanceId>, join: &mut Join) {
        for instance in touched {
            let masked = self.masks.contains_key(&instance);
            let want = self.books.get(&instance).filter(|_| !masked);
            let have = self.shown.get(&instance);
            if want == have {
                continue;
            }
            let nothing = BTreeSet::new();
            let (new, old) = (want.unwrap_or(&nothing), have.unwrap_or(&nothing));
            new.difference(old).for_each(|up| join.add(up.job, up.port, up.addr));
            old.difference(new).for_each(|up| join.remove(up.job, up.port, up.addr));
            match want {
                Some(list) => drop(self.shown.insert(instance, list.clone())),
                None => drop(self.shown.remove(&instance)),
            }
        }
    }
}

fn instance_of(change: &EndpointChange) -> InstanceId {
    match change {
        EndpointChange::Up(up) => up.instance,
        EndpointChange::Down(instance) => *instance,
    }
}
