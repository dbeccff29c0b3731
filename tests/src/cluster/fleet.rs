//! A cluster of many processes over a real nats-server and a real PostgreSQL; each can be killed and started again.
//!
//! Deliberately absent: several machines. Every process has its own directory and ports on loopback.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::{Apc, program};
use crate::nats::Nats;
use crate::postgres::Postgres;
use crate::process::Process;
use crate::router::Folder;
use crate::wait::until_some;

/// Token of the operator of a test's cluster.
const TOKEN: &str = "a-token-of-a-test-0123456789";

/// How many of each role.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Routers.
    pub routers: usize,
    /// API servers.
    pub apis: usize,
    /// Job managers.
    pub jms: usize,
    /// Health managers.
    pub hms: usize,
    /// Package managers.
    pub pms: usize,
    /// Instance managers.
    pub ims: usize,
}

/// Processes by name: `router-0`, `im-2`, …
#[derive(Debug)]
pub struct Fleet {
    // Dropped first: roles end before the servers that they use.
    processes: BTreeMap<String, Process>,
    addresses: BTreeMap<String, Value>,
    /// The bus.
    pub nats: Nats,
    /// The component database.
    pub postgres: Postgres,
    folder: Folder,
    /// The first port of its instances.
    ports: u16,
}

/// Ports of one instance manager, and instance managers of one fleet.
const IM_PORTS: u16 = 100;
const IMS_MAX: u16 = 4;
/// Where ports of instances begin, and where those begin that the kernel gives to anybody.
const PORTS: std::ops::Range<u16> = 21_000..32_768;

/// Ports of its own for each fleet of this process, and most probably of those that run beside it.
fn ports_of_a_fleet() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let size = IM_PORTS * IMS_MAX;
    let slots = u32::from((PORTS.end - PORTS.start) / size);
    let slot = (std::process::id() + 13 * COUNT.fetch_add(1, Ordering::Relaxed)) % slots;
    PORTS.start + size * u16::try_from(slot).expect("below the number of slots")
}

impl Fleet {
    /// Start all of them and wait until each is ready.
    ///
    /// # Panics
    /// When one does not become ready.
    pub fn start(plan: Plan) -> Self {
        let folder = Folder::new();
        let nats = Nats::start(&[]).expect("a cluster of several processes needs nats-server");
        let postgres =
            Postgres::start("fleet").expect("a cluster of several processes needs PostgreSQL");
        let conf = format!(
            "cluster_name: test\nbase_domain: test.localhost\nstate_dir: {dir}\n\
             nats {{ urls: [ \"{nats}\" ] }}\ncomponent_db {{ url: \"{db}\" }}\n\
             api_server {{ listen: \"127.0.0.1:0\" }}\n\
             auth_server {{ tokens: [ {{ name: admin, token: {TOKEN} }} ] }}\n\
             package_manager {{ listen: \"127.0.0.1:0\" local_store {{ path: {dir}/objects }} }}\n\
             router {{ address: 127.0.0.1 http_port: 0 cores: 2 admin: \"127.0.0.1:0\" }}\n",
            dir = folder.path().display(),
            nats = nats.url(),
            db = postgres.url(),
        );
        fs::write(folder.path().join("cluster.conf"), conf).expect("the folder is writable");
        assert!(plan.ims <= usize::from(IMS_MAX), "more ports are needed for so many");
        let mut fleet = Self {
            processes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            nats,
            postgres,
            folder,
            ports: ports_of_a_fleet(),
        };
        let roles = [
            ("pm", plan.pms),
            ("hm", plan.hms),
            ("jm", plan.jms),
            ("api", plan.apis),
            ("router", plan.routers),
            ("im", plan.ims),
        ];
        let names: Vec<String> = roles
            .iter()
            .flat_map(|(role, count)| (0..*count).map(move |n| format!("{role}-{n}")))
            .collect();
        for name in &names {
            fleet.launch(name);
        }
        for name in &names {
            fleet.wait_ready(name);
        }
        fleet
    }

    /// Kill one, as `kill -9` does.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn kill(&mut self, name: &str) {
        self.processes.remove(name).unwrap_or_else(|| panic!("{name} does not run"));
    }

    /// Start one (again) on its own directory, and wait until it is ready.
    pub fn again(&mut self, name: &str) {
        self.launch(name);
        self.wait_ready(name);
    }

    /// Ask one to end, and wait for it.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn end(&mut self, name: &str) {
        let mut process =
            self.processes.remove(name).unwrap_or_else(|| panic!("{name} does not run"));
        process.signal("TERM");
        let status = process.wait_exit();
        assert!(status.success(), "{name} ended with {status}:\n{}", self.output(name));
    }

    fn launch(&mut self, name: &str) {
        let (role, number) = name.split_once('-').expect("names have a role and a number");
        let state = self.state(name);
        drop(fs::remove_file(state.join(format!("{role}.json"))));
        fs::create_dir_all(&state).expect("the folder is writable");
        let mut command = Command::new(program("apcera"));
        command.arg(role).arg("--config").arg(self.folder().join("cluster.conf"));
        command.arg("--state").arg(&state).arg("--verbose");
        // A process that comes again must be found where it was: clients and routers know its address.
        if let Some(known) = self.addresses.get(name) {
            match role {
                "api" => {
                    command.args(["--api", known["listen"].as_str().expect("an address")]);
                }
                "router" => {
                    let http: SocketAddr =
                        known["http"].as_str().and_then(|a| a.parse().ok()).expect("an address");
                    command.args(["--http", &http.port().to_string()]);
                }
                _ => {}
            }
        }
        if role == "im" {
            let first = self.ports + IM_PORTS * number.parse::<u16>().expect("a number");
            command.args(["--instance-ports", &format!("{first}-{}", first + IM_PORTS - 1)]);
            command.args(["--hostname", name, "--tag", &format!("t{number}")]);
        }
        if let (Ok(engine), "router") = (std::env::var("ROUTER_ENGINE"), role) {
            command.args(["--engine", &engine]);
        }
        let process = Process::start(&mut command, &self.output_file(name));
        self.processes.insert(name.to_owned(), process);
    }

    fn wait_ready(&mut self, name: &str) {
        let (role, _) = name.split_once('-').expect("names have a role and a number");
        let file = self.state(name).join(format!("{role}.json"));
        let output = self.output_file(name);
        let process = self.processes.get_mut(name).expect("it was launched");
        let about: Value = until_some(&format!("{name} is ready"), || {
            if let Some(status) = process.try_exit() {
                panic!(
                    "{name} ended at start ({status}):\n{}",
                    fs::read_to_string(&output).unwrap_or_default()
                );
            }
            serde_json::from_str(&fs::read_to_string(&file).ok()?).ok()
        });
        self.addresses.insert(name.to_owned(), about);
    }

    /// An operator at one of the API servers.
    pub fn apc(&self, api: &str) -> Apc {
        let apc = Apc::new(&self.state(api), self.folder());
        apc.run(&format!("target http://{}", self.about(api, "listen"))).ok();
        apc.run(&format!("login --token {TOKEN}")).ok();
        apc
    }

    /// Something that a process wrote about itself.
    ///
    /// # Panics
    /// When it did not.
    pub fn about(&self, name: &str, key: &str) -> String {
        let about = &self.addresses[name];
        about[key].as_str().unwrap_or_else(|| panic!("{name} says no {key}: {about}")).to_owned()
    }

    /// Where the routers listen for http.
    pub fn routers(&self) -> Vec<SocketAddr> {
        let names = self.addresses.keys().filter(|name| name.starts_with("router-"));
        names.map(|name| self.about(name, "http").parse().expect("an address")).collect()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn output_file(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.txt"))
    }

    /// What a process wrote to both outputs since its last start.
    pub fn output(&self, name: &str) -> String {
        fs::read_to_string(self.output_file(name)).unwrap_or_default()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let names: Vec<String> = self.processes.keys().cloned().collect();
        if std::thread::panicking() {
            for name in &names {
                let output = self.output(name);
                let lines: Vec<&str> = output.lines().collect();
                println!("--- {name}\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
        // Instances outlive a killed instance manager; one that is asked to end with them takes them along.
        for name in names.iter().filter(|name| name.starts_with("im-")) {
            if let Some(process) = self.processes.get_mut(name)
                && process.try_exit().is_none()
            {
                process.signal("INT");
                process.wait_exit();
            }
        }
    }
}
