//! What all health managers agree about an instance manager, and what is to be written next.
//!
//! The agreement is the record `ims/<uuid>`; whoever wins its compare-and-set has spoken for all.
//!
//! ```text
//!   (nothing) ──heard──▶ here ──three beats missed, or farewell──▶ lost ──a day──▶ (nothing)
//!                         ▲                                          │
//!                         └───────────── heard again ────────────────┘
//! ```
//!
//! Pure. Deliberately absent: the store (`mod.rs` writes), and the instances (`seen.rs`).

use super::seen::{ImSeen, Seen};
use serde::{Deserialize, Serialize};
use wire::ImId;
use wire::health::{BEATS_MISSED_MAX, ImRecord};

/// Milliseconds after which a lost instance manager is forgotten.
pub const FORGET_MS: u64 = 24 * 60 * 60 * 1_000;

/// The record `ims/<uuid>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// What it said of itself when this was written.
    pub record: ImRecord,
    /// Its instances do not count.
    pub lost: bool,
    /// Start of the process that this is about.
    pub start_time_ms: u64,
    /// When this was written, milliseconds since 1970.
    #[serde(default)]
    pub since_ms: u64,
}

/// What a step says, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Silent for too long.
    Lost,
    /// Gone with a farewell. Its record says the same as that of a lost one: its instances do not count.
    Left,
    /// Heard again.
    Back,
    /// New, or a new process.
    Here,
    /// Lost for so long that its record goes.
    Forgotten,
}

/// One write: if the record still has version `expect` (0 = there is none), make it `agreement` (none = remove it).
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// About whom.
    pub im: ImId,
    /// What it says.
    pub verdict: Verdict,
    /// Version that was read.
    pub expect: u64,
    /// The record after it.
    pub agreement: Option<Agreement>,
    /// Nobody heard it, and it did not say farewell: look twice before this is written.
    pub doubtful: bool,
}

/// Silence after which an instance manager counts as lost.
#[must_use]
pub(super) fn silence_ms(beat_ms: u64) -> u64 {
    beat_ms.saturating_mul(u64::from(BEATS_MISSED_MAX))
}

/// What is to be written now, losses first. Nothing before the store was read once.
#[must_use]
pub fn due(seen: &Seen, now_ms: u64, beat_ms: u64) -> Vec<Step> {
    if !seen.knows_store {
        return Vec::new();
    }
    let step =
        |(id, im): (&ImId, &ImSeen)| due_for(*id, im, seen.hearing_since_ms, now_ms, beat_ms);
    let mut steps: Vec<_> = seen.ims.iter().filter_map(step).collect();
    steps.sort_by_key(|step| step.verdict);
    steps
}

fn due_for(
    id: ImId,
    im: &ImSeen,
    hearing_since_ms: u64,
    now_ms: u64,
    beat_ms: u64,
) -> Option<Step> {
    let record = im.record.clone()?;
    let expect = im.agreed.as_ref().map_or(0, |agreed| agreed.version);
    let write = |verdict, lost| {
        let start_time_ms = im.start_ms;
        let agreement = Agreement { record, lost, start_time_ms, since_ms: now_ms };
        let doubtful = verdict == Verdict::Lost;
        Some(Step { im: id, verdict, expect, agreement: Some(agreement), doubtful })
    };
    // Whoever wrote that it is here has heard it, also if we have not yet.
    let silent_since = im.heard_ms.max(im.vouched_ms).unwrap_or(0).max(hearing_since_ms);
    let silent = now_ms.saturating_sub(silent_since) > silence_ms(beat_ms);
    let Some(agreement) = im.agreement() else {
        // A farewell of a stranger, or one that fell silent at once, needs no record.
        return (im.heard_ms.is_some() && !silent && !im.leaving)
            .then(|| write(Verdict::Here, false))
            .flatten();
    };
    if agreement.lost {
        let forgotten = now_ms.saturating_sub(agreement.since_ms) > FORGET_MS;
        return match (im.returned, forgotten) {
            (true, _) => write(Verdict::Back, false),
            (false, true) => {
                let verdict = Verdict::Forgotten;
                Some(Step { im: id, verdict, expect, agreement: None, doubtful: false })
            }
            (false, false) => None,
        };
    }
    if im.leaving {
        return write(Verdict::Left, true);
    }
    if silent {
        return write(Verdict::Lost, true);
    }
    (im.start_ms > agreement.start_time_ms && im.heard_ms.is_some())
        .then(|| write(Verdict::Here, false))
        .flatten()
}
