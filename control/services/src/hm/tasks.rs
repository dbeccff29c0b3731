//! The dull loops of a health manager: hear, ask, look, answer, agree, judge.
//!
//! Deliberately absent: decisions. They are in `seen.rs`, `agreement.rs` and `flapping.rs`.

use super::agreement::{Agreement, Step, Verdict, due, silence_ms};
use super::{Changed, Hm, flapping, lock, notes};
use crate::follow::{Told, follow};
use bus::{BusError, Delivery, Next, Until};
use futures_util::StreamExt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use store::{Change, Expect, Record, StoreError, Write};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use wire::health::{Beat, Look, Switch, View, ViewRequest};
use wire::{ImId, Job, JobId, subject};

/// Changes of this long are told together.
const LOOK_WAIT: Duration = Duration::from_millis(5);
/// Jobs in one [`Look`].
const LOOK_JOBS_MAX: usize = 1_000;
/// Writes of agreements under way at once.
const WRITES_AT_ONCE: usize = 8;
/// Before this, only a health manager that has heard everybody answers.
const ANSWER_ANYWAY: Duration = Duration::from_secs(1);
/// How long answers to a report may take.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);
/// Waits after a failure of bus or store, doubling.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Between sweeps of notes whose job is gone.
const SWEEP_PERIOD: Duration = Duration::from_secs(600);
/// Keys of agreements.
const IMS: &str = "ims/";
/// Keys of jobs.
const JOBS: &str = "jobs/";
/// Beats for which a job that flaps is held longer than it would be caught anew.
const SLACK_BEATS: u64 = 2;

/// Starts all loops; each ends when `stop` says so.
pub(super) fn spawn(tasks: &mut JoinSet<()>, hm: &Arc<Hm>, stop: &CancellationToken) {
    macro_rules! run {
        ($($task:ident),*) => {$({
            let (hm, stop) = (Arc::clone(hm), stop.clone());
            tasks.spawn(async move { stop.run_until_cancelled(hm.$task()).await; });
        })*};
    }
    run!(
        listen,
        report,
        look,
        answer,
        agree,
        judge,
        repeat_losses,
        follow_ims,
        follow_notes,
        sweep
    );
}

impl Hm {
    // === hearing ===

    /// Takes beats and switches in, for ever.
    async fn listen(&self) {
        let mut wait = WAIT_MIN;
        loop {
            match self.listen_once().await {
                Ok(()) => wait = WAIT_MIN,
                Err(mistake) => tracing::warn!(%mistake, "heartbeats cannot be heard"),
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// Until the bus is closed.
    async fn listen_once(&self) -> Result<(), BusError> {
        let mut beats = self.bus.subscribe(subject::IM_BEAT, None).await?;
        let mut switches = self.bus.subscribe(subject::IM_SWITCH, None).await?;
        self.hears_again();
        loop {
            let next = tokio::select! {
                biased;
                next = beats.next() => next,
                next = switches.next() => next,
            };
            match next {
                Some(Next::Message(message)) if message.subject == subject::IM_BEAT => {
                    self.hear_beat(&message);
                }
                Some(Next::Message(message)) => match message.decode::<Switch>() {
                    Ok(switch) => self.apply(|seen| seen.switch(switch)),
                    Err(mistake) => tracing::warn!(%mistake, "a switch was dropped"),
                },
                // The connection was away: silence was ours.
                Some(Next::Lost(0)) => self.hears_again(),
                Some(Next::Lost(_)) => self.report.notify_one(),
                None => return Ok(()),
            }
        }
    }

    fn hear_beat(&self, message: &Delivery) {
        match message.decode::<Beat>() {
            Ok(beat) => {
                let now_ms = self.now_ms();
                let (id, start_ms) = (beat.im.uuid, beat.im.start_time_ms);
                let host = beat.im.hostname.clone();
                self.apply(|seen| seen.beat(beat, now_ms));
                if self.seen().shadowed(id, start_ms) {
                    tracing::warn!(
                        im = %id,
                        older = host,
                        "two processes speak as one instance manager, and the older one is not listened to; try: if a \
                         state directory was copied, remove im.id from the copy and restart both"
                    );
                }
                if self.seen().needs_agreement(id) {
                    self.agree.notify_one();
                }
            }
            Err(mistake) => tracing::warn!(%mistake, "a beat was dropped"),
        }
    }

    fn hears_again(&self) {
        let now_ms = self.now_ms();
        self.seen().was_deaf(now_ms);
        self.report.notify_one();
    }

    /// Asks everybody for everything, whenever something may have been missed.
    async fn report(&self) {
        let mut wait = WAIT_MIN;
        loop {
            self.report.notified().await;
            if let Err(mistake) = self.ask_everybody(REPORT_DEADLINE).await {
                tracing::warn!(%mistake, "instance managers could not be asked");
                sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
                self.report.notify_one();
            } else {
                wait = WAIT_MIN;
            }
        }
    }

    async fn ask_everybody(&self, deadline: Duration) -> Result<(), BusError> {
        let until = Until { count: super::IMS_MAX, deadline };
        let mut replies = self.bus.request_many(subject::IM_REPORT, &(), until).await?;
        while let Some(reply) = replies.next().await {
            self.hear_beat(&reply);
        }
        Ok(())
    }

    // === telling ===

    /// Tells which jobs changed, many at a time.
    async fn look(&self) {
        let mut wait = WAIT_MIN;
        loop {
            self.look.notified().await;
            sleep(LOOK_WAIT).await;
            let jobs: Vec<JobId> = std::mem::take(&mut *lock(&self.to_look)).into_iter().collect();
            for jobs in jobs.chunks(LOOK_JOBS_MAX) {
                let look = Look { jobs: jobs.to_vec() };
                match self.bus.publish(subject::HM_LOOK, &look).await {
                    Ok(()) => wait = WAIT_MIN,
                    Err(mistake) => {
                        tracing::warn!(%mistake, "nobody could be told to look");
                        lock(&self.to_look).extend(look.jobs);
                        self.look.notify_one();
                        sleep(wait).await;
                        wait = (wait * 2).min(WAIT_MAX);
                    }
                }
            }
        }
    }

    /// Answers questions, one of the group: first those who know everything.
    async fn answer(&self) {
        let mut complete = self.complete.subscribe();
        let heard = timeout(ANSWER_ANYWAY, complete.wait_for(|complete| *complete)).await.is_ok();
        tracing::debug!(heard, "health manager answers");
        let mut wait = WAIT_MIN;
        loop {
            let group = Some(subject::HM_GROUP);
            match self.bus.subscribe(subject::HM_VIEW, group).await {
                Ok(mut questions) => {
                    wait = WAIT_MIN;
                    self.answers.send_replace(true);
                    while let Some(next) = questions.next().await {
                        if let Next::Message(message) = next {
                            self.answer_one(&message).await;
                        }
                    }
                    self.answers.send_replace(false);
                }
                Err(mistake) => tracing::warn!(%mistake, "questions cannot be heard"),
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    async fn answer_one(&self, message: &Delivery) {
        let view = match message.decode::<ViewRequest>() {
            Ok(request) => self.seen().view(&request, self.now_ms()),
            Err(mistake) => return tracing::warn!(%mistake, "a question was dropped"),
        };
        if let Err(mistake) = message.reply(&view).await {
            tracing::warn!(%mistake, "an answer was not sent");
        }
    }

    /// Says again and again who is lost: a router may have missed it.
    async fn repeat_losses(&self) {
        let mut tick = interval(Duration::from_millis(self.beat_ms));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => {}
                () = self.losses.notified() => {}
            }
            let losses = self.seen().losses();
            for lost in losses {
                if let Err(mistake) = self.bus.publish(subject::HM_LOST, &lost).await {
                    tracing::warn!(im = %lost.im, %mistake, "a loss was not told");
                }
            }
        }
    }

    // === agreeing ===

    /// Writes what is due about instance managers.
    async fn agree(&self) {
        // A tenth of a beat: a loss is noticed that soon after the third beat is missed.
        let mut tick = interval(Duration::from_millis((self.beat_ms / 10).max(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_ms = self.now_ms();
        let mut wait = WAIT_MIN;
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => {}
                () = self.agree.notified() => {}
            }
            let now_ms = self.now_ms();
            // This process slept (or waited for the store): what it did not hear meanwhile is in its queues.
            if now_ms.saturating_sub(last_ms) > self.beat_ms {
                self.hears_again();
            }
            if self.agree_once(now_ms).await {
                wait = WAIT_MIN;
            } else {
                sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
            last_ms = self.now_ms();
        }
    }

    /// False when the store did not take something.
    async fn agree_once(&self, now_ms: u64) -> bool {
        self.apply(|seen| seen.forget_strangers(now_ms, silence_ms(self.beat_ms)));
        let mut steps = due(&self.seen(), now_ms, self.beat_ms);
        if steps.iter().any(|step| step.doubtful) {
            if let Err(mistake) = self.look_twice().await {
                tracing::warn!(%mistake, "nobody is declared lost by one who cannot hear");
                self.seen().was_deaf(self.now_ms());
            }
            steps = due(&self.seen(), self.now_ms(), self.beat_ms);
        }
        let writes = steps.into_iter().map(|step| self.write(step));
        let mut done = futures_util::stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
        let mut well = true;
        while let Some(taken) = done.next().await {
            well &= taken;
        }
        well
    }

    /// Asks the silent once more, and makes sure that this health manager hears at all: a question to its own group
    /// must come back.
    async fn look_twice(&self) -> Result<(), BusError> {
        let deadline = Duration::from_millis((self.beat_ms / 10).max(1));
        self.ask_everybody(deadline).await?;
        let nothing = ViewRequest::default();
        self.bus.request::<_, View>(subject::HM_VIEW, &nothing, deadline * 2).await.map(drop)
    }

    async fn write(&self, step: Step) -> bool {
        let key = format!("{IMS}{}", step.im);
        let expect = if step.expect == 0 { Expect::Absent } else { Expect::Version(step.expect) };
        let write = match &step.agreement {
            Some(agreement) => {
                let value = serde_json::to_vec(agreement).expect("an agreement is plain JSON");
                Write::Put { key, value: value.into(), expect }
            }
            None => Write::Delete { key, expect },
        };
        match self.store.commit(&[write]).await {
            Ok(revision) => {
                match step.verdict {
                    Verdict::Lost => tracing::warn!(im = %step.im, "instance manager lost"),
                    Verdict::Left => tracing::info!(im = %step.im, "instance manager leaves"),
                    verdict => tracing::info!(im = %step.im, ?verdict, "instance manager"),
                }
                let version = if step.agreement.is_some() { step.expect + 1 } else { 0 };
                self.agreed(step.im, step.agreement, (version, revision));
                true
            }
            // Another health manager was faster; the watch tells what it said.
            Err(StoreError::Conflict { .. }) => true,
            Err(mistake) => {
                tracing::warn!(im = %step.im, %mistake, "an agreement was not written");
                false
            }
        }
    }

    fn agreed(&self, im: ImId, what: Option<Agreement>, place: (u64, u64)) {
        let before = self.seen().loss(im);
        let now_ms = self.now_ms();
        self.apply(|seen| seen.agreed(im, what, place, now_ms));
        if self.seen().loss(im).is_some_and(|lost| before.as_ref() != Some(&lost)) {
            self.losses.notify_one();
        }
    }

    /// Keeps up with what other health managers wrote.
    async fn follow_ims(&self) {
        let told = |told| match told {
            Told::All(records, revision) => {
                let there = records.iter().filter_map(|record| id_of(IMS, &record.key)).collect();
                for record in records {
                    self.agreed_record(record);
                }
                let now_ms = self.now_ms();
                self.apply(|seen| seen.agreed_all(&there, revision, now_ms));
                self.agree.notify_one();
            }
            Told::Change(Change { record: Some(record), .. }) => self.agreed_record(record),
            Told::Change(Change { key, revision, record: None }) => {
                if let Some(im) = id_of(IMS, &key) {
                    self.agreed(im, None, (0, revision));
                }
            }
        };
        self.follow(IMS, told).await;
    }

    fn agreed_record(&self, record: Record) {
        let Some(im) = id_of(IMS, &record.key) else { return };
        match serde_json::from_slice(&record.value) {
            Ok(what) => self.agreed(im, Some(what), (record.version, record.revision)),
            Err(mistake) => {
                tracing::warn!(key = record.key, %mistake, "an agreement was not understood");
            }
        }
    }

    // === judging ===

    /// Judges jobs that failed, and again and again those that flap.
    async fn judge(&self) {
        let mut tick = interval(Duration::from_millis(self.beat_ms));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wait = WAIT_MIN;
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => lock(&self.to_judge).extend(self.seen().flapping_jobs()),
                () = self.judge.notified() => {}
            }
            let mut jobs = std::mem::take(&mut *lock(&self.to_judge));
            while let Some(job) = jobs.pop_first() {
                let Err(mistake) = self.judge_one(job).await else {
                    wait = WAIT_MIN;
                    continue;
                };
                tracing::warn!(%job, %mistake, "a job that failed was not judged");
                // The store is likely to refuse the others as well: all wait together.
                lock(&self.to_judge).extend(jobs.into_iter().chain([job]));
                self.judge.notify_one();
                sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
                break;
            }
        }
    }

    async fn judge_one(&self, id: JobId) -> Result<(), StoreError> {
        let Some(record) = self.store.get(&format!("{JOBS}{id}")).await? else { return Ok(()) };
        let job: Job = match serde_json::from_slice(&record.value) {
            Ok(job) => job,
            Err(mistake) => {
                tracing::warn!(%id, %mistake, "a job was not understood");
                return Ok(());
            }
        };
        let now_ms = self.now_ms();
        let slack_ms = SLACK_BEATS * self.beat_ms;
        let verdict = flapping::judge(&self.seen(), &job, id, now_ms, slack_ms);
        let Some(verdict) = verdict else { return Ok(()) };
        let changed = notes::change(&self.store, &self.bus, id, |notes| match verdict {
            flapping::Verdict::Flaps { failures } => {
                let news = notes.flapping_since_ms.is_none();
                if news {
                    notes.flapping_since_ms = Some(now_ms);
                    notes.push(now_ms, flapping::line(&job, failures));
                }
                news
            }
            flapping::Verdict::Calm => notes.flapping_since_ms.take().is_some(),
        });
        if let Some((notes, _)) = changed.await? {
            self.apply(|seen| seen.flapping(id, notes.flapping_since_ms));
        }
        Ok(())
    }

    /// Keeps up with what is agreed about jobs.
    async fn follow_notes(&self) {
        let told = |told| match told {
            Told::All(records, _) => {
                let mut gone: Changed = self.seen().flapping_jobs().collect();
                for record in records {
                    if let Some(job) = id_of::<JobId>(notes::PREFIX, &record.key) {
                        gone.remove(&job);
                        let since_ms = notes::parse(&record.value).flapping_since_ms;
                        self.apply(|seen| seen.flapping(job, since_ms));
                    }
                }
                for job in gone {
                    self.apply(|seen| seen.flapping(job, None));
                }
            }
            Told::Change(Change { key, record, .. }) => {
                if let Some(job) = id_of::<JobId>(notes::PREFIX, &key) {
                    let notes = record.map(|record| notes::parse(&record.value));
                    let since_ms = notes.and_then(|notes| notes.flapping_since_ms);
                    self.apply(|seen| seen.flapping(job, since_ms));
                }
            }
        };
        self.follow(notes::PREFIX, told).await;
    }

    /// Tells `told` of everything under a prefix of the store, for ever.
    async fn follow(&self, prefix: &'static str, told: impl Fn(Told)) {
        let mut following = JoinSet::new();
        let mut news = follow(&mut following, &self.store, prefix);
        while let Some(one) = news.recv().await {
            told(one);
        }
    }

    /// Removes notes whose job is gone.
    async fn sweep(&self) {
        loop {
            sleep(SWEEP_PERIOD).await;
            if let Err(mistake) = self.sweep_once().await {
                tracing::warn!(%mistake, "notes of removed jobs were not swept");
            }
        }
    }

    async fn sweep_once(&self) -> Result<(), StoreError> {
        for record in self.store.all(notes::PREFIX).await?.0 {
            let Some(job) = id_of::<JobId>(notes::PREFIX, &record.key) else { continue };
            let of_job = format!("{JOBS}{job}");
            if self.store.get(&of_job).await?.is_some() {
                continue;
            }
            let expect = Expect::Version(record.version);
            let writes = [
                Write::Check { key: of_job, expect: Expect::Absent },
                Write::Delete { key: record.key, expect },
            ];
            match self.store.commit(&writes).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(mistake) => return Err(mistake),
            }
        }
        Ok(())
    }
}

/// The identity in a key, if it is one.
fn id_of<T: FromStr>(prefix: &str, key: &str) -> Option<T> {
    key.strip_prefix(prefix)?.parse().ok()
}
