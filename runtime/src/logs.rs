//! The log keeper: follows what instances write, publishes each line, keeps the newest of each job.
//!
//! One task. It is woken by the driver when something was written, and looks everywhere from time to time. A line has
//! its number from where it was cut, so that after a restart the ring is read anew and only lines that were not yet
//! published are published. Deliberately absent: files; reading them is the driver's.

use crate::driver::{Batch, Driver, Position};
use crate::keep::{Keep, Published};
use crate::record::Record;
use crate::ring::Ring;
use bus::{Bus, Delivery};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use wire::logs::{LogLine, LogPage, LogRequest, LogStream, RING_LINES_MAX};
use wire::{ImId, InstanceId, JobId, subject};

/// Wishes that wait.
const WISHES_MAX: usize = 1_024;
/// Rings that are kept; of more jobs, those go that were silent longest.
const RINGS_MAX: usize = 1_024;
/// Everywhere is looked this often, whatever the driver tells.
const SWEEP: Duration = Duration::from_secs(2);
/// Batches that are read of one instance before others have their turn.
const TURN_BATCHES_MAX: usize = 4;
/// Batches that are read at the end of an instance: more than two segments hold.
const LAST_BATCHES_MAX: usize = 64;

enum Wish {
    Follow(InstanceId, JobId),
    Finish(InstanceId, oneshot::Sender<()>),
    Note(LogLine),
    Page(LogRequest, Box<Delivery>),
}

/// The way to the keeper.
#[derive(Clone)]
pub struct Logs(mpsc::Sender<Wish>);

impl Logs {
    /// This instance writes now; also one that was found again.
    pub async fn follow(&self, instance: InstanceId, job: JobId) {
        self.0.send(Wish::Follow(instance, job)).await.ok();
    }

    /// It has written its last line; returns when that is published.
    pub async fn finish(&self, instance: InstanceId) {
        let (done, wait) = oneshot::channel();
        if self.0.send(Wish::Finish(instance, done)).await.is_ok() {
            wait.await.ok();
        }
    }

    /// A note of the platform about an instance. Dropped when the keeper is far behind.
    pub fn note(&self, line: LogLine) {
        self.0.try_send(Wish::Note(line)).ok();
    }

    /// Answers a question for lines. Dropped when the keeper is far behind; the asker has its time-out.
    pub fn page(&self, request: LogRequest, delivery: Delivery) {
        self.0.try_send(Wish::Page(request, Box::new(delivery))).ok();
    }
}

const fn place(stream: LogStream) -> usize {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::SystemError => 2,
    }
}

struct Followed {
    job: JobId,
    position: Position,
    published: Published,
}

/// The keeper's own.
pub struct Keeper {
    im: ImId,
    bus: Bus,
    driver: Arc<dyn Driver>,
    keep: Option<Arc<Keep>>,
    followed: BTreeMap<InstanceId, Followed>,
    rings: BTreeMap<JobId, Ring>,
    wishes: mpsc::Receiver<Wish>,
}

impl Keeper {
    /// A keeper and the way to it.
    pub fn new(
        im: ImId,
        bus: Bus,
        driver: Arc<dyn Driver>,
        keep: Option<Arc<Keep>>,
    ) -> (Self, Logs) {
        let (tell, wishes) = mpsc::channel(WISHES_MAX);
        let (followed, rings) = (BTreeMap::new(), BTreeMap::new());
        (Self { im, bus, driver, keep, followed, rings, wishes }, Logs(tell))
    }

    /// Until nobody has a way to it any more.
    pub async fn run(mut self) {
        let driver = Arc::clone(&self.driver);
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut again: Vec<InstanceId> = Vec::new();
        loop {
            let writers = tokio::select! {
                biased;
                wish = self.wishes.recv() => match wish {
                    Some(wish) => { self.fulfil(wish).await; continue }
                    None => return,
                },
                () = std::future::ready(()), if !again.is_empty() => std::mem::take(&mut again),
                writers = driver.written() => writers,
                _ = sweep.tick() => self.followed.keys().copied().collect(),
            };
            for writer in writers {
                if self.read(writer, TURN_BATCHES_MAX).await {
                    again.push(writer);
                }
            }
        }
    }

    async fn fulfil(&mut self, wish: Wish) {
        match wish {
            Wish::Follow(instance, job) => {
                let published = self
                    .keep
                    .as_ref()
                    .map_or_else(Published::default, |keep| keep.published(instance));
                let position = Position::default();
                self.followed.entry(instance).or_insert(Followed { job, position, published });
                self.read(instance, TURN_BATCHES_MAX).await;
            }
            Wish::Finish(instance, done) => {
                self.read(instance, LAST_BATCHES_MAX).await;
                self.followed.remove(&instance);
                done.send(()).ok();
            }
            Wish::Note(line) => self.note(line).await,
            Wish::Page(request, delivery) => {
                let ring = self.rings.get(&request.job);
                let lines = ring
                    .map_or_else(Vec::new, |ring| ring.newest(request.lines.min(RING_LINES_MAX)));
                if !lines.is_empty() {
                    delivery.reply(&LogPage { im: self.im, lines }).await.ok();
                }
            }
        }
    }

    /// A note about an instance comes after its lines and continues the numbers of the notes among them.
    async fn note(&mut self, mut line: LogLine) {
        if let Some(instance) = line.instance {
            self.read(instance, LAST_BATCHES_MAX).await;
            if let Some(followed) = self.followed.get_mut(&instance) {
                let last = &mut followed.published[place(line.stream)];
                *last += 1;
                line.seq = *last;
            }
        }
        self.publish(line).await;
    }

    /// Reads on; true when there is more than its turn.
    async fn read(&mut self, instance: InstanceId, batches_max: usize) -> bool {
        for _ in 0..batches_max {
            let Some(followed) = self.followed.get_mut(&instance) else { return false };
            let batch: Batch = self.driver.logs(instance, followed.position).await;
            let stuck = batch.position == followed.position;
            followed.position = batch.position;
            let (job, before) = (followed.job, followed.published);
            let mut published = before;
            for record in batch.records {
                self.line(instance, job, record, &mut published).await;
            }
            if published != before {
                if let Some(followed) = self.followed.get_mut(&instance) {
                    followed.published = published;
                }
                let kept = self.keep.as_ref().map(|keep| keep.put_published(instance, published));
                if let Some(Err(why)) = kept {
                    tracing::warn!(%instance, %why, "log position not kept");
                }
            }
            if !batch.more || stuck {
                return false;
            }
        }
        true
    }

    async fn line(
        &mut self,
        instance: InstanceId,
        job: JobId,
        record: Record,
        published: &mut Published,
    ) {
        let Record { stream, seq, at_ms, text } = record;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = LogLine { job, instance: Some(instance), stream, seq, at_ms, text };
        let last = &mut published[place(stream)];
        if seq > *last {
            *last = seq;
            self.publish(line).await;
        } else {
            self.keep_line(line);
        }
    }

    async fn publish(&mut self, line: LogLine) {
        if let Some(instance) = line.instance {
            let channel = subject::log(line.job, instance, line.stream);
            if let Err(why) = self.bus.publish(&channel, &line).await {
                tracing::debug!(%why, "a log line was not published");
            }
        }
        self.keep_line(line);
    }

    fn keep_line(&mut self, line: LogLine) {
        if !self.rings.contains_key(&line.job) && self.rings.len() >= RINGS_MAX {
            let living: Vec<JobId> = self.followed.values().map(|one| one.job).collect();
            let silent = self.rings.iter().filter(|(job, _)| !living.contains(job));
            let oldest = silent.min_by_key(|(_, ring)| ring.newest_at_ms()).map(|(job, _)| *job);
            let Some(oldest) = oldest else { return };
            self.rings.remove(&oldest);
        }
        self.rings.entry(line.job).or_default().push(line);
    }
}
