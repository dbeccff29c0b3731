//! `apcera up`: every role in this process, on a bus inside it and a store in one file.
//!
//! ```text
//!  start:  store ─▶ pm, hm ─▶ router, shut ─▶ im ─▶ jm ─▶ api ─▶ router, open ─▶ greeting      end: the other way round
//! ```
//!
//! At the end the job manager goes before the instance manager, so that nobody replaces the instances that end, and the
//! router goes after it, so that their last requests are served. Deliberately absent: other machines.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bus::Clock;
use conf::ClusterConf;
use conf::cluster::{Database, Objects, Token};
use serde_json::json;

use crate::arguments::UpOptions;
use crate::failure::Failure;
use crate::greeting::Greeting;
use crate::joined::{Joined, Signals, say, tell};
use crate::roles::Shared;
use crate::worlds::Wider;
use crate::{edge, managers, secrets, worlds};

/// Serve until a signal ends it.
pub(crate) async fn up(options: UpOptions) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut signals = Signals::new()?;
    let state = options.state.clone().map_or_else(default_state, Ok)?;
    worlds::state_dir(&state, Wider::Close)?;
    let state = state
        .canonicalize()
        .map_err(|why| Failure::new("the state directory cannot be used", why))?;
    let token_file = state.join("admin.token");
    secrets::admin_token(&token_file)?;
    let conf = conf(&options, &state, &token_file);
    let store = worlds::store(&conf.database).await?;
    let shared = Shared {
        world: worlds::bus(None, "apcera up").await?,
        conf,
        store: Some(store),
        clock: Clock::system(),
        hostname: managers::machine_name(),
        alone: true,
    };
    managers::stop_instances_too();
    let mut joined = Joined::default();
    joined.add(managers::pm(&shared).await?.1);
    joined.add(managers::hm(&shared)?.1);
    let (edge, router, opening) = edge::start(
        &shared.conf,
        options.engine.into(),
        &shared.world,
        &shared.clock,
        &shared.hostname,
    )?;
    joined.add(router);
    joined.add(managers::im(&shared).await?.1);
    joined.add(managers::jm(&shared)?.1);
    let ports =
        managers::Ports { http: edge.http.port(), https: edge.https.map_or(0, |addr| addr.port()) };
    let (api, service) = managers::api(&shared, ports).await?;
    joined.add(service);
    let api: SocketAddr = api["listen"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::new("the API listens nowhere", ""))?;
    tokio::select! {
        opened = opening.open() => opened?,
        _ = signals.asked() => return signals.end(joined).await,
    }
    let took = begun.elapsed();
    let https = edge.https.ok_or_else(|| Failure::new("the router has no https", ""))?;
    let admin = edge.admin.ok_or_else(|| Failure::new("the router has no dashboard", ""))?;
    let greeting = Greeting {
        took,
        domain: &shared.conf.base_domain,
        http: edge.http,
        https,
        api,
        admin,
        state: &state,
        token_file: &token_file,
        engine: edge.engine,
        cores: edge.cores,
    };
    say(&greeting.text());
    let about = json!({
        "pid": std::process::id(),
        "ready_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "api": format!("http://{api}"),
        "http": edge.http.to_string(),
        "https": https.to_string(),
        "admin": admin.to_string(),
        "token_file": token_file,
        "domain": shared.conf.base_domain,
    });
    tell(&state, "up", &about);
    signals.asked().await;
    say("ending: instances first, then the router; once more Ctrl-C ends at once\n");
    drop(std::fs::remove_file(state.join("up.json")));
    signals.end(joined).await
}

fn conf(options: &UpOptions, state: &Path, token_file: &Path) -> ClusterConf {
    let mut conf = ClusterConf { state_dir: state.to_owned(), ..ClusterConf::default() };
    conf.base_domain.clone_from(&options.domain);
    conf.database = Database::File(state.join("components.db"));
    conf.packages.objects = Objects::Local(state.join("packages"));
    conf.api.listen = options.api;
    conf.router.address = options.address;
    conf.router.http_port = options.http;
    conf.router.https_port = Some(options.https);
    conf.router.ssl = true;
    conf.router.admin = Some(options.admin);
    conf.router.cores = options.cores.map(usize::from);
    conf.router.tcp_address = options.address;
    conf.router.tcp_ports = options.tcp_ports.clone();
    conf.instances.ports = options.instance_ports.clone();
    conf.tokens = vec![Token {
        name: "admin".to_owned(),
        token: None,
        token_file: Some(token_file.to_owned()),
    }];
    conf
}

fn default_state() -> Result<PathBuf, Failure> {
    if let Some(dir) = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir).join("apcera"));
    }
    std::env::var_os("HOME")
        .filter(|dir| !dir.is_empty())
        .map(|home| PathBuf::from(home).join(".local/state/apcera"))
        .ok_or_else(|| {
            Failure::new("no place for the state", "neither XDG_STATE_HOME nor HOME is set")
                .hint("--state DIR")
        })
}
