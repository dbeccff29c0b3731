//! `apcera up` in a folder of its own, on free ports.
//!
//! Deliberately absent: root, and any other server.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Apc, program};
use crate::client::Client;
use crate::process::Process;
use crate::router::Folder;
use crate::wait::until_some;

/// A whole cluster in one process.
#[derive(Debug)]
pub struct Up {
    /// The process itself.
    pub process: Process,
    /// What it wrote about itself when it was ready.
    pub about: Value,
    folder: Folder,
}

impl Up {
    /// Start one with an empty state.
    pub fn start() -> Self {
        Self::start_in(Folder::new())
    }

    /// Start one on the state of an earlier one.
    ///
    /// # Panics
    /// When it does not become ready; its output is shown.
    pub fn start_in(folder: Folder) -> Self {
        let state = folder.path().join("state");
        let about = state.join("up.json");
        drop(fs::remove_file(&about));
        let mut command = Command::new(program("apcera"));
        command.arg("up").arg("--state").arg(&state).args([
            "--http",
            "0",
            "--https",
            "0",
            "--api",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--verbose",
        ]);
        if let Ok(engine) = std::env::var("ROUTER_ENGINE") {
            command.args(["--engine", &engine]);
        }
        let output = folder.path().join("output.txt");
        let mut process = Process::start(&mut command, &output);
        let ready = || {
            if let Some(status) = process.try_exit() {
                let text = fs::read_to_string(&output).unwrap_or_default();
                panic!("the cluster ended at start ({status}):\n{text}");
            }
            serde_json::from_str(&fs::read_to_string(&about).ok()?).ok()
        };
        let about = until_some("the cluster is ready", ready);
        Self { process, about, folder }
    }

    /// An operator: targeted and logged in.
    pub fn apc(&self) -> Apc {
        let apc = Apc::new(self.folder(), self.folder());
        apc.run(&format!("target {}", self.text("api"))).ok();
        apc.run(&format!("login --token-file {}", self.text("token_file"))).ok();
        apc
    }

    /// Something that it wrote about itself.
    ///
    /// # Panics
    /// When it did not.
    pub fn text(&self, key: &str) -> String {
        self.about[key].as_str().unwrap_or_else(|| panic!("no {key} in {}", self.about)).to_owned()
    }

    /// Where the router listens, `http` or `https`.
    ///
    /// # Panics
    /// When it does not.
    pub fn router(&self, kind: &str) -> SocketAddr {
        self.text(kind).parse().expect("an address")
    }

    /// Body of a plain GET through the router, with its status.
    pub fn get(&self, host: &str, path: &str) -> (u16, String) {
        let response = Client::connect(self.router("http")).get(host, path);
        (response.status, response.text())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Directory of its state.
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// What it wrote to both outputs so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder().join("output.txt")).unwrap_or_default()
    }

    /// Ask it to end, wait, and keep its folder.
    ///
    /// # Panics
    /// When it does not end well.
    #[must_use]
    pub fn end(mut self) -> Folder {
        self.process.signal("INT");
        let status = self.process.wait_exit();
        assert!(status.success(), "{status}:\n{}", self.output());
        std::mem::take(&mut self.folder)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let last = &lines[lines.len().saturating_sub(80)..];
            println!("--- what the cluster said\n{}", last.join("\n"));
        }
        if self.process.try_exit().is_none() {
            self.process.signal("INT");
            self.process.wait_exit();
        }
    }
}
