//! Why nobody offers to run a job: a guess for the user, from what instance managers say about themselves.
//!
//! Pure. An instance manager that cannot run a job keeps silent, so the reason is worked out here a second time; it is
//! told, never acted upon. Deliberately absent: the scores.

use wire::Job;
use wire::health::{ImRecord, ImView};
use wire::job::Resources;

/// Tags as a placement carries them: `ssd` must (or should) be there, `!ssd` must not.
#[must_use]
pub fn tags(wished: &std::collections::BTreeMap<String, bool>) -> Vec<String> {
    let text = |(tag, wanted): (&String, &bool)| match (tag.strip_prefix('!'), wanted) {
        (None, true) => tag.clone(),
        (None, false) => format!("!{tag}"),
        (Some(_), true) => tag.clone(),
        (Some(bare), false) => bare.to_owned(),
    };
    wished.iter().map(text).collect()
}

fn has(im: &ImRecord, tag: &str) -> bool {
    im.tags.iter().chain(&im.system_tags).any(|own| own == tag)
}

/// One sentence without a full stop.
#[must_use]
pub fn nobody_offers(job: &Job, ims: &[ImView]) -> String {
    let alive: Vec<_> = ims.iter().filter(|im| !im.lost).map(|im| &im.record).collect();
    if alive.is_empty() {
        return "there is no instance manager".to_owned();
    }
    let wished = tags(&job.hard_scheduling_tags);
    for tag in &wished {
        match tag.strip_prefix('!') {
            None if !alive.iter().any(|im| has(im, tag)) => {
                return format!("no instance manager has the tag \"{tag}\"");
            }
            Some(bare) if alive.iter().all(|im| has(im, bare)) => {
                return format!("every instance manager has the tag \"{bare}\"");
            }
            _ => {}
        }
    }
    let fits = alive.iter().filter(|im| {
        wished.iter().all(|tag| match tag.strip_prefix('!') {
            None => has(im, tag),
            Some(bare) => !has(im, bare),
        })
    });
    let fits: Vec<_> = fits.collect();
    if fits.is_empty() {
        return format!("no instance manager has all of the tags {}", wished.join(", "));
    }
    let left = |pick: fn(&Resources) -> u64| {
        let free = fits
            .iter()
            .map(|im| pick(&im.resources_total).saturating_sub(pick(&im.resources_provisioned)));
        free.max().unwrap_or(0)
    };
    let needs = [
        ("memory", job.resources.memory, left(|r| r.memory)),
        ("disk", job.resources.disk, left(|r| r.disk)),
        ("cpu", job.resources.cpu, left(|r| r.cpu)),
        ("network", job.resources.network, left(|r| r.network)),
    ];
    for (what, wanted, free) in needs {
        if wanted > free {
            return format!("no instance manager has {wanted} of {what} left, the most is {free}");
        }
    }
    "no instance manager that could run it made an offer".to_owned()
}
