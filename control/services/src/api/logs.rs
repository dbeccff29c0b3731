//! Logs of a job: the newest lines that all instance managers have, then, if asked for, lines as they come.
//!
//! ```text
//!   subscribe ──▶ fetch pages ──▶ show, in order ──▶ live line ──▶ its number follows ──▶ show
//!                     ▲                                  │ its number jumps, or the queue was too short
//!                     └──────────────────────────────────┘ fetch again, show what is new
//! ```
//!
//! Subscribing comes first, so that no line falls between pages and live lines; numbers sort out those that are in both.
//! Deliberately absent: keeping lines; the instance managers and the health manager do that.

mod merge;

use super::jobs::read;
use super::received::{At, Params};
use super::respond::{Answer, Failure};
use super::seats::Seat;
use super::state::Shared;
use super::stream::{self, BEAT};
use crate::authorize::{Action, Principal, authorize};
use crate::jobs::JOB_HEALTH;
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use bus::{Next, Subscription, Until};
use futures_util::stream::unfold;
use merge::Merge;
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::Instant;
use wire::logs::{LINES_DEFAULT, LogLine, LogPage, LogRequest, LogStream, RING_LINES_MAX};
use wire::{ApiError, ErrorCode, JobId, subject};

/// Time for instance managers to send their pages; those without a line do not answer at all.
const PAGES_WAIT: Duration = Duration::from_millis(500);
/// Instance managers that may answer.
const PAGES_MAX: usize = 4_096;
/// Between two questions for pages because of a jump.
const REFETCH_PAUSE: Duration = Duration::from_millis(250);

/// Which lines.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogParams {
    /// The newest so many, at most 1500.
    lines: Option<usize>,
    /// Whether to go on with lines as they come.
    #[serde(default)]
    follow: bool,
}

/// Lines of a job, one JSON object a line. While following, an empty line is a sign of life.
#[utoipa::path(get, path = "/jobs/{uuid}/logs", tag = "jobs", params(("uuid" = uuid::Uuid, Path), LogParams),
    responses((status = 200, content_type = "application/x-ndjson", body = LogLine), (status = 404, body = ApiError)))]
pub(super) async fn get(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<JobId>,
    Params(params): Params<LogParams>,
) -> Answer {
    let job = read(&api, id).await?;
    authorize(&who, Action::Read, &job.fqn)?;
    let lines = params.lines.unwrap_or(LINES_DEFAULT);
    if lines > RING_LINES_MAX {
        let message = format!("{lines} lines are asked for, {RING_LINES_MAX} are kept");
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    if !params.follow {
        let first = merge::newest(fetch(&api, id, lines).await?, lines);
        return Ok(stream::whole_ndjson(&first));
    }
    let seat = api.seats.take(&who)?;
    let live = api.bus.subscribe(&subject::log_all(id), None).await?;
    let all = fetch(&api, id, RING_LINES_MAX).await?;
    let merge = Merge::beginning_with(&merge::newest(all.clone(), usize::MAX));
    let first = merge::newest(all, lines);
    Ok(follow(api, id, live, merge, first, seat))
}

/// Pages of all instance managers, and the platform's notes.
async fn fetch(api: &Shared, job: JobId, lines: usize) -> Result<Vec<LogLine>, Failure> {
    let known = match api.store.list("ims/", None, store::LIST_LIMIT_MAX).await {
        Ok(ims) => ims.records.len(),
        Err(error) => return Err(error.into()),
    };
    let mut all = notes(api, job).await?;
    if lines == 0 {
        return Ok(all);
    }
    let count = if known == 0 { PAGES_MAX } else { known };
    let until = Until { count, deadline: PAGES_WAIT };
    match api.bus.gather(subject::IM_LOGS, &LogRequest { job, lines }, until).await {
        Ok::<Vec<LogPage>, _>(pages) => all.extend(pages.into_iter().flat_map(|page| page.lines)),
        Err(bus::BusError::NoResponders { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(all)
}

/// What the health manager noted about a job.
#[derive(Deserialize)]
struct Health {
    #[serde(default)]
    notes: Vec<Note>,
}

#[derive(Deserialize)]
struct Note {
    seq: u64,
    at_ms: u64,
    text: String,
}

async fn notes(api: &Shared, job: JobId) -> Result<Vec<LogLine>, Failure> {
    let health = api.read::<Health>(&format!("{JOB_HEALTH}{job}")).await?;
    let notes = health.map(|(health, _)| health.notes).unwrap_or_default();
    let line = |note: Note| LogLine {
        job,
        instance: None,
        stream: LogStream::SystemError,
        seq: note.seq,
        at_ms: note.at_ms,
        text: note.text,
    };
    Ok(notes.into_iter().map(line).collect())
}

/// A follower between two lines.
struct Follower {
    api: Shared,
    job: JobId,
    live: Subscription,
    merge: Merge,
    /// Ready to be sent.
    out: Vec<LogLine>,
    /// Pages must be asked for, not before then.
    refetch: Option<Instant>,
    _seat: Seat,
}

fn follow(
    api: Shared,
    job: JobId,
    live: Subscription,
    merge: Merge,
    first: Vec<LogLine>,
    seat: Seat,
) -> Response {
    let stop = api.stop.clone();
    let follower = Follower { api, job, live, merge, out: first, refetch: None, _seat: seat };
    let lines = unfold(follower, move |mut follower| {
        let stop = stop.clone();
        async move {
            let bytes = stop.run_until_cancelled(follower.next()).await??;
            Some((Ok::<_, Infallible>(bytes), follower))
        }
    });
    stream::ndjson(lines)
}

impl Follower {
    /// The next bytes; none when the bus is closed.
    async fn next(&mut self) -> Option<Bytes> {
        let alive = Instant::now() + BEAT;
        loop {
            if !self.out.is_empty() {
                return Some(stream::lines(&std::mem::take(&mut self.out)));
            }
            let look = self.refetch.map_or(alive, |at| at.min(alive));
            match tokio::time::timeout_at(look, self.live.next()).await {
                Ok(Some(Next::Message(message))) => {
                    if let Ok(line) = message.decode::<LogLine>() {
                        self.take(line);
                    }
                }
                Ok(Some(Next::Lost(_))) => self.look_again(),
                Ok(None) => return None,
                Err(_) if self.refetch.is_some_and(|at| at <= Instant::now()) => {
                    self.fetch_again().await;
                }
                Err(_) => return Some(Bytes::from_static(b"\n")),
            }
        }
    }

    fn take(&mut self, line: LogLine) {
        if self.merge.take(line, &mut self.out) {
            self.look_again();
        }
    }

    fn look_again(&mut self) {
        self.refetch.get_or_insert_with(Instant::now);
    }

    /// Shows what was missed, as far as anybody still has it.
    async fn fetch_again(&mut self) {
        match fetch(&self.api, self.job, RING_LINES_MAX).await {
            Ok(lines) => self.merge.repair(lines, &mut self.out),
            Err(Failure(error)) => tracing::debug!(error = error.message, "a gap stays"),
        }
        self.refetch = None;
        if self.merge.waits() {
            // Whatever came while fetching made a new jump: not more often than this.
            self.refetch = Some(Instant::now() + REFETCH_PAUSE);
        }
    }
}
