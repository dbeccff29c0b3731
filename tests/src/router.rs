//! A router process with a folder of its own, started from a [`Config`], ended when dropped.
//!
//! The binary is the one named by `ROUTER_BIN` (set by `tests/run`), else what `cargo build -p router` makes.
//! The engine is the one named by `ROUTER_ENGINE`, else the router's own choice.
//! Deliberately absent: anything in-process. What is tested is what is shipped.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use serde_json::Value;

use crate::admin::Admin;
use crate::client::{Client, TlsClient};
use crate::config::Config;
use crate::process::Process;
use crate::wait::until_some;

/// Lines of the router's own output shown with a failing test.
const OUTPUT_LINES_SHOWN: usize = 60;

/// A folder that is removed with this value.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Make an empty one.
    ///
    /// # Panics
    /// When the temporary directory is not writable.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("router-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        crate::server::ignore(fs::remove_dir_all(&self.0));
    }
}

/// A running router.
#[derive(Debug)]
pub struct Router {
    /// The process itself.
    pub process: Process,
    /// Its admin API.
    pub admin: Admin,
    http: SocketAddr,
    https: Option<SocketAddr>,
    folder: Folder,
}

impl Router {
    /// Start and wait until it is ready.
    ///
    /// # Panics
    /// When it does not become ready; its output is shown.
    pub fn start(config: &Config) -> Self {
        Self::start_in(Folder::new(), config)
    }

    /// Start in a folder that holds certificates already.
    ///
    /// # Panics
    /// When it does not become ready; its output is shown.
    pub fn start_in(folder: Folder, config: &Config) -> Self {
        fs::write(folder.path().join("router.toml"), config.render(folder.path()))
            .expect("the folder is writable");
        let mut command = Command::new(binary());
        command.arg("--config").arg(folder.path().join("router.toml"));
        if let Ok(engine) = std::env::var("ROUTER_ENGINE") {
            command.args(["--engine", &engine]);
        }
        let output = folder.path().join("output.txt");
        let mut process = Process::start(&mut command, &output);
        let admin = Admin::at(&folder.path().join("admin.sock"));
        let ready = || {
            if let Some(status) = process.try_exit() {
                let text = fs::read_to_string(&output).unwrap_or_default();
                panic!("the router ended at start ({status}):\n{text}");
            }
            let answer = admin.try_raw("GET /readyz", &[], "")?;
            (answer.status == 200).then_some(())
        };
        until_some("the router is ready", ready);
        let status = admin.status();
        let http = listener(&status, "http").unwrap_or_else(|| panic!("no address in {status}"));
        let https = listener(&status, "https");
        Self { process, admin, http, https, folder }
    }

    /// Where it listens for plain HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it listens for TLS.
    ///
    /// # Panics
    /// When it was not told to.
    pub fn https(&self) -> SocketAddr {
        self.https.expect("the configuration has a certificate")
    }

    /// A new plain connection.
    pub fn connect(&self) -> Client {
        Client::connect(self.http)
    }

    /// A new TLS connection that must come up.
    ///
    /// # Panics
    /// When the handshake fails.
    pub fn connect_tls(
        &self,
        config: &std::sync::Arc<rustls::ClientConfig>,
        name: &str,
    ) -> Client<TlsClient> {
        Client::connect_tls(self.https(), config, name).expect("the handshake succeeds")
    }

    /// Its folder: certificates, log, configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Put another configuration in place of the file, in one step.
    ///
    /// # Panics
    /// When the folder is not writable.
    pub fn rewrite(&self, text: &str) {
        let (new, file) =
            (self.folder().join("router.toml.new"), self.folder().join("router.toml"));
        fs::write(&new, text).expect("the folder is writable");
        fs::rename(&new, &file).expect("the folder is writable");
    }

    /// What it wrote to both outputs so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder().join("output.txt")).unwrap_or_default()
    }

    /// Requests and connections in flight to this instance, as the router tells it.
    pub fn stats(&self, by: &str) -> Value {
        self.admin.get(&format!("/v1/stats?by={by}")).json
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let ended = self.process.try_exit();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let from = lines.len().saturating_sub(OUTPUT_LINES_SHOWN);
            eprintln!(
                "--- the router's output (ended: {ended:?}) ---\n{}",
                lines[from..].join("\n")
            );
        }
    }
}

/// The address of a listener by kind, from `/v1/status`.
fn listener(status: &Value, kind: &str) -> Option<SocketAddr> {
    let found = status["listeners"].as_array()?.iter().find(|listener| listener["kind"] == kind)?;
    found["address"].as_str()?.parse().ok()
}

/// The router's binary.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("ROUTER_BIN").map_or_else(build, PathBuf::from))
}

/// Build it beside the running test: `target/debug/deps/e2e-…` has `target/debug/router` two levels up.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let profile = test.ancestors().nth(2).expect("tests run from target/<profile>/deps");
    let target = profile.parent().expect("a profile's folder lies in the target folder");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "-q", "-p", "router", "--bin", "router", "--target-dir"]).arg(target);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo is there when its tests run");
    assert!(status.success(), "cargo build -p router failed");
    profile.join("router")
}
