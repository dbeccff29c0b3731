//! A load of requests, each of which is checked: status, and that body and header name the same instance.
//!
//! Open connections are kept. With several routers a client whose router died goes to the next one and asks again, as
//! any client behind a balancer does; such a request is counted as moved, not as failed. Deliberately absent: speed; the
//! bench measures.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::server::lock;

/// Failures that are kept with their text.
const FAILURES_SHOWN: usize = 20;
/// Pause of one client between two requests: the load shall find mistakes, not fill the machine.
const PAUSE: Duration = Duration::from_millis(2);

/// Clients that ask until they are told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    verdict: Arc<Mutex<Verdict>>,
    clients: Vec<JoinHandle<()>>,
    began: Instant,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Answers that were right.
    pub served: u64,
    /// Requests that were asked again of another router, because theirs was gone.
    pub moved: u64,
    /// Requests without a right answer.
    pub failed: u64,
    /// The first of them, with the time since the start of the load.
    pub failures: Vec<String>,
    /// Answers by instance.
    pub by_instance: BTreeMap<String, u64>,
}

impl Load {
    /// `clients` clients of `host`, spread over `routers`.
    pub fn start(routers: &[SocketAddr], host: &str, path: &str, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let verdict = Arc::new(Mutex::new(Verdict::default()));
        let began = Instant::now();
        let clients = (0..clients)
            .map(|index| {
                let mut one = One {
                    routers: routers.to_vec(),
                    at: index % routers.len(),
                    host: host.to_owned(),
                    path: path.to_owned(),
                    client: None,
                };
                let (stop, verdict) = (Arc::clone(&stop), Arc::clone(&verdict));
                std::thread::spawn(move || {
                    while !stop.load(SeqCst) {
                        let outcome = one.ask();
                        note(&mut lock(&verdict), outcome, began);
                        std::thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        Self { stop, verdict, clients, began }
    }

    /// How long it has been going on; failures are told by the same clock.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Where it stands.
    pub fn so_far(&self) -> Verdict {
        lock(&self.verdict).clone()
    }

    /// Waits until so many more were served than now.
    ///
    /// # Panics
    /// When that does not happen.
    pub fn goes_on(&self, more: u64) {
        let before = self.so_far().served;
        crate::wait::until("the load goes on", || self.so_far().served >= before + more);
    }

    /// The end, and what came of it.
    ///
    /// # Panics
    /// When a client panicked.
    pub fn end(mut self) -> Verdict {
        self.stop.store(true, SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("a client does not panic");
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

impl Verdict {
    /// No request failed, and some were served.
    ///
    /// # Panics
    /// With the first failures.
    #[track_caller]
    pub fn is_clean(&self) -> &Self {
        assert!(self.served > 0, "nothing was served: {self:#?}");
        assert_eq!(
            self.failed, 0,
            "{} of {} failed: {:#?}",
            self.failed, self.served, self.failures
        );
        self
    }
}

struct One {
    routers: Vec<SocketAddr>,
    at: usize,
    host: String,
    path: String,
    client: Option<Client>,
}

enum Outcome {
    Served { instance: String, moved: bool },
    Failed(String),
}

impl One {
    fn ask(&mut self) -> Outcome {
        match self.try_ask() {
            Ok(outcome) => outcome,
            // One router, or it lives: the request was lost by it.
            Err(error) if self.routers.len() == 1 || self.alive() => {
                Outcome::Failed(error.to_string())
            }
            Err(_) => {
                self.at = (self.at + 1) % self.routers.len();
                match self.try_ask() {
                    Ok(Outcome::Served { instance, .. }) => {
                        Outcome::Served { instance, moved: true }
                    }
                    Ok(failed) => failed,
                    Err(error) => Outcome::Failed(format!("at the second router: {error}")),
                }
            }
        }
    }

    fn try_ask(&mut self) -> io::Result<Outcome> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::try_connect(self.routers[self.at])?,
        };
        let head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.host);
        client.try_send(head)?;
        let response = client.try_response("GET")?;
        let instance = response.get("x-instance").unwrap_or_default();
        let text = response.text();
        if response.status != 200 || instance.is_empty() || text.trim_end() != instance {
            let why = response.get("apcera-error").unwrap_or_default();
            return Ok(Outcome::Failed(format!(
                "{} {why} {text:?} from {instance:?}",
                response.status
            )));
        }
        if !response.says_close() {
            self.client = Some(client);
        }
        Ok(Outcome::Served { instance, moved: false })
    }

    /// Whether the router still takes connections.
    fn alive(&self) -> bool {
        Client::try_connect(self.routers[self.at]).is_ok()
    }
}

fn note(verdict: &mut Verdict, outcome: Outcome, began: Instant) {
    match outcome {
        Outcome::Served { instance, moved } => {
            verdict.served += 1;
            verdict.moved += u64::from(moved);
            *verdict.by_instance.entry(instance).or_default() += 1;
        }
        Outcome::Failed(why) => {
            verdict.failed += 1;
            if verdict.failures.len() < FAILURES_SHOWN {
                verdict.failures.push(format!("{} ms: {why}", began.elapsed().as_millis()));
            }
        }
    }
}
