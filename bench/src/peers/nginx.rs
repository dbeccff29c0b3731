//! nginx: one worker, `keepalive` upstream, host `map` for many hosts, `stream` for TCP.
//!
//! Deliberately absent: a `server` block for each host; with 10,000 of them nginx needs half as much CPU again and
//! 17 times the memory, so the map is the fair form.

use std::path::Path;

use super::{Protocol, Setup, lines_of_hosts, write};
use crate::tls::SERVER_NAME;

const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

const HEADERS_ALL: &str = "\
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host;
    proxy_set_header X-Forwarded-Port $server_port;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Request-Id $request_id;
";

const BUFFERS: &str = "\
    proxy_buffer_size 16k;
    proxy_buffers 8 16k;
";

/// The best of six settings that were measured with bodies of 1 MiB, in both directions.
const BUFFERS_BULK: &str = "\
    proxy_buffering off;
    proxy_buffer_size 256k;
    proxy_buffers 8 256k;
    proxy_busy_buffers_size 512k;
    client_body_buffer_size 512k;
";

pub(super) fn arguments(program: &Path, setup: &Setup) -> Result<Option<Vec<String>>, String> {
    let needs_module = setup.protocol == Protocol::Tcp && has_dynamic_stream(program);
    if needs_module && !Path::new(STREAM_MODULE).is_file() {
        return Ok(None);
    }
    let body = match setup.protocol {
        Protocol::Tcp => stream(setup),
        Protocol::Http | Protocol::Https => http(setup)?,
    };
    let directory = setup.directory.display();
    let module =
        if needs_module { format!("load_module {STREAM_MODULE};\n") } else { String::new() };
    let text = format!(
        "{module}worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 19500; multi_accept on; }}
{body}"
    );
    let path = setup.directory.join("nginx.conf");
    write(&path, &text)?;
    let words = ["-p", &directory.to_string(), "-e", "stderr", "-c", &path.display().to_string()];
    Ok(Some(words.map(str::to_owned).to_vec()))
}

/// Debian packs the stream module separately (`libnginx-mod-stream`); a build of one's own has it inside.
fn has_dynamic_stream(program: &Path) -> bool {
    let output = std::process::Command::new(program).arg("-V").output();
    output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stderr).contains("--with-stream=dynamic")
    })
}

fn stream(setup: &Setup) -> String {
    let (listen, origin) = (setup.listen, setup.origin);
    let buffer = if setup.bulk { "256k" } else { "16k" };
    format!(
        "stream {{
  access_log off;
  upstream origin {{ server {origin}; }}
  server {{ listen {listen} backlog=4096; proxy_pass origin; tcp_nodelay on; proxy_buffer_size {buffer}; }}
}}
"
    )
}

fn http(setup: &Setup) -> Result<String, String> {
    let (listen, origin, directory) = (setup.listen, setup.origin, setup.directory.display());
    let tls = match setup.protocol {
        Protocol::Https => format!(
            "  ssl_certificate {};
  ssl_certificate_key {};
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:tls:16m;
  ssl_session_tickets on;
",
            setup.certificate.display(),
            setup.key.display()
        ),
        Protocol::Http | Protocol::Tcp => String::new(),
    };
    let ssl = if setup.protocol == Protocol::Https { " ssl" } else { "" };
    let (map, pool, name) = if setup.hosts > 1 {
        let hosts = setup.directory.join("hosts.map");
        write(&hosts, &lines_of_hosts(setup, |host| format!("{host} origin;")))?;
        let map = format!("  map $host $pool {{ default none; include {}; }}\n", hosts.display());
        (map, "$pool", "_")
    } else {
        (String::new(), "origin", SERVER_NAME)
    };
    let buffers = if setup.bulk { BUFFERS_BULK } else { BUFFERS };
    let headers = if setup.same_headers { HEADERS_ALL } else { "" };
    Ok(format!(
        "http {{
  access_log off;
  server_tokens off;
  tcp_nodelay on;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  map_hash_max_size 1000000;
  map_hash_bucket_size 128;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
{tls}{map}  upstream origin {{
    server {origin};
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
  }}
  upstream none {{ server 127.0.0.1:9 down; }}
  server {{
    listen {listen} backlog=4096{ssl};
    server_name {name};
    client_max_body_size 0;
    location / {{
    proxy_pass http://{pool};
    proxy_http_version 1.1;
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
{buffers}    proxy_set_header Connection \"\";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
{headers}    }}
  }}
}}
"
    ))
}
