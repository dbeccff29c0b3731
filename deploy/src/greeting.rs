//! What `apcera up` says when it is ready: where everything is, and the next commands.
//!
//! Deliberately absent: secrets; the token stands in its file only.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Facts of the greeting.
pub(crate) struct Greeting<'a> {
    pub(crate) took: Duration,
    pub(crate) domain: &'a str,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) state: &'a Path,
    pub(crate) token_file: &'a Path,
    pub(crate) engine: &'a str,
    pub(crate) cores: usize,
}

impl Greeting<'_> {
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!(
            "apcera {}: a whole cluster, ready in {} ms",
            env!("CARGO_PKG_VERSION"),
            self.took.as_millis()
        ));
        line(format!(
            "  apps       http://<route>.{}:{}   https on {} (self-signed)",
            self.domain,
            self.http.port(),
            self.https.port()
        ));
        line(format!("  API        http://{}   described at /v1/openapi.json", self.api));
        line(format!(
            "  dashboard  http://{}   router: {} on {} cores",
            self.admin, self.engine, self.cores
        ));
        line(format!("  state      {}", self.state.display()));
        line(String::new());
        line("next, in another terminal:".to_owned());
        match folder_with("apc") {
            Some(folder) => line(format!("  export PATH={}:$PATH", folder.display())),
            None => {
                line("  cargo build --release && export PATH=$PWD/target/release:$PATH".to_owned())
            }
        }
        line(format!("  apc target http://{}", self.api));
        line(format!("  apc login --token-file {}", self.token_file.display()));
        line("  apc app create hello -p docs/hello --batch      # prints the URL".to_owned());
        line(String::new());
        line("Ctrl-C ends it and its instances; the next start goes on from here.".to_owned());
        out
    }
}

/// The folder of this program, if another one lies there too.
fn folder_with(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.with_file_name(name).is_file().then(|| own.parent().map(Path::to_owned)).flatten()
}
