//! What reaches the manager's loop: questions from the bus and what became of work.
//!
//! Deliberately absent: answers; they are in the loop's files.

use crate::driver::Stats;
use crate::life::Event;
use crate::spec::Spec;
use bus::{Bus, Delivery, Next};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wire::logs::LogRequest;
use wire::placement::{Placement, ReversePlacement, Start, Stop, Update};
use wire::routing::RouterBeat;
use wire::{ImId, InstanceId, subject};

/// Notes that wait.
pub(super) const NOTES_MAX: usize = 4_096;

/// One.
pub(super) enum Note {
    Bid(Box<Placement>, Delivery),
    ReverseBid(ReversePlacement, Delivery),
    Report(Delivery),
    Start(Box<Start>, Delivery),
    Stop(Stop, Delivery),
    Update(Box<Update>, Delivery),
    Endpoints(Delivery),
    Logs(LogRequest, Delivery),
    Router(RouterBeat),
    /// Messages were lost: tell everybody where we stand.
    Lost,
    /// The packages are there, and this is to be begun.
    Ready(InstanceId, Box<Spec>),
    /// Something happened in a life.
    Life(InstanceId, Event),
    /// The timer with this number ended.
    TimeUp(InstanceId, u64),
    /// All live routers serve it, after so many milliseconds.
    Routed(InstanceId, Option<u64>),
    Usage(Vec<(InstanceId, Stats)>),
}

type Read = fn(Delivery) -> Option<Note>;

/// Everything that an instance manager listens to, and how each is read.
pub(super) fn subjects(im: ImId) -> Vec<(String, Read)> {
    fn read<T: serde::de::DeserializeOwned>(
        delivery: Delivery,
        note: impl FnOnce(T, Delivery) -> Note,
    ) -> Option<Note> {
        match delivery.decode() {
            Ok(body) => Some(note(body, delivery)),
            Err(mistake) => {
                tracing::warn!(%mistake, "a message was dropped");
                None
            }
        }
    }
    vec![
        (subject::IM_BID.to_owned(), |d| read(d, |body, d| Note::Bid(Box::new(body), d))),
        (subject::IM_REVERSE_BID.to_owned(), |d| read(d, Note::ReverseBid)),
        (subject::IM_REPORT.to_owned(), |d| Some(Note::Report(d))),
        (subject::IM_LOGS.to_owned(), |d| read(d, Note::Logs)),
        (subject::ROUTER_BEAT.to_owned(), |d| read(d, |body, _| Note::Router(body))),
        (subject::im_start(im), |d| read(d, |body, d| Note::Start(Box::new(body), d))),
        (subject::im_stop(im), |d| read(d, Note::Stop)),
        (subject::im_update(im), |d| read(d, |body, d| Note::Update(Box::new(body), d))),
        (subject::im_endpoints_all(im), |d| Some(Note::Endpoints(d))),
    ]
}

/// Listens to one subject until told to stop; a bus that is away is tried again.
pub(super) async fn listen(
    bus: Bus,
    (name, read): (String, Read),
    notes: mpsc::Sender<Note>,
    stop: CancellationToken,
    tried: mpsc::Sender<()>,
) {
    const PAUSE_MS: std::ops::RangeInclusive<u64> = 50..=5_000;
    let mut tried = Some(tried);
    let mut pause_ms = *PAUSE_MS.start();
    while !stop.is_cancelled() {
        let subscribed = bus.subscribe(&name, None).await;
        drop(tried.take());
        match subscribed {
            Ok(mut messages) => {
                pause_ms = *PAUSE_MS.start();
                while let Some(next) = messages.next().await {
                    let note = match next {
                        Next::Message(delivery) => read(delivery),
                        Next::Lost(_) => Some(Note::Lost),
                    };
                    if let Some(note) = note
                        && notes.send(note).await.is_err()
                    {
                        return;
                    }
                }
            }
            Err(why) => tracing::warn!(subject = name, %why, "not subscribed"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
        pause_ms = (pause_ms * 2).min(*PAUSE_MS.end());
    }
}
