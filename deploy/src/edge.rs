//! The router role: cores, admin page, and the feed that tells them what the cluster wants.
//!
//! Deliberately absent: the static file as a source of routes; that is the program `router`.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Clock, Sender, World};
use conf::cluster::{ClusterConf, TlsHost};
use route::Desired;
use router::admin::{Admin, AdminListener};
use router::run::{EngineChoice, Prepared, Running};
use router::settings::{AdminAddress, Settings};
use router::tls::CertificateFile;
use router::watch::Source;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wire::RouterId;

use crate::failure::Failure;
use crate::joined::Service;
use crate::secrets;

/// Longest wait for the last requests when the router ends.
const DRAIN: Duration = Duration::from_secs(30);
/// How often it is told that there is no table yet.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Where a router listens.
pub(crate) struct Edge {
    pub(crate) http: SocketAddr,
    pub(crate) https: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) engine: &'static str,
    pub(crate) cores: usize,
}

/// A router that holds its addresses, and follows the cluster, and lets nobody in yet.
pub(crate) struct Opening {
    prepared: Prepared,
    /// There is a table: that of before, or the first that is whole.
    ready: Pin<Box<dyn Future<Output = ()> + Send>>,
    running: oneshot::Sender<Running>,
}

/// Starts the router's feed and its admin page; [`Opening::open`] lets the first client in.
pub(crate) fn start(
    conf: &ClusterConf,
    engine: EngineChoice,
    world: &Arc<dyn World>,
    clock: &Clock,
    hostname: &str,
) -> Result<(Edge, Service, Opening), Failure> {
    router::limits::raise_open_files();
    let settings = settings(conf)?;
    let tls = router::watch::certificates(None, &settings)
        .map_err(|why| Failure::new("a certificate cannot be used", why))?;
    let bind = |address: &AdminAddress| {
        AdminListener::bind(address).map_err(|why| {
            Failure::new(format!("the dashboard cannot listen at {address}"), why)
                .hint("another port with --admin")
        })
    };
    let admin = settings.admin.as_ref().map(bind).transpose()?;
    let prepared =
        router::run::prepare(settings, &Desired::default(), tls, engine).map_err(refused)?;
    let id = RouterId(uuid::Uuid::new_v4());
    let bus = Bus::new(Arc::clone(world), Sender::new("router", id), clock.clone());
    let stop = CancellationToken::new();
    let feed_stop = CancellationToken::new();
    let table_file = conf.state_dir.join("table.json");
    let settings =
        feed::Settings { router: id, hostname: hostname.to_owned(), table_file: Some(table_file) };
    let hub = Arc::clone(&prepared.hub);
    let feed = feed::start(settings, bus, Arc::clone(&hub), feed_stop.clone())
        .map_err(|why| Failure::new("the router's feed did not start", why))?;
    let listening = |kind| {
        let listeners = hub.listeners();
        listeners.into_iter().find(|(of, _)| *of == kind).map(|(_, addr)| addr)
    };
    let edge = Edge {
        http: listening("http").ok_or_else(|| Failure::new("the router listens nowhere", ""))?,
        https: listening("https"),
        admin: admin.as_ref().and_then(|listener| match listener.address() {
            Ok(AdminAddress::Tcp(addr)) => Some(addr),
            _ => None,
        }),
        engine: prepared.engine(),
        cores: hub.cores().len(),
    };
    let page = Admin::new(Arc::clone(&hub), prepared.engine(), Source::new(None), None);
    page.add_metrics(feed.metrics());
    let page = admin.map(|listener| tokio::spawn(page.serve(listener)));
    let ready = Box::pin(feed.ready());
    let (running, opened) = oneshot::channel();
    let ended = end(stop.clone(), opened, feed, feed_stop, page);
    let service = Service::new("router", stop, ended).within(DRAIN + Duration::from_secs(2));
    Ok((edge, service, Opening { prepared, ready, running }))
}

fn refused(why: router::run::StartError) -> Failure {
    Failure::new("the router did not start", why).hint("another port with --http or --https")
}

impl Opening {
    /// Lets the first client in, as soon as there is a table: without one every route would be answered with 404, which
    /// a balancer in front takes for the truth. A refused connection sends it to another router.
    pub(crate) async fn open(self) -> Result<(), Failure> {
        let Self { prepared, mut ready, running } = self;
        while tokio::time::timeout(TELL_EVERY, ready.as_mut()).await.is_err() {
            tracing::warn!(
                "no table yet, so nobody is let in: no table file, and no job manager answers"
            );
        }
        let opened = prepared.serve(Vec::new()).map_err(refused)?;
        if let Some(why) = &opened.fell_back {
            tracing::warn!(why, "io_uring is not to be had, the router uses epoll");
        }
        // Nobody is left to drain it when its service has ended already.
        if let Err(opened) = running.send(opened) {
            opened.stop();
        }
        Ok(())
    }
}

/// The end of a router: nothing new is accepted, what runs may finish; the feed says farewell first, so that nobody
/// waits for this router's acknowledgement.
async fn end(
    stop: CancellationToken,
    mut opened: oneshot::Receiver<Running>,
    feed: feed::Running,
    feed_stop: CancellationToken,
    page: Option<tokio::task::JoinHandle<()>>,
) {
    stop.cancelled().await;
    feed_stop.cancel();
    feed.ended().await;
    if let Ok(running) = opened.try_recv()
        && !running.drain(DRAIN).await
    {
        tracing::warn!("requests were cut when the router ended");
    }
    if let Some(page) = page {
        page.abort();
    }
}

fn settings(conf: &ClusterConf) -> Result<Settings, Failure> {
    let router = &conf.router;
    let mut settings = Settings {
        http: vec![SocketAddr::new(router.address, router.http_port)],
        admin: router.admin.map(AdminAddress::Tcp),
        cores: router.cores.map(|cores| u16::try_from(cores).unwrap_or(u16::MAX)),
        ..Settings::default()
    };
    for text in &router.trusted_proxies {
        let net = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(Into::into));
        let net = net.map_err(|_| {
            Failure::new(format!("router.trusted_proxies: \"{text}\" is no address or network"), "")
                .hint("10.0.0.0/8")
                .usage()
        })?;
        settings.trusted_proxies.push(net);
    }
    if let Some(port) = router.https_port.filter(|_| router.ssl) {
        settings.https = vec![SocketAddr::new(router.address, port)];
        settings.certificates = certificates(conf)?;
    }
    settings.limits.connections_max =
        settings.limits.connections_max.min(router::limits::connections_ceiling(settings.cores));
    Ok(settings)
}

fn certificates(conf: &ClusterConf) -> Result<Vec<CertificateFile>, Failure> {
    if conf.router.tls_hosts.is_empty() {
        let (chain, key) = (conf.state_dir.join("tls.pem"), conf.state_dir.join("tls.key"));
        secrets::certificate(&chain, &key, &conf.base_domain)?;
        return Ok(vec![CertificateFile { server_names: Vec::new(), chain, key }]);
    }
    let file = |host: &TlsHost| CertificateFile {
        server_names: host.server_names.clone(),
        chain: host.certificate_chain.clone(),
        key: host.private_key.clone(),
    };
    Ok(conf.router.tls_hosts.iter().map(file).collect())
}
