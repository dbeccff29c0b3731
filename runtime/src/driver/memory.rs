//! Instances that are only remembered: for tests, simulation and the bench. Time is Tokio's, so it may be virtual.
//!
//! The start command is a script of words: `listen` after milliseconds (`listen 20`), `deaf` (never listens),
//! `exit 3` or `exit 3 50` (after 50 ms), `stubborn` (only KILL ends it), `fail` (cannot be started), `say text` (one
//! line on standard output; the rest of the script is its text). Without words it listens at once and ends on TERM.
//! What is here survives the instance manager that began it, as processes do. Deliberately absent: files.

use super::{Batch, Driver, DriverError, Found, Position, Signal, Stats};
use crate::life::Exit;
use crate::record::Record;
use crate::spec::{Command, Spec};
use async_trait::async_trait;
use bus::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use wire::InstanceId;
use wire::logs::LogStream;

/// Lines that one instance keeps.
const LINES_MAX: usize = 4_096;
/// Status of a process that TERM ended.
const TERMED: i32 = 143;
const KILLED: i32 = 137;

/// What a start command says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Script {
    listen_after: Option<Duration>,
    exit_after: Option<(i32, Duration)>,
    stubborn: bool,
    fail: bool,
    says: Option<String>,
}

impl Script {
    fn parse(command: &Command) -> Self {
        let text = match command {
            Command::Shell(text) => text.clone(),
            Command::Raw(argv) => argv.join(" "),
        };
        let mut script = Self { listen_after: Some(Duration::ZERO), ..Self::default() };
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let mut number = || words.next_if(|word| word.parse::<u64>().is_ok())?.parse().ok();
            match word {
                "listen" => {
                    script.listen_after = Some(Duration::from_millis(number().unwrap_or(0)));
                }
                "deaf" => script.listen_after = None,
                "stubborn" => script.stubborn = true,
                "fail" => script.fail = true,
                "exit" => {
                    let code = number().and_then(|code: u64| i32::try_from(code).ok());
                    let after = Duration::from_millis(number().unwrap_or(0));
                    script.exit_after = Some((code.unwrap_or(0), after));
                }
                "say" => {
                    script.says = Some(words.by_ref().collect::<Vec<_>>().join(" "));
                }
                _ => {}
            }
        }
        script
    }
}

struct One {
    script: Script,
    began: Instant,
    exit: watch::Sender<Option<Exit>>,
    records: Vec<Record>,
}

/// The driver.
pub struct MemoryDriver {
    clock: Clock,
    all: Mutex<BTreeMap<InstanceId, One>>,
    ports: Mutex<BTreeMap<u16, InstanceId>>,
    writers: Mutex<BTreeSet<InstanceId>>,
    wrote: Notify,
}

impl MemoryDriver {
    /// Nothing runs.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let wrote = Notify::new();
        let (all, ports, writers) = Default::default();
        Self { clock, all, ports, writers, wrote }
    }

    /// One more line on standard output.
    pub fn say(&self, instance: InstanceId, text: &str) {
        let mut all = self.lock();
        let Some(one) = all.get_mut(&instance) else { return };
        if one.records.len() >= LINES_MAX {
            return;
        }
        let (seq, at_ms) = (one.records.len() as u64 + 1, self.clock.unix_ms());
        let text = text.as_bytes().to_vec();
        one.records.push(Record { stream: LogStream::Stdout, seq, at_ms, text });
        drop(all);
        self.writers.lock().unwrap_or_else(PoisonError::into_inner).insert(instance);
        self.wrote.notify_one();
    }

    /// It ends by itself.
    pub fn crash(&self, instance: InstanceId, code: i32) {
        if let Some(one) = self.lock().get(&instance) {
            self.end(one, code);
        }
    }

    /// Its ports answer no more.
    pub fn deafen(&self, instance: InstanceId) {
        if let Some(one) = self.lock().get_mut(&instance) {
            one.script.listen_after = None;
        }
    }

    /// Those that run.
    #[must_use]
    pub fn running(&self) -> Vec<InstanceId> {
        let all = self.lock();
        all.iter().filter(|(_, one)| self.exit_of(one).is_none()).map(|(id, _)| *id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, One>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, one: &One, code: i32) {
        let at_ms = self.clock.unix_ms();
        one.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert(Exit { code: Some(code), at_ms });
            first
        });
    }

    /// Its end; one that the script foresaw is noticed here.
    fn exit_of(&self, one: &One) -> Option<Exit> {
        if let Some((code, after)) = one.script.exit_after
            && one.began.elapsed() >= after
        {
            self.end(one, code);
        }
        *one.exit.borrow()
    }
}

#[async_trait]
impl Driver for MemoryDriver {
    async fn prepare(&self, _instance: InstanceId) -> Result<Option<PathBuf>, DriverError> {
        Ok(None)
    }

    async fn start(&self, spec: &Spec) -> Result<(), DriverError> {
        let script = Script::parse(&spec.command);
        if script.fail {
            return Err(DriverError::Start("the script says fail".to_owned()));
        }
        let (exit, _) = watch::channel(None);
        let says = script.says.clone();
        let one = One { script, began: Instant::now(), exit, records: Vec::new() };
        self.lock().insert(spec.instance, one);
        if let Some(port) = spec.environment.get("PORT").and_then(|port| port.parse().ok()) {
            let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
            ports.insert(port, spec.instance);
        }
        if let Some(text) = says {
            self.say(spec.instance, &text);
        }
        Ok(())
    }

    async fn adopt(&self, instance: InstanceId) -> Result<Found, DriverError> {
        Ok(match self.lock().get(&instance) {
            None => Found::Never,
            Some(one) => self.exit_of(one).map_or(Found::Alive, Found::Ended),
        })
    }

    async fn signal(&self, instance: InstanceId, signal: Signal) -> Result<(), DriverError> {
        let all = self.lock();
        let one = all.get(&instance).ok_or(DriverError::Unknown(instance))?;
        match signal {
            Signal::Kill => self.end(one, KILLED),
            Signal::Term if !one.script.stubborn => self.end(one, TERMED),
            Signal::Term => {}
        }
        Ok(())
    }

    async fn run(&self, spec: &Spec, _limit: Duration) -> Result<(), DriverError> {
        let Some((code, _)) = Script::parse(&spec.command).exit_after else { return Ok(()) };
        if code != 0 {
            return Err(DriverError::StopCommand(Some(code)));
        }
        self.crash(spec.instance, 0);
        Ok(())
    }

    async fn wait(&self, instance: InstanceId) -> Exit {
        let lost = Exit { code: None, at_ms: self.clock.unix_ms() };
        let foreseen = {
            let all = self.lock();
            let Some(one) = all.get(&instance) else { return lost };
            let foreseen = one.script.exit_after.map(|(code, after)| (code, one.began + after));
            (one.exit.subscribe(), foreseen)
        };
        let (mut exit, foreseen) = foreseen;
        if let Some((code, at)) = foreseen
            && tokio::time::timeout_at(at, exit.wait_for(Option::is_some)).await.is_err()
        {
            self.crash(instance, code);
        }
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(lost)
    }

    async fn stats(&self, instances: &[InstanceId]) -> Vec<Option<Stats>> {
        let all = self.lock();
        instances
            .iter()
            .map(|id| {
                let ran = all.get(id)?.began.elapsed();
                let cpu_ns = u64::try_from(ran.as_nanos() / 10).unwrap_or(u64::MAX);
                Some(Stats { cpu_ns, memory: 1 << 20, disk: 4_096 })
            })
            .collect()
    }

    async fn destroy(&self, instance: InstanceId) -> Result<(), DriverError> {
        if let Some(one) = self.lock().remove(&instance) {
            self.end(&one, KILLED);
        }
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|_, holder| *holder != instance);
        Ok(())
    }

    async fn list(&self) -> Vec<InstanceId> {
        self.lock().keys().copied().collect()
    }

    async fn logs(&self, instance: InstanceId, from: Position) -> Batch {
        let all = self.lock();
        let records = all.get(&instance).map_or(&[][..], |one| &one.records);
        let at = usize::try_from(from.offset).unwrap_or(usize::MAX).min(records.len());
        let position = Position { segment: 0, offset: records.len() as u64 };
        Batch { records: records[at..].to_vec(), position, more: false }
    }

    async fn written(&self) -> Vec<InstanceId> {
        loop {
            let writers = {
                let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *writers)
            };
            if !writers.is_empty() {
                return writers.into_iter().collect();
            }
            self.wrote.notified().await;
        }
    }

    async fn probe(&self, addr: SocketAddr) -> bool {
        let holder = {
            let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
            ports.get(&addr.port()).copied()
        };
        let all = self.lock();
        let Some(one) = holder.and_then(|holder| all.get(&holder)) else { return false };
        let listens = one.script.listen_after.is_some_and(|after| one.began.elapsed() >= after);
        listens && self.exit_of(one).is_none()
    }

    fn is_free(&self, addr: SocketAddr, _plainly: bool) -> bool {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        !ports.contains_key(&addr.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each word of a script means what the head says.
    #[test]
    fn scripts_are_read() {
        let read = |text: &str| Script::parse(&Command::Shell(text.to_owned()));
        let ms = Duration::from_millis;
        assert_eq!(read("").listen_after, Some(Duration::ZERO));
        assert_eq!(read("listen").listen_after, Some(Duration::ZERO));
        assert_eq!(read("listen 20 stubborn").listen_after, Some(ms(20)));
        assert_eq!(read("deaf exit 3 50").exit_after, Some((3, ms(50))));
        assert_eq!(read("exit").exit_after, Some((0, ms(0))));
        assert_eq!(read("say a  b").says.as_deref(), Some("a b"));
        assert!(
            read("fail").fail && read("stubborn").stubborn && read("deaf").listen_after.is_none()
        );
    }
}
