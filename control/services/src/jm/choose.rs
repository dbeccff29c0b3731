//! Which instance managers get the copies, and which copies go.
//!
//! Pure. Scores decide, not the order of answers; equal scores are broken by a hash of the round and the instance
//! manager, so that many rounds at once do not all fall on the same one. Deliberately absent: the scores themselves,
//! which are the instance managers'.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use uuid::Uuid;
use wire::placement::{Offer, Surrender};
use wire::{ImId, InstanceId};

/// A score as a number that can be ordered: what is not a number is worst.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Score(f64);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Score {
    fn of(score: f64) -> Self {
        Self(if score.is_nan() { f64::INFINITY } else { score })
    }
}

/// For each of up to `count` copies the instance manager where it costs least, cheapest first. An instance manager that
/// answered twice counts once.
#[must_use]
pub fn choose(offers: &[Offer], count: u32, request: Uuid) -> Vec<ImId> {
    let mut by_im = BTreeMap::<ImId, &Offer>::new();
    for offer in offers.iter().filter(|offer| offer.request == request) {
        by_im.entry(offer.im).or_insert(offer);
    }
    // The next copy of each instance manager; when one is taken, its next one takes its place.
    let mut next = BinaryHeap::new();
    let entry = |offer: &Offer, copy: usize| {
        let score = Score::of(*offer.scores.get(copy)?);
        Some(Reverse((score, salt(offer.im, request), offer.im, copy)))
    };
    next.extend(by_im.values().filter_map(|offer| entry(offer, 0)));
    let mut chosen = Vec::new();
    while chosen.len() < count as usize
        && let Some(Reverse((_, _, im, copy))) = next.pop()
    {
        chosen.push(im);
        next.extend(by_im.get(&im).and_then(|offer| entry(offer, copy + 1)));
    }
    chosen
}

/// FNV-1a over both ids, then a mixer: ids may differ in their last byte only.
fn salt(im: ImId, request: Uuid) -> u64 {
    let bytes = request.as_bytes().iter().chain(im.0.as_bytes());
    let state = bytes.fold(0xcbf2_9ce4_8422_2325, |state: u64, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^ (state >> 33)
}

/// The score of the dearest of the `count` cheapest copies: an offer that costs more would change nothing. None = there
/// are not enough.
#[must_use]
pub fn dearest(offers: &[Offer], count: u32, request: Uuid) -> Option<f64> {
    let offers = offers.iter().filter(|offer| offer.request == request);
    let mut scores: Vec<_> =
        offers.flat_map(|offer| offer.scores.iter().map(|score| Score::of(*score))).collect();
    scores.sort_unstable();
    scores.get((count as usize).checked_sub(1)?).map(|score| score.0)
}

/// The copies that go: at most `count`, and never so many that fewer than `keep` of those that answered are left: what
/// made us ask may be older than the answers. Old versions go first, then those that do not serve, then those that go
/// most gladly. `known` tells version and whether it serves.
#[must_use]
pub fn surrender(
    answers: &[Surrender],
    (count, keep): (u32, u32),
    request: Uuid,
    known: impl Fn(InstanceId) -> Option<(u64, bool)>,
) -> Vec<(ImId, InstanceId)> {
    let mut copies = BTreeMap::<InstanceId, (Score, ImId)>::new();
    for answer in answers.iter().filter(|answer| answer.request == request) {
        for (instance, score) in &answer.copies {
            copies.insert(*instance, (Score::of(*score), answer.im));
        }
    }
    let surplus = copies.len().saturating_sub(keep as usize).min(count as usize);
    let rank = |instance| known(instance).unwrap_or((u64::MAX, false));
    let mut order: Vec<_> = copies
        .into_iter()
        .map(|(instance, (score, im))| (rank(instance), Reverse(score), instance, im))
        .collect();
    order.sort_unstable();
    order.truncate(surplus);
    order.into_iter().map(|(_, _, instance, im)| (im, instance)).collect()
}
