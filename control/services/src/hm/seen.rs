//! What a health manager has seen: instance managers, their instances and ends, merged from beats and switches.
//!
//! Messages may be lost, doubled and late. `(im.start_time_ms, seq)` orders them: for each instance the newest word
//! wins, and a beat is a word about every instance, also about those it does not name. So any weather ends in the same
//! view as soon as each instance manager's last beat arrived.
//!
//! Pure: no clock, no bus, no store. Deliberately absent: who is to be declared lost (`agreement.rs`), and what flapping
//! is (`flapping.rs`).

use super::agreement::Agreement;
use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use wire::health::{
    Beat, ENDED_MAX, Ended, INSTANCES_PER_IM_MAX, ImRecord, ImView, InstanceOn, InstanceSeen,
    JOB_ENDED_MAX, JobView, Lost, Switch, VIEW_JOBS_MAX, View, ViewRequest,
};
use wire::{ImId, InstanceId, InstanceState, JobId};

/// Instance managers that one health manager follows; a stranger beyond that is not taken in.
pub const IMS_MAX: usize = 2_000;
/// Bytes of a [`View`] as JSON, by a cautious estimate: below one message of the bus with its envelope.
pub const VIEW_BYTES_MAX: usize = 900 * 1024;

/// Jobs whose counts, states or ends changed.
pub type Changed = BTreeSet<JobId>;

/// Everything seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub(super) ims: BTreeMap<ImId, ImSeen>,
    jobs: Index,
    flapping: BTreeMap<JobId, u64>,
    /// Silence counts from here at the earliest: start, or the last time that this health manager was deaf itself.
    pub(super) hearing_since_ms: u64,
    /// Whether the agreements in the store were read once.
    pub(super) knows_store: bool,
}

/// One instance manager.
#[derive(Debug, Default)]
pub(super) struct ImSeen {
    /// What it said last, or what the store says it once said.
    pub(super) record: Option<ImRecord>,
    /// Start of the life whose messages count.
    pub(super) start_ms: u64,
    /// The newest beat of this life.
    beat_seq: Option<u64>,
    /// When the last beat came.
    pub(super) heard_ms: Option<u64>,
    /// When another health manager's word came that it is here.
    pub(super) vouched_ms: Option<u64>,
    /// It said farewell.
    pub(super) leaving: bool,
    /// What all health managers agreed about it.
    pub(super) agreed: Option<Agreed>,
    /// Heard again after it was agreed to be lost; the store does not say so yet.
    pub(super) returned: bool,
    slots: BTreeMap<InstanceId, Slot>,
    ends: BTreeMap<InstanceId, End>,
    /// Start of an older process that speaks under this name, and how many beats it sent.
    older: (u64, u32),
}

/// An older process was heard so often under a name that a younger one has: it is no late message.
const OLDER_BEATS: u32 = 3;

/// An agreement and where it stands in the store.
#[derive(Clone, Debug)]
pub(super) struct Agreed {
    pub(super) what: Option<Agreement>,
    pub(super) version: u64,
    pub(super) revision: u64,
}

/// The newest word about one instance; none = it is gone, which must outlive older words that say otherwise.
#[derive(Debug)]
struct Slot {
    seq: u64,
    live: Option<InstanceSeen>,
}

#[derive(Debug)]
struct End {
    seq: u64,
    ended: Ended,
}

/// Where the instances and ends of each job are.
#[derive(Debug, Default)]
struct Index(BTreeMap<JobId, JobIndex>);

#[derive(Debug, Default)]
struct JobIndex {
    live: BTreeSet<(ImId, InstanceId)>,
    /// Newest first.
    ends: BTreeSet<(Reverse<u64>, InstanceId, ImId)>,
}

impl Index {
    fn add_live(&mut self, job: JobId, im: ImId, instance: InstanceId) {
        self.0.entry(job).or_default().live.insert((im, instance));
    }

    fn remove_live(&mut self, job: JobId, im: ImId, instance: InstanceId) {
        self.edit(job, |index| index.live.remove(&(im, instance)));
    }

    fn add_end(&mut self, im: ImId, end: &Ended) {
        let key = (Reverse(end.at_ms), end.id, im);
        self.0.entry(end.job).or_default().ends.insert(key);
    }

    fn remove_end(&mut self, im: ImId, end: &Ended) {
        self.edit(end.job, |index| index.ends.remove(&(Reverse(end.at_ms), end.id, im)));
    }

    fn edit(&mut self, job: JobId, edit: impl FnOnce(&mut JobIndex) -> bool) {
        if let Entry::Occupied(mut entry) = self.0.entry(job) {
            let found = edit(entry.get_mut());
            debug_assert!(found, "the index knows what the instance manager holds");
            if entry.get().live.is_empty() && entry.get().ends.is_empty() {
                entry.remove();
            }
        }
    }
}

impl ImSeen {
    /// Its instances do not count.
    pub(super) fn lost(&self) -> bool {
        self.agreed_lost() && !self.returned
    }

    /// The store says that it is lost.
    pub(super) fn agreed_lost(&self) -> bool {
        self.agreement().is_some_and(|agreement| agreement.lost)
    }

    pub(super) fn agreement(&self) -> Option<&Agreement> {
        self.agreed.as_ref()?.what.as_ref()
    }

    /// A new process: what the old one said is what we know until the new one has spoken of everything.
    fn begin_life(&mut self, start_ms: u64) {
        debug_assert!(start_ms > self.start_ms);
        self.start_ms = start_ms;
        self.beat_seq = None;
        self.leaving = false;
        for slot in self.slots.values_mut() {
            slot.seq = 0;
        }
        for end in self.ends.values_mut() {
            end.seq = 0;
        }
    }

    fn heard_older(&mut self, start_ms: u64) {
        let (known, beats) = self.older;
        self.older = (start_ms, if known == start_ms { beats.saturating_add(1) } else { 1 });
    }

    fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.slots.values().filter_map(|slot| slot.live.as_ref()).map(|seen| seen.job)
    }

    /// Drops its instances and ends.
    fn forget(&mut self, id: ImId, jobs: &mut Index, changed: &mut Changed) {
        for (instance, mut slot) in std::mem::take(&mut self.slots) {
            change_live((id, instance), &mut slot.live, None, jobs, changed);
        }
        for end in std::mem::take(&mut self.ends).into_values() {
            jobs.remove_end(id, &end.ended);
        }
    }

    /// Makes the instances those of a beat, except where a later switch has spoken.
    fn settle_instances(
        &mut self,
        (id, seq): (ImId, u64),
        instances: Vec<InstanceSeen>,
        jobs: &mut Index,
        changed: &mut Changed,
    ) {
        let named = instances.into_iter().take(INSTANCES_PER_IM_MAX);
        let mut named: BTreeMap<_, _> = named.map(|seen| (seen.id, seen)).collect();
        self.slots.retain(|instance, slot| {
            let said = named.remove(instance);
            if slot.seq > seq {
                return true;
            }
            slot.seq = seq;
            let keep = said.is_some();
            change_live((id, *instance), &mut slot.live, said, jobs, changed);
            keep
        });
        for (instance, seen) in named {
            let mut slot = Slot { seq, live: None };
            change_live((id, instance), &mut slot.live, Some(seen), jobs, changed);
            self.slots.insert(instance, slot);
        }
    }

    /// Makes the ends those of a beat, except where a later switch has spoken.
    fn settle_ends(
        &mut self,
        (id, seq): (ImId, u64),
        ended: Vec<Ended>,
        jobs: &mut Index,
        changed: &mut Changed,
    ) {
        let named = ended.into_iter().take(ENDED_MAX);
        let mut named: BTreeMap<_, _> = named.map(|end| (end.id, end)).collect();
        self.ends.retain(|instance, end| {
            let said = named.remove(instance);
            if end.seq > seq {
                return true;
            }
            end.seq = seq;
            match said {
                Some(said) => {
                    if said != end.ended {
                        changed.insert(said.job);
                        jobs.remove_end(id, &end.ended);
                        jobs.add_end(id, &said);
                        end.ended = said;
                    }
                    true
                }
                // It fell off the end of the list: nobody needs to look because of that.
                None => {
                    jobs.remove_end(id, &end.ended);
                    false
                }
            }
        });
        for (instance, ended) in named {
            changed.insert(ended.job);
            jobs.add_end(id, &ended);
            self.ends.insert(instance, End { seq, ended });
        }
    }
}

/// Puts `next` where `live` was, and notes the job if anybody would count differently.
fn change_live(
    (im, instance): (ImId, InstanceId),
    live: &mut Option<InstanceSeen>,
    next: Option<InstanceSeen>,
    jobs: &mut Index,
    changed: &mut Changed,
) {
    let word = |seen: &Option<InstanceSeen>| {
        seen.as_ref().map(|seen| (seen.job, seen.state, seen.job_version))
    };
    if word(live) != word(&next) {
        changed.extend(live.iter().chain(&next).map(|seen| seen.job));
    }
    let (before, after) = (live.as_ref().map(|s| s.job), next.as_ref().map(|s| s.job));
    if before != after {
        if let Some(job) = before {
            jobs.remove_live(job, im, instance);
        }
        if let Some(job) = after {
            jobs.add_live(job, im, instance);
        }
    }
    *live = next;
}

impl Seen {
    /// Knows nothing, and listens since `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { hearing_since_ms: now_ms, ..Self::default() }
    }

    /// A beat, or the answer to a report.
    pub fn beat(&mut self, beat: Beat, now_ms: u64) -> Changed {
        let mut changed = Changed::new();
        let id = beat.im.uuid;
        let Some(im) = take_in(&mut self.ims, id) else { return changed };
        if beat.im.start_time_ms < im.start_ms {
            im.heard_older(beat.im.start_time_ms);
            return changed;
        }
        if beat.im.start_time_ms > im.start_ms {
            im.begin_life(beat.im.start_time_ms);
        }
        if im.beat_seq.is_some_and(|newest| beat.seq <= newest) {
            // The same report twice still is a sign of life; an older one is not.
            if im.beat_seq == Some(beat.seq) && !im.agreed_lost() {
                im.heard_ms = Some(now_ms);
            }
            return changed;
        }
        let was_lost = im.lost();
        im.beat_seq = Some(beat.seq);
        im.heard_ms = Some(now_ms);
        im.leaving = beat.leaving;
        im.returned = im.agreed_lost() && !beat.leaving;
        im.record = Some(beat.im);
        im.settle_instances((id, beat.seq), beat.instances, &mut self.jobs, &mut changed);
        im.settle_ends((id, beat.seq), beat.ended, &mut self.jobs, &mut changed);
        if was_lost != im.lost() {
            changed.extend(im.jobs());
        }
        changed
    }

    /// A change of one instance.
    pub fn switch(&mut self, switch: Switch) -> Changed {
        let mut changed = Changed::new();
        let (id, seq, instance) = (switch.im, switch.seq, switch.instance.id);
        let Some(im) = take_in(&mut self.ims, id) else { return changed };
        if switch.start_time_ms < im.start_ms {
            return changed;
        }
        if switch.start_time_ms > im.start_ms {
            im.begin_life(switch.start_time_ms);
        }
        if im.beat_seq.is_some_and(|newest| seq <= newest) {
            return changed;
        }
        // Beyond twice the bound (the gone are kept until the next beat) the beat must repair it.
        let room = im.slots.len() < 2 * INSTANCES_PER_IM_MAX;
        if room || im.slots.contains_key(&instance) {
            let slot = im.slots.entry(instance).or_insert(Slot { seq: 0, live: None });
            if seq >= slot.seq {
                slot.seq = seq;
                let gone = switch.instance.state == InstanceState::Removed;
                let live = (!gone).then_some(switch.instance);
                change_live((id, instance), &mut slot.live, live, &mut self.jobs, &mut changed);
            }
        }
        if let Some(ended) = switch.ended {
            let room = im.ends.len() < 2 * ENDED_MAX;
            match im.ends.entry(ended.id) {
                Entry::Occupied(mut entry) if seq > entry.get().seq => {
                    if entry.get().ended != ended {
                        changed.insert(ended.job);
                        self.jobs.remove_end(id, &entry.get().ended);
                        self.jobs.add_end(id, &ended);
                    }
                    entry.insert(End { seq, ended });
                }
                Entry::Vacant(entry) if room => {
                    changed.insert(ended.job);
                    self.jobs.add_end(id, &ended);
                    entry.insert(End { seq, ended });
                }
                _ => {}
            }
        }
        changed
    }

    /// What the store says about one instance manager; none = nothing. Older words than one already taken do nothing.
    pub fn agreed(
        &mut self,
        id: ImId,
        what: Option<Agreement>,
        (version, revision): (u64, u64),
        now_ms: u64,
    ) -> Changed {
        let mut changed = Changed::new();
        let Some(im) = take_in(&mut self.ims, id) else { return changed };
        if im.agreed.as_ref().is_some_and(|known| known.revision >= revision) {
            return changed;
        }
        let was_lost = im.lost();
        if let Some(agreement) = &what {
            if agreement.start_time_ms > im.start_ms {
                im.begin_life(agreement.start_time_ms);
            }
            if im.record.is_none() {
                im.record = Some(agreement.record.clone());
            }
            if !agreement.lost {
                im.vouched_ms = Some(now_ms);
            }
            // We may have heard a later life than the one that was declared lost.
            im.returned = agreement.lost
                && im.heard_ms.is_some()
                && im.beat_seq.is_some()
                && im.start_ms > agreement.start_time_ms;
        }
        let forgotten = was_lost && what.is_none();
        im.agreed = Some(Agreed { what, version, revision });
        if forgotten {
            im.forget(id, &mut self.jobs, &mut changed);
        }
        if was_lost != im.lost() {
            changed.extend(im.jobs());
        }
        changed
    }

    /// The agreements were read as a whole at `revision`: what is not among `there` is not in the store.
    pub fn agreed_all(&mut self, there: &BTreeSet<ImId>, revision: u64, now_ms: u64) -> Changed {
        self.knows_store = true;
        let gone: Vec<_> = self.ims.keys().filter(|id| !there.contains(id)).copied().collect();
        gone.into_iter().flat_map(|id| self.agreed(id, None, (0, revision), now_ms)).collect()
    }

    /// Since when a job counts as flapping; none = it does not.
    pub fn flapping(&mut self, job: JobId, since_ms: Option<u64>) -> Changed {
        let before = match since_ms {
            Some(since) => self.flapping.insert(job, since),
            None => self.flapping.remove(&job),
        };
        if before == since_ms { Changed::new() } else { Changed::from([job]) }
    }

    /// Since when a job counts as flapping.
    #[must_use]
    pub fn flapping_since(&self, job: JobId) -> Option<u64> {
        self.flapping.get(&job).copied()
    }

    /// Jobs that count as flapping.
    pub fn flapping_jobs(&self) -> impl Iterator<Item = JobId> {
        self.flapping.keys().copied()
    }

    /// The process that began at `start_ms`, and just spoke, is older than another one of this name, and that is told now: a
    /// copy of a state directory, or a clock that went back. What it says does not count.
    #[must_use]
    pub fn shadowed(&self, id: ImId, start_ms: u64) -> bool {
        self.ims.get(&id).is_some_and(|im| im.older == (start_ms, OLDER_BEATS))
    }

    /// What is told about a lost instance manager; none = it is not lost.
    #[must_use]
    pub fn loss(&self, id: ImId) -> Option<Lost> {
        let im = self.ims.get(&id).filter(|im| im.lost())?;
        Some(Lost { im: id, start_time_ms: im.agreement()?.start_time_ms })
    }

    /// All that are lost.
    #[must_use]
    pub fn losses(&self) -> Vec<Lost> {
        self.ims.keys().filter_map(|id| self.loss(*id)).collect()
    }

    /// Whether the store should say something else about this one, as far as a glance can tell.
    #[must_use]
    pub fn needs_agreement(&self, id: ImId) -> bool {
        self.ims.get(&id).is_some_and(|im| match im.agreement() {
            None => true,
            Some(agreement) => {
                im.returned || im.leaving != agreement.lost || im.start_ms > agreement.start_time_ms
            }
        })
    }

    /// This health manager could not hear anybody: silence so far proves nothing.
    pub fn was_deaf(&mut self, now_ms: u64) {
        self.hearing_since_ms = now_ms;
    }

    /// Removes instance managers that are in no agreement and were silent for long; nobody's record knows them.
    pub fn forget_strangers(&mut self, now_ms: u64, silence_ms: u64) -> Changed {
        let Self { ims, jobs, hearing_since_ms, .. } = self;
        let mut changed = Changed::new();
        ims.retain(|id, im| {
            let since = im.heard_ms.unwrap_or(0).max(*hearing_since_ms);
            let stranger = im.agreement().is_none();
            if !stranger || now_ms.saturating_sub(since) <= silence_ms {
                return true;
            }
            im.forget(*id, jobs, &mut changed);
            false
        });
        changed
    }

    /// Whether every instance manager that is not lost was heard.
    #[must_use]
    pub fn complete(&self) -> bool {
        let settled = |im: &ImSeen| im.lost() || im.heard_ms.is_some() || im.agreement().is_none();
        self.knows_store && self.ims.values().all(settled)
    }

    /// Ends of a job, newest first.
    pub fn ends(&self, job: JobId) -> impl Iterator<Item = &Ended> {
        let ends = self.jobs.0.get(&job).into_iter().flat_map(|index| &index.ends);
        ends.filter_map(|(_, instance, im)| {
            self.ims.get(im)?.ends.get(instance).map(|end| &end.ended)
        })
    }

    /// What a job manager or API server asked for. Jobs that do not fit into one message are left out.
    #[must_use]
    pub fn view(&self, request: &ViewRequest, now_ms: u64) -> View {
        let mut view = View { complete: self.complete(), ..View::default() };
        let mut bytes = 0;
        for job in request.jobs.iter().take(VIEW_JOBS_MAX) {
            let mut seen = self.job(*job);
            let mut size = job_bytes(&seen);
            if view.jobs.is_empty() && size > VIEW_BYTES_MAX {
                // Who counts on half a list would start what runs already.
                view.complete &= slim(&mut seen);
                size = job_bytes(&seen);
            }
            if bytes + size > VIEW_BYTES_MAX {
                break;
            }
            bytes += size;
            view.jobs.insert(*job, seen);
        }
        if request.ims {
            for im in self.ims.values() {
                let Some(record) = &im.record else { continue };
                bytes += im_bytes(record);
                if bytes > VIEW_BYTES_MAX {
                    break;
                }
                let heard = im.heard_ms.unwrap_or(self.hearing_since_ms);
                let beat_age_ms = now_ms.saturating_sub(heard);
                view.ims.push(ImView { record: record.clone(), lost: im.lost(), beat_age_ms });
            }
        }
        view
    }

    fn job(&self, job: JobId) -> JobView {
        let flapping_since_ms = self.flapping_since(job);
        let instances = self.jobs.0.get(&job).into_iter().flat_map(|index| &index.live);
        let instances = instances.filter_map(|(id, instance)| {
            let im = self.ims.get(id).filter(|im| !im.lost())?;
            let host = im.record.as_ref().map(|record| record.hostname.clone()).unwrap_or_default();
            let seen = im.slots.get(instance)?.live.clone()?;
            Some(InstanceOn { im: *id, host, seen })
        });
        JobView {
            instances: instances.collect(),
            ended: self.ends(job).take(JOB_ENDED_MAX).cloned().collect(),
            flapping: flapping_since_ms.is_some(),
            flapping_since_ms,
        }
    }
}

/// The entry of an instance manager; none when there is no room for a stranger.
fn take_in(ims: &mut BTreeMap<ImId, ImSeen>, id: ImId) -> Option<&mut ImSeen> {
    if ims.len() >= IMS_MAX && !ims.contains_key(&id) {
        tracing::warn!(%id, IMS_MAX, "too many instance managers, one is not followed");
        return None;
    }
    Some(ims.entry(id).or_default())
}

// === size of a view ===

/// Bytes of an instance without what it may lack or have several of.
const INSTANCE_BYTES: usize = 360;
/// Bytes of the legs of its start.
const LEGS_BYTES: usize = 160;
/// Bytes of what it uses.
const USAGE_BYTES: usize = 112;
/// Bytes of an address.
const ADDRESS_BYTES: usize = 64;
/// Bytes of an end without its reason.
const END_BYTES: usize = 300;
/// Bytes of an instance manager without names and tags.
const IM_BYTES: usize = 640;

fn job_bytes(view: &JobView) -> usize {
    let instances = view.instances.iter().map(|on| {
        let legs = on.seen.legs.map_or(0, |_| LEGS_BYTES);
        let usage = on.seen.usage.map_or(0, |_| USAGE_BYTES);
        let addresses = ADDRESS_BYTES * on.seen.addresses.len();
        INSTANCE_BYTES + 2 * on.host.len() + addresses + legs + usage
    });
    let ended = view.ended.iter().map(|end| END_BYTES + 2 * end.reason.len());
    END_BYTES + instances.sum::<usize>() + ended.sum::<usize>()
}

fn im_bytes(record: &ImRecord) -> usize {
    let tags = record.tags.iter().chain(&record.system_tags).map(|tag| 8 + 2 * tag.len());
    let names = record.hostname.len() + record.datacenter.len() + record.address.len();
    IM_BYTES + tags.sum::<usize>() + 2 * names
}

/// Makes one huge job fit: without what nobody counts, and at last without instances. False when some were left out.
fn slim(view: &mut JobView) -> bool {
    for on in &mut view.instances {
        on.seen.addresses.clear();
        on.seen.legs = None;
        on.seen.usage = None;
    }
    view.ended.truncate(8);
    let whole = view.instances.len();
    while job_bytes(view) > VIEW_BYTES_MAX && !view.instances.is_empty() {
        let kept = view.instances.len() * 9 / 10;
        view.instances.truncate(kept);
    }
    view.instances.len() == whole
}
