//! A router.toml in the making: only what the test at hand wants to say, the rest left to defaults.
//!
//! Deliberately absent: any check. Wrong files are tests, too.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::origin::Origin;

/// What goes into a router.toml.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Whether to listen for TLS; needs a certificate.
    pub https: bool,
    listen: Option<String>,
    jobs: Vec<Job>,
    routes: Vec<Route>,
    certificates: Vec<(Vec<String>, PathBuf, PathBuf)>,
    router: Vec<(String, String)>,
    tables: Vec<(&'static str, String, String)>,
    tail: String,
}

#[derive(Clone, Debug)]
struct Job {
    name: String,
    client_acl: String,
    instances: Vec<SocketAddr>,
}

#[derive(Clone, Debug)]
struct Route {
    endpoint: String,
    https_only: bool,
    targets: Vec<(String, f64)>,
}

impl Config {
    /// Nothing but listeners.
    pub fn new() -> Self {
        Self::default()
    }

    /// One job `app` with this origin, at the host `app.test`.
    pub fn app(origin: &Origin) -> Self {
        Self::new().job("app", &[origin.addr()]).route("http://app.test", &[("app", 0.0)])
    }

    /// Listen for plain HTTP at this address instead of 127.0.0.1.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    /// Add a job.
    #[must_use]
    pub fn job(self, name: &str, instances: &[SocketAddr]) -> Self {
        self.guarded_job(name, "", instances)
    }

    /// Add a job with a client ACL.
    #[must_use]
    pub fn guarded_job(mut self, name: &str, client_acl: &str, instances: &[SocketAddr]) -> Self {
        let (name, client_acl) = (name.to_owned(), client_acl.to_owned());
        self.jobs.push(Job { name, client_acl, instances: instances.to_vec() });
        self
    }

    /// Add a route to jobs by weight.
    #[must_use]
    pub fn route(mut self, endpoint: &str, targets: &[(&str, f64)]) -> Self {
        let targets = targets.iter().map(|(job, weight)| ((*job).to_owned(), *weight)).collect();
        self.routes.push(Route { endpoint: endpoint.to_owned(), https_only: false, targets });
        self
    }

    /// Add a route that answers plain HTTP with a redirect.
    #[must_use]
    pub fn https_only(mut self, endpoint: &str, job: &str) -> Self {
        self = self.route(endpoint, &[(job, 0.0)]);
        if let Some(last) = self.routes.last_mut() {
            last.https_only = true;
        }
        self
    }

    /// Listen for TLS and use this certificate; `server_names` may be empty.
    #[must_use]
    pub fn certificate(mut self, server_names: &[&str], chain: &Path, key: &Path) -> Self {
        let names = server_names.iter().map(|name| (*name).to_owned()).collect();
        self.certificates.push((names, chain.to_owned(), key.to_owned()));
        self.https = true;
        self
    }

    /// A key of `[router]` with its value as TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.router.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Trust these networks to tell the client's address.
    #[must_use]
    pub fn trusting(self, network: &str) -> Self {
        self.set("trusted_proxies", &format!("[{network:?}]"))
    }

    /// A key of `[limits]`.
    #[must_use]
    pub fn limit(mut self, key: &str, value: u64) -> Self {
        self.tables.push(("limits", key.to_owned(), value.to_string()));
        self
    }

    /// A key of `[timeouts]`, in milliseconds.
    #[must_use]
    pub fn timeout(mut self, key: &str, value: u64) -> Self {
        self.tables.push(("timeouts", key.to_owned(), value.to_string()));
        self
    }

    /// A key of `[access_log]` with its value as TOML.
    #[must_use]
    pub fn access_log(mut self, key: &str, value: &str) -> Self {
        self.tables.push(("access_log", key.to_owned(), value.to_owned()));
        self
    }

    /// Text at the end of the file as it is.
    #[must_use]
    pub fn tail(mut self, text: &str) -> Self {
        self.tail.push_str(text);
        self
    }

    /// The file, with its admin socket in `folder`.
    pub fn render(&self, folder: &Path) -> String {
        let mut out = String::from("[listen]\n");
        line(&mut out, "http", &format!("[{:?}]", self.listen.as_deref().unwrap_or("127.0.0.1:0")));
        if self.https {
            out.push_str("https = [\"127.0.0.1:0\"]\n");
        }
        line(&mut out, "admin", &format!("\"unix:{}\"", folder.join("admin.sock").display()));
        out.push_str("\n[router]\n");
        if !self.router.iter().any(|(key, _)| key == "cores") {
            line(&mut out, "cores", "1");
        }
        for (key, value) in &self.router {
            line(&mut out, key, value);
        }
        for table in ["limits", "timeouts", "access_log"] {
            let mut entries = self.tables.iter().filter(|entry| entry.0 == table).peekable();
            if entries.peek().is_some() {
                out.push_str(&format!("\n[{table}]\n"));
            }
            for (_, key, value) in entries {
                line(&mut out, key, value);
            }
        }
        self.render_lists(&mut out);
        out.push_str(&self.tail);
        out
    }

    fn render_lists(&self, out: &mut String) {
        for (names, chain, key) in &self.certificates {
            out.push_str("\n[[certificate]]\n");
            line(out, "server_names", &format!("{names:?}"));
            line(out, "chain", &format!("{:?}", chain.display().to_string()));
            line(out, "key", &format!("{:?}", key.display().to_string()));
        }
        for job in &self.jobs {
            let instances: Vec<String> = job.instances.iter().map(ToString::to_string).collect();
            out.push_str("\n[[job]]\n");
            line(out, "name", &format!("{:?}", job.name));
            if !job.client_acl.is_empty() {
                line(out, "client_acl", &format!("{:?}", job.client_acl));
            }
            line(out, "instances", &format!("{instances:?}"));
        }
        for route in &self.routes {
            out.push_str("\n[[route]]\n");
            line(out, "endpoint", &format!("{:?}", route.endpoint));
            line(out, "https_only", &route.https_only.to_string());
            let targets: Vec<String> = route
                .targets
                .iter()
                .map(|(job, weight)| format!("{{ job = {job:?}, weight = {weight} }}"))
                .collect();
            line(out, "targets", &format!("[{}]", targets.join(", ")));
        }
    }
}

fn line(out: &mut String, key: &str, value: &str) {
    writeln!(out, "{key} = {value}").expect("writing to a String does not fail");
}
