//! HAProxy: one thread, `http-reuse always`, a host map for many hosts, splicing where it can.
//!
//! Deliberately absent: `busy-polling`; it buys latency with a whole CPU.

use std::path::PathBuf;

use super::{Protocol, Setup, lines_of_hosts, write};
use crate::tls::SERVER_NAME;

const HEADERS_ALL: &str = "\
  unique-id-format %{+X}o%ci%cp%fi%fp%Ts%rt%pid
  unique-id-header X-Request-Id
  http-request set-header X-Forwarded-Proto http if !{ ssl_fc }
  http-request set-header X-Forwarded-Proto https if { ssl_fc }
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Real-IP %[src]
";

/// Told outright: `splice-auto` did not find these streams worth it, and needed twice the CPU.
const SPLICE: &str = "  option splice-request\n  option splice-response\n";

/// Path of the runtime API's socket inside a setup's directory.
pub(super) const SOCKET: &str = "haproxy.sock";

/// The file the table is read from, by which the runtime API knows it.
pub(super) fn map(setup: &Setup) -> PathBuf {
    setup.directory.join("hosts.map")
}

pub(super) fn arguments(setup: &Setup) -> Result<Option<Vec<String>>, String> {
    let (listen, origin) = (setup.listen, setup.origin);
    let directory = setup.directory.display();
    let tls = match setup.protocol {
        Protocol::Https => {
            let read =
                |path| std::fs::read_to_string(path).map_err(|e: std::io::Error| e.to_string());
            let joined = setup.directory.join("joined.pem");
            write(&joined, &(read(&setup.certificate)? + &read(&setup.key)?))?;
            format!(" ssl crt {} alpn http/1.1", joined.display())
        }
        Protocol::Http | Protocol::Tcp => String::new(),
    };
    let choice = match (setup.protocol, setup.hosts) {
        (Protocol::Tcp, _) => "  default_backend origin\n".to_owned(),
        (_, 1) => format!("  use_backend origin if {{ req.hdr(host) -i {SERVER_NAME} }}\n"),
        _ => {
            let hosts = map(setup);
            write(&hosts, &lines_of_hosts(setup, |host| format!("{host} origin")))?;
            format!("  use_backend %[req.hdr(host),lower,map_str({})]\n", hosts.display())
        }
    };
    let (mode, http) = if setup.protocol == Protocol::Tcp {
        ("tcp", "")
    } else {
        ("http", "  option http-keep-alive\n  http-reuse always\n  option forwardfor\n")
    };
    let splice = if setup.bulk { SPLICE } else { "" };
    let headers = if setup.same_headers && mode == "http" { HEADERS_ALL } else { "" };
    let text = format!(
        "global
  nbthread 1
  maxconn 9900
  no strict-limits
  stats socket {directory}/{SOCKET} mode 600 level admin
  tune.pipesize 1048576
  tune.ssl.default-dh-param 2048
  tune.ssl.cachesize 100000
  tune.pool-low-fd-ratio 90
  tune.pool-high-fd-ratio 95
defaults
  mode {mode}
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout http-keep-alive 300s
{splice}{http}frontend edge
  bind {listen} backlog 4096{tls}
{headers}{choice}backend origin
  server one {origin} pool-purge-delay 300s
"
    );
    let path = setup.directory.join("haproxy.cfg");
    write(&path, &text)?;
    Ok(Some(vec!["-db".to_owned(), "-f".to_owned(), path.display().to_string()]))
}
