//! One machine: a driver in memory, a state directory, and the real instance manager, which can be killed and begun anew.
//!
//! ```text
//!  process killed: the driver's instances run on, the directory stays ─▶ found again
//!  machine lost:   the driver's instances are gone, the directory stays ─▶ their ends are told
//! ```
//!
//! The driver is wrapped: what is done to it goes to the judge first. Deliberately absent: packages and files.

use crate::edge::Edges;
use crate::ledger::Shared;
use async_trait::async_trait;
use bus::{Bus, Clock};
use runtime::driver::memory::MemoryDriver;
use runtime::driver::{Batch, Driver, DriverError, Found, Position, Signal, Stats};
use runtime::life::Exit;
use runtime::spec::Spec;
use runtime::{Settings, StopMode};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::{ImId, InstanceId};

/// Ports that one machine gives away: few, so that numbers come round again.
const PORTS: std::ops::RangeInclusive<u16> = 20_000..=20_049;

pub(crate) struct Host {
    pub(crate) index: usize,
    pub(crate) tags: Vec<String>,
    pub(crate) driver: Arc<MemoryDriver>,
    directory: PathBuf,
    life: Option<Life>,
    incarnations: u64,
}

struct Life {
    node: String,
    stop: CancellationToken,
    dead: Arc<AtomicBool>,
}

impl Host {
    pub(crate) fn new(
        index: usize,
        tags: Vec<String>,
        scratch: &std::path::Path,
        clock: &Clock,
    ) -> Self {
        let directory = scratch.join(format!("host-{index}"));
        let driver = Arc::new(MemoryDriver::new(clock.clone()));
        Self { index, tags, driver, directory, life: None, incarnations: 0 }
    }

    /// Name on the bus of the next process of its instance manager.
    pub(crate) fn next_node(&mut self) -> String {
        self.incarnations += 1;
        format!("im{}.{}", self.index, self.incarnations)
    }

    /// Name on the bus of the process that runs.
    pub(crate) fn node(&self) -> Option<&str> {
        self.life.as_ref().map(|life| &*life.node)
    }

    fn ip(&self) -> IpAddr {
        let number = u8::try_from(self.index + 1).expect("few machines");
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
    }

    /// Begins its instance manager.
    pub(crate) async fn start(
        &mut self,
        node: String,
        bus: Bus,
        seed: u64,
        watch: &Shared,
        edges: &Edges,
    ) {
        let mut settings = Settings::new(Some(self.directory.clone()));
        settings.id = Some(ImId(Uuid::from_u128(0x1111 + self.index as u128)));
        settings.hostname = format!("host{}", self.index);
        settings.tags.clone_from(&self.tags);
        settings.advertise = self.ip();
        settings.ports = PORTS;
        settings.seed = Some(seed);
        let (stop, dead) = (CancellationToken::new(), Arc::<AtomicBool>::default());
        let driver = Watched {
            inner: Arc::clone(&self.driver),
            host: self.index,
            ip: self.ip(),
            node: node.clone(),
            dead: Arc::clone(&dead),
            ledger: watch.clone(),
            edges: edges.clone(),
            clock: bus.clock().clone(),
        };
        let (token, mode) = (stop.clone(), StopMode::LeaveInstances);
        let mut began = runtime::start(
            settings.clone(),
            bus.clone(),
            Arc::new(driver.clone()),
            token.clone(),
            mode,
        )
        .await;
        // The process before it holds the directory until its last task has ended.
        for _ in 0..100 {
            if began.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            began = runtime::start(
                settings.clone(),
                bus.clone(),
                Arc::new(driver.clone()),
                token.clone(),
                mode,
            )
            .await;
        }
        began.expect("the state directory can be used");
        self.life = Some(Life { node, stop, dead });
    }

    /// Kills its process; the caller has cut its node off. The node that is dead now.
    pub(crate) fn kill(&mut self) -> Option<String> {
        let life = self.life.take()?;
        life.dead.store(true, Ordering::Relaxed);
        life.stop.cancel();
        Some(life.node)
    }

    /// The machine lost power: nothing runs on it any more. Its instance manager must be dead.
    pub(crate) fn lose_power(&mut self, watch: &Shared, clock: &Clock) {
        for instance in self.driver.running() {
            watch.lock().ended(instance, "lost with its machine");
        }
        self.driver = Arc::new(MemoryDriver::new(clock.clone()));
    }
}

#[derive(Clone)]
struct Watched {
    inner: Arc<MemoryDriver>,
    host: usize,
    ip: IpAddr,
    node: String,
    dead: Arc<AtomicBool>,
    ledger: Shared,
    edges: Edges,
    clock: Clock,
}

impl Watched {
    fn alive(&self, instance: InstanceId) -> Result<(), DriverError> {
        if self.dead.load(Ordering::Relaxed) { Err(DriverError::Unknown(instance)) } else { Ok(()) }
    }

    /// No router that lives may send it anything any more, unless the time for that is over.
    fn judge_stop(&self, instance: InstanceId) {
        let mut ledger = self.ledger.lock();
        let now_ms = self.clock.unix_ms();
        let Some(known) = ledger.instances.get(&instance).cloned() else { return };
        let Some(addr) = known.addr else { return };
        let over = known
            .stopping_since_ms
            .is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= known.stop_ms);
        if over {
            return;
        }
        for router in ledger.waits_for(&self.node, now_ms) {
            if let Some(why) = self.edges.still_uses(router, addr) {
                let short = instance.short();
                ledger.accuse(format!(
                    "{short} on host {} was told to stop although {why}",
                    self.host
                ));
            }
        }
    }
}

#[async_trait]
impl Driver for Watched {
    async fn prepare(&self, instance: InstanceId) -> Result<Option<PathBuf>, DriverError> {
        self.alive(instance)?;
        self.inner.prepare(instance).await
    }

    async fn start(&self, spec: &Spec) -> Result<(), DriverError> {
        self.alive(spec.instance)?;
        let port = spec.environment.get("PORT").and_then(|port| port.parse().ok());
        let addr = port.map(|port| SocketAddr::new(self.ip, port));
        self.ledger.lock().begun(spec.instance, self.host, addr);
        self.inner.start(spec).await
    }

    async fn adopt(&self, instance: InstanceId) -> Result<Found, DriverError> {
        self.alive(instance)?;
        self.inner.adopt(instance).await
    }

    async fn signal(&self, instance: InstanceId, signal: Signal) -> Result<(), DriverError> {
        self.alive(instance)?;
        if self.inner.running().contains(&instance) {
            self.judge_stop(instance);
            let mut ledger = self.ledger.lock();
            ledger.stops += 1;
            ledger.ended(instance, if signal == Signal::Term { "TERM" } else { "KILL" });
        }
        self.inner.signal(instance, signal).await
    }

    async fn run(&self, spec: &Spec, limit: Duration) -> Result<(), DriverError> {
        self.alive(spec.instance)?;
        self.judge_stop(spec.instance);
        self.inner.run(spec, limit).await
    }

    async fn wait(&self, instance: InstanceId) -> Exit {
        self.inner.wait(instance).await
    }

    async fn stats(&self, instances: &[InstanceId]) -> Vec<Option<Stats>> {
        self.inner.stats(instances).await
    }

    async fn destroy(&self, instance: InstanceId) -> Result<(), DriverError> {
        self.alive(instance)?;
        if self.inner.running().contains(&instance) {
            self.ledger.lock().ended(instance, "destroyed while it ran");
        }
        self.inner.destroy(instance).await
    }

    async fn list(&self) -> Vec<InstanceId> {
        self.inner.list().await
    }

    async fn logs(&self, instance: InstanceId, from: Position) -> Batch {
        self.inner.logs(instance, from).await
    }

    async fn written(&self) -> Vec<InstanceId> {
        self.inner.written().await
    }

    async fn probe(&self, addr: SocketAddr) -> bool {
        self.inner.probe(addr).await
    }

    fn is_free(&self, addr: SocketAddr, plainly: bool) -> bool {
        self.inner.is_free(addr, plainly)
    }
}
