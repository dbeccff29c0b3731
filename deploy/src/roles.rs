//! One role after another from the settings of a `cluster.conf`, and the processes that run some of them.
//!
//! Deliberately absent: what `up` adds: a token, a certificate, and everything at once.

use std::path::Path;
use std::sync::Arc;

use bus::{Bus, Clock, Sender, World};
use conf::ClusterConf;
use serde_json::{Value, json};
use store::Store;
use uuid::Uuid;

use crate::arguments::{Role, RoleOptions};
use crate::edge::{self, Opening};
use crate::failure::Failure;
use crate::joined::{Asked, Joined, Service, Signals, say, tell};
use crate::worlds::Wider;
use crate::{managers, worlds};

/// What the roles of one process share.
pub(crate) struct Shared {
    pub(crate) conf: ClusterConf,
    pub(crate) world: Arc<dyn World>,
    pub(crate) store: Option<Store>,
    pub(crate) clock: Clock,
    pub(crate) hostname: String,
    /// There is one process, ever, on this store: after a crash it takes its own leases back instead of waiting for
    /// their end.
    pub(crate) alone: bool,
}

impl Shared {
    /// The bus as this role speaks on it.
    pub(crate) fn bus(&self, role: Role) -> Bus {
        let id = if self.alone { "alone".to_owned() } else { Uuid::new_v4().to_string() };
        let sender = Sender::new(role.as_str(), id);
        Bus::new(Arc::clone(&self.world), sender, self.clock.clone())
    }

    pub(crate) fn store(&self) -> Result<Store, Failure> {
        self.store.clone().ok_or_else(|| Failure::new("this role needs the component database", ""))
    }
}

/// `apcera check`.
pub(crate) fn check(file: &Path) -> Result<(), Failure> {
    let conf = read(file)?;
    say(&format!("{}: good; {}\n", file.display(), summary(&conf)));
    for ignored in &conf.ignored {
        say(&format!("note: {ignored} is read and not acted on\n"));
    }
    Ok(())
}

fn summary(conf: &ClusterConf) -> String {
    let bus =
        conf.nats.as_ref().map_or_else(|| "one process".to_owned(), |nats| nats.urls.join(", "));
    let database = match &conf.database {
        conf::cluster::Database::File(path) => format!("SQLite in {}", path.display()),
        conf::cluster::Database::Postgres(_) => "PostgreSQL".to_owned(),
    };
    format!("cluster {} at {}, bus {bus}, {database}", conf.cluster_name, conf.base_domain)
}

fn read(file: &Path) -> Result<ClusterConf, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|why| Failure::new(format!("cannot read {name}"), why).usage())?;
    ClusterConf::parse(&text)
        .map_err(|mistake| Failure::new(mistake.in_text(&name, &text), "").usage())
}

/// `apcera ROLE` and `apcera run A,B`.
pub(crate) async fn run(roles: &[Role], options: RoleOptions) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let conf = overlaid(read(&options.file.config)?, &options);
    if conf.nats.is_none() && !alone_is_enough(roles) {
        return Err(Failure::new(
            "roles in different processes need a bus",
            "the file has no section nats",
        )
        .hint("nats { urls: [ \"nats://127.0.0.1:4222\" ] }, or `apcera up` for one process")
        .usage());
    }
    worlds::state_dir(&conf.state_dir, Wider::Tell)?;
    let hostname = options.hostname.clone().unwrap_or_else(managers::machine_name);
    let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let world =
        worlds::bus(conf.nats.as_ref(), &format!("apcera {} on {hostname}", names.join(",")))
            .await?;
    let needs_store = roles.iter().any(|role| !matches!(role, Role::Router | Role::Im));
    let store = if needs_store { Some(worlds::store(&conf.database).await?) } else { None };
    let shared = Shared { conf, world, store, clock: Clock::system(), hostname, alone: false };
    let mut joined = Joined::default();
    let mut edge = None;
    let ready = |role: Role, about: &Value| {
        tell(&shared.conf.state_dir, role.as_str(), about);
        say(&format!("apcera {}: ready; {}\n", role.as_str(), one_line(about)));
    };
    for role in in_order(roles) {
        let (about, service) = match role {
            Role::Router => {
                let (about, service, opening) = start_router(&shared, &options)?;
                joined.add(service);
                edge = Some((about, opening));
                continue;
            }
            Role::Api => managers::api(&shared, managers::Ports::of(&shared.conf)).await?,
            Role::Jm => managers::jm(&shared)?,
            Role::Hm => managers::hm(&shared)?,
            Role::Pm => managers::pm(&shared).await?,
            Role::Im => managers::im(&shared).await?,
        };
        joined.add(service);
        ready(role, &about);
    }
    // Last, because the first table may come from a job manager of this process.
    let mut asked = None;
    if let Some((about, opening)) = edge {
        tokio::select! {
            opened = opening.open() => {
                opened?;
                ready(Role::Router, &about);
            }
            signal = signals.asked() => asked = Some(signal),
        }
    }
    let asked = match asked {
        Some(asked) => asked,
        None => signals.asked().await,
    };
    if asked == Asked::Interrupt || options.stop_instances {
        managers::stop_instances_too();
    }
    let ended = signals.end(joined).await;
    // The last farewells.
    shared.world.flush().await;
    ended
}

/// One process has its own bus: enough if everything that talks is in it.
fn alone_is_enough(roles: &[Role]) -> bool {
    [Role::Router, Role::Api, Role::Jm, Role::Hm, Role::Pm, Role::Im]
        .iter()
        .all(|role| roles.contains(role))
}

/// Those who serve others first.
pub(crate) fn in_order(roles: &[Role]) -> Vec<Role> {
    let order = [Role::Pm, Role::Hm, Role::Router, Role::Im, Role::Jm, Role::Api];
    order.into_iter().filter(|role| roles.contains(role)).collect()
}

fn start_router(
    shared: &Shared,
    options: &RoleOptions,
) -> Result<(Value, Service, Opening), Failure> {
    let Shared { conf, world, clock, hostname, .. } = shared;
    let (edge, service, opening) =
        edge::start(conf, options.engine.into(), world, clock, hostname)?;
    let text = |addr: Option<std::net::SocketAddr>| addr.map(|addr| addr.to_string());
    let about = json!({
        "http": edge.http.to_string(),
        "https": text(edge.https),
        "admin": text(edge.admin),
        "engine": edge.engine,
        "cores": edge.cores,
    });
    Ok((about, service, opening))
}

fn one_line(about: &Value) -> String {
    let entries = about.as_object().into_iter().flatten();
    let words: Vec<String> = entries
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .collect();
    words.join(", ")
}

/// The file, and over it what this process was told.
fn overlaid(mut conf: ClusterConf, options: &RoleOptions) -> ClusterConf {
    if let Some(state) = &options.state {
        conf.state_dir.clone_from(state);
    }
    if let Some(listen) = options.api {
        conf.api.listen = listen;
    }
    if let Some(listen) = options.pm {
        conf.packages.listen = listen;
    }
    if let Some(port) = options.http {
        conf.router.http_port = port;
    }
    if let Some(port) = options.https {
        conf.router.https_port = Some(port);
        conf.router.ssl = true;
    }
    conf.router.admin = options.admin.or(conf.router.admin);
    if let Some(ports) = &options.instance_ports {
        conf.instances.ports = ports.clone();
    }
    conf.instances.tags.extend(options.tags.iter().cloned());
    conf
}
