//! nginx as a proxy or an origin: the yardstick by which the harness itself is proven, and a real server to route to.
//!
//! Deliberately absent: tuning. One worker, no logs, every file in the test's own folder.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::port::HeldPort;
use crate::process::Process;
use crate::router::Folder;
use crate::wait::until;

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    /// The process.
    pub process: Process,
    port: HeldPort,
    folder: Folder,
}

impl Nginx {
    /// A proxy to one origin with HTTP/1.1 and keep-alive to it; `None` when nginx is not installed.
    pub fn proxy(origin: SocketAddr) -> Option<Self> {
        let upstream = format!("upstream origin {{ server {origin}; keepalive 8; }}");
        let location = "proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                        proxy_set_header Host $http_host; proxy_request_buffering off; proxy_buffering off;";
        Self::start(&upstream, &format!("location / {{ {location} }}"))
    }

    /// A server of files from its own folder; `None` when nginx is not installed.
    pub fn files() -> Option<Self> {
        Self::start("", "location / { root files; }")
    }

    fn start(http: &str, server: &str) -> Option<Self> {
        let program = crate::tool::find("nginx")?;
        let (port, folder) = (HeldPort::new(), Folder::new());
        let path = folder.path();
        fs::create_dir_all(path.join("files")).expect("the folder is writable");
        let text = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_max_body_size 0;\n\
             client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n\
             {http}\nserver {{ listen {} reuseport; {server} }} }}\n",
            port.addr()
        );
        fs::write(path.join("nginx.conf"), text).expect("the folder is writable");
        let mut command = Command::new(program);
        command.arg("-p").arg(path).args(["-c", "nginx.conf"]);
        let mut process = Process::start(&mut command, &path.join("output.txt"));
        until("nginx listens", || {
            assert!(process.try_exit().is_none(), "nginx ended at start, see {}", path.display());
            std::net::TcpStream::connect(port.addr()).is_ok()
        });
        Some(Self { process, port, folder })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Where [`Nginx::files`] finds its files.
    pub fn root(&self) -> std::path::PathBuf {
        let folder: &Path = self.folder.path();
        folder.join("files")
    }
}
