//! API server, job, health, package and instance manager of one process: settings from the file, start, end.
//!
//! Deliberately absent: the router (`edge.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use conf::ClusterConf;
use conf::cluster::Objects;
use runtime::StopMode;
use runtime::driver::process::ProcessDriver;
use serde_json::{Value, json};
use services::{api, hm, jm, pm};
use tokio_util::sync::CancellationToken;

use crate::arguments::Role;
use crate::failure::Failure;
use crate::joined::Service;
use crate::roles::Shared;
use crate::{machine, secrets};

/// Longest orderly end of all instances of this process: their stop time-outs are shorter.
const INSTANCES_END: Duration = Duration::from_secs(45);

/// Whether the end of the instance manager is the end of its instances.
static STOP_INSTANCES: AtomicBool = AtomicBool::new(false);

/// From now on the end of the instance manager of this process ends its instances too.
pub(crate) fn stop_instances_too() {
    STOP_INSTANCES.store(true, SeqCst);
}

/// Ports of the routers as clients see them.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    /// 0 = no https.
    pub(crate) https: u16,
}

impl Ports {
    pub(crate) fn of(conf: &ClusterConf) -> Self {
        let https = conf.router.https_port.filter(|_| conf.router.ssl);
        Self { http: conf.router.http_port, https: https.unwrap_or(0) }
    }
}

/// Starts the API server.
pub(crate) async fn api(shared: &Shared, ports: Ports) -> Result<(Value, Service), Failure> {
    let conf = &shared.conf;
    let mut tokens = Vec::new();
    for entry in &conf.tokens {
        let token = match (&entry.token, &entry.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => secrets::read_token(file)?,
            (None, None) => continue,
        };
        tokens.push((entry.name.clone(), token));
    }
    if tokens.is_empty() {
        tracing::warn!("no principal has a token: nobody can use the API (auth_server.tokens)");
    }
    let settings = api::Settings {
        url: conf.api.url.clone(),
        cluster_name: conf.cluster_name.clone(),
        cluster_domain: conf.base_domain.clone(),
        http_port: ports.http,
        https_port: ports.https,
        tcp: Some(api::TcpPorts {
            host: conf.router.tcp_address,
            ports: conf.router.tcp_ports.clone(),
        }),
        tokens,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..api::Settings::local(conf.api.listen)
    };
    let stop = CancellationToken::new();
    let running = api::start(settings, shared.bus(Role::Api), shared.store()?, stop.clone())
        .await
        .map_err(|why| {
            Failure::new("the API server did not start", why).hint("another address with --api")
        })?;
    let about = json!({ "listen": running.addr.to_string() });
    Ok((about, Service::new("api", stop, running.ended())))
}

/// Starts a job manager.
pub(crate) fn jm(shared: &Shared) -> Result<(Value, Service), Failure> {
    let stop = CancellationToken::new();
    let running =
        jm::start(jm::Settings::default(), shared.bus(Role::Jm), shared.store()?, stop.clone())
            .map_err(|why| Failure::new("the job manager did not start", why))?;
    let about = json!({ "id": running.id });
    Ok((about, Service::new("jm", stop, running.ended())))
}

/// Starts a health manager.
pub(crate) fn hm(shared: &Shared) -> Result<(Value, Service), Failure> {
    let stop = CancellationToken::new();
    let running =
        hm::start(hm::Settings::default(), shared.bus(Role::Hm), shared.store()?, stop.clone())
            .map_err(|why| Failure::new("the health manager did not start", why))?;
    let about = json!({ "id": running.id });
    Ok((about, Service::new("hm", stop, running.ended())))
}

/// Starts a package manager.
pub(crate) async fn pm(shared: &Shared) -> Result<(Value, Service), Failure> {
    let conf = &shared.conf.packages;
    let place = match &conf.objects {
        Objects::Local(path) => pm::Place::Directory(path.clone()),
        Objects::S3 { endpoint, bucket, region, access_key, secret_key } => {
            pm::Place::S3(pm::s3::Bucket {
                endpoint: endpoint
                    .clone()
                    .unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com")),
                bucket: bucket.clone(),
                region: region.clone(),
                access_key: access_key.clone(),
                secret_key: secret_key.clone(),
            })
        }
    };
    let settings = pm::Settings {
        url: conf.url.clone(),
        resource_bytes_max: conf.resource_bytes_max,
        ..pm::Settings::new(conf.listen, place)
    };
    let stop = CancellationToken::new();
    let running = pm::start(settings, shared.bus(Role::Pm), shared.store()?, stop.clone())
        .await
        .map_err(|why| Failure::new("the package manager did not start", why))?;
    let about = json!({ "listen": running.addr.to_string(), "url": running.url });
    Ok((about, Service::new("pm", stop, running.ended())))
}

/// Name of this machine.
pub(crate) fn machine_name() -> String {
    runtime::settings::hostname()
}

/// Starts an instance manager.
pub(crate) async fn im(shared: &Shared) -> Result<(Value, Service), Failure> {
    let conf = &shared.conf.instances;
    let state = shared.conf.state_dir.join("im");
    let failed =
        |why: &dyn std::fmt::Display| Failure::new("the instance manager did not start", why);
    let driver = ProcessDriver::new(&state.join("instances")).map_err(|why| failed(&why))?;
    let settings = runtime::Settings {
        hostname: shared.hostname.clone(),
        datacenter: conf.datacenter.clone(),
        tags: conf.tags.clone(),
        system_tags: machine::tags(&shared.hostname),
        resources_total: machine::resources(conf, &shared.conf.state_dir),
        advertise: conf.address,
        ports: conf.ports.clone(),
        cache_bytes_max: conf.cache_bytes_max,
        ..runtime::Settings::new(Some(state))
    };
    let mode = || {
        if STOP_INSTANCES.load(SeqCst) { StopMode::StopInstances } else { StopMode::LeaveInstances }
    };
    let stop = CancellationToken::new();
    let running =
        runtime::start(settings, shared.bus(Role::Im), Arc::new(driver), stop.clone(), mode)
            .await
            .map_err(|why| failed(&why))?;
    let about = json!({ "id": running.id().to_string(), "hostname": shared.hostname });
    Ok((about, Service::new("im", stop, running.ended()).within(INSTANCES_END)))
}
