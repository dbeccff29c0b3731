//! What every command needs: the cluster, the namespace, the screen.
//!
//! Nothing is asked of the cluster before a command needs it. Deliberately absent: state between two commands
//! (`settings`).

use crate::cli::Globals;
use crate::client::{Answer, Client, escaped};
use crate::failure::Failure;
use crate::screen::Screen;
use crate::settings::{self, Settings};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use tokio::sync::OnceCell;
use wire::api::{Info, LIVE};
use wire::routing::LiveReport;
use wire::{Fqn, Job, Namespace, Package};

/// Milliseconds that a write waits for the routers.
pub(crate) const LIVE_TIMEOUT_MS: u64 = 5_000;

/// One run of this program.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) screen: Screen,
    pub(crate) globals: Globals,
    pub(crate) settings: Settings,
    pub(crate) settings_path: PathBuf,
    client: std::sync::OnceLock<Client>,
    namespace: OnceCell<Namespace>,
    info: OnceCell<Info>,
}

impl Session {
    pub(crate) fn new(globals: Globals) -> Result<Self, Failure> {
        let settings_path = settings::path()?;
        Ok(Self {
            screen: Screen::new(globals.quiet, globals.batch, globals.no_color),
            settings: Settings::load(&settings_path)?,
            globals,
            settings_path,
            client: std::sync::OnceLock::new(),
            namespace: OnceCell::new(),
            info: OnceCell::new(),
        })
    }

    /// The address of the cluster: APC_TARGET, or what `apc target` chose.
    pub(crate) fn target(&self) -> Result<String, Failure> {
        let given = std::env::var("APC_TARGET").ok().filter(|target| !target.is_empty());
        match given {
            Some(target) => settings::canonical_target(&target),
            None => self.settings.target.clone().ok_or_else(|| {
                Failure::usage("no cluster is chosen")
                    .hint("apc target http://127.0.0.1:8790, or set APC_TARGET")
            }),
        }
    }

    /// The cluster.
    pub(crate) fn client(&self) -> Result<&Client, Failure> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let target = self.target()?;
        let client = Client::new(&target, self.settings.token(&target), self.globals.quiet)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// `--namespace`, or what `apc namespace` chose, or what the cluster gives to this user.
    pub(crate) async fn namespace(&self) -> Result<&Namespace, Failure> {
        self.namespace.get_or_try_init(|| self.find_namespace()).await
    }

    async fn find_namespace(&self) -> Result<Namespace, Failure> {
        let target = self.target()?;
        let chosen =
            self.globals.namespace.as_ref().or_else(|| self.settings.namespace.get(&target));
        let text = match chosen {
            Some(text) => text.clone(),
            None => self.default_namespace().await?,
        };
        text.parse().map_err(|error: wire::FqnError| {
            Failure::usage(error.to_string()).hint("--namespace /sandbox/admin")
        })
    }

    /// What the cluster gives to this user.
    pub(crate) async fn default_namespace(&self) -> Result<String, Failure> {
        let answer: Value = self.client()?.get("/namespace/default").await?;
        let text = match &answer {
            Value::String(text) => Some(text.as_str()),
            Value::Object(fields) => fields.values().find_map(Value::as_str),
            _ => None,
        };
        text.map(str::to_owned).ok_or_else(|| {
            Failure::failed("the cluster names no namespace").hint("--namespace /sandbox/admin")
        })
    }

    /// What the cluster says about itself.
    pub(crate) async fn info(&self) -> Result<&Info, Failure> {
        self.info.get_or_try_init(|| async { self.client()?.get("/info").await }).await
    }

    /// A name as people type it.
    pub(crate) async fn fqn(&self, kind: &str, text: &str) -> Result<Fqn, Failure> {
        let refused = |error: wire::FqnError| {
            Failure::usage(error.to_string())
                .hint(format!("web, /sandbox/admin::web or {kind}::/sandbox/admin::web"))
        };
        // A whole name needs no namespace, hence no question.
        if text.contains("::") {
            let root: Namespace = "/".parse().map_err(refused)?;
            return Fqn::resolve(kind, text, &root).map_err(refused);
        }
        Fqn::resolve(kind, text, self.namespace().await?).map_err(refused)
    }

    /// A job by its name, or by its id.
    pub(crate) async fn job(&self, text: &str) -> Result<Job, Failure> {
        if let Ok(id) = text.parse::<wire::JobId>() {
            return self.client()?.get(&format!("/jobs/{id}")).await;
        }
        let fqn = self.fqn("job", text).await?;
        match self.find_job(&fqn).await? {
            Some(job) => Ok(job),
            None => Err(self.no_such_job(&fqn).await),
        }
    }

    /// A job if there is one.
    pub(crate) async fn find_job(&self, fqn: &Fqn) -> Result<Option<Job>, Failure> {
        let jobs: Vec<Job> =
            self.client()?.list(&format!("/jobs?fqn={}", escaped(&fqn.to_string()))).await?;
        Ok(jobs.into_iter().find(|job| job.fqn == *fqn))
    }

    /// Says which name was probably meant.
    async fn no_such_job(&self, fqn: &Fqn) -> Failure {
        let failure = Failure::not_found(format!("there is no \"{fqn}\""));
        let path = format!("/jobs?namespace={}", escaped(fqn.namespace().as_str()));
        let Ok(client) = self.client() else { return failure };
        let jobs: Vec<Job> = client.list(&path).await.unwrap_or_default();
        match crate::argv::nearest(fqn.local(), jobs.iter().map(|job| job.fqn.local())) {
            Some(name) => failure.hint(format!("\"{name}\"")),
            None => failure.hint("apc job list --all"),
        }
    }

    /// A package by its name, or by its id.
    pub(crate) async fn package(&self, text: &str) -> Result<Package, Failure> {
        if let Ok(id) = text.parse::<wire::PackageId>() {
            return self.client()?.get(&format!("/packages/{id}")).await;
        }
        let fqn = self.fqn("package", text).await?;
        let found = self.find_package(&fqn).await?;
        found.ok_or_else(|| {
            Failure::not_found(format!("there is no \"{fqn}\"")).hint("apc package list --all")
        })
    }

    /// A package if there is one.
    pub(crate) async fn find_package(&self, fqn: &Fqn) -> Result<Option<Package>, Failure> {
        let packages: Vec<Package> =
            self.client()?.list(&format!("/packages?fqn={}", escaped(&fqn.to_string()))).await?;
        Ok(packages.into_iter().find(|package| package.fqn == *fqn))
    }

    /// With `--json`: prints what the API answered and says that nothing else is to be printed.
    pub(crate) fn print_json<T: Serialize>(&self, object: &T) -> Result<bool, Failure> {
        if !self.globals.json {
            return Ok(false);
        }
        let text = serde_json::to_string_pretty(object).map_err(|error| {
            Failure::failed("the answer cannot be written").because(error.to_string())
        })?;
        Screen::data(&format!("{text}\n"));
        Ok(true)
    }

    /// `Working in "/sandbox/admin"`
    pub(crate) async fn say_namespace(&self) -> Result<(), Failure> {
        let namespace = self.namespace().await?;
        self.screen.say(format!("Working in \"{namespace}\""));
        Ok(())
    }
}

/// What the routers said about a write.
pub(crate) fn live_report<T>(answer: &Answer<T>) -> Option<LiveReport> {
    let text = answer.headers.get(LIVE)?.to_str().ok()?;
    serde_json::from_str(text).ok()
}

/// `live on 2/2 routers, 4/4 cores, 9 ms`
pub(crate) fn show_live(report: &LiveReport) -> String {
    if report.routers == 0 {
        return "not live yet: no router was heard".to_owned();
    }
    let LiveReport { routers_live, routers, cores_live, cores, ms, .. } = report;
    format!("live on {routers_live}/{routers} routers, {cores_live}/{cores} cores, {ms} ms")
}
