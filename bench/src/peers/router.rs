//! Our router: its configuration file, one core, the admin API on a socket.
//!
//! Deliberately absent: any setting that differs from its defaults.

use super::{Protocol, Setup, lines_of_hosts, write};

/// Path of the admin API's socket inside a setup's directory.
pub(super) const SOCKET: &str = "admin.sock";
/// The one job all routes lead to.
pub(super) const JOB: &str = "job::/bench::origin";

pub(super) fn arguments(setup: &Setup) -> Result<Option<Vec<String>>, String> {
    let (listen, origin, directory) = (setup.listen, setup.origin, setup.directory.display());
    let target = format!("targets = [ {{ job = \"{JOB}\", weight = 100 }} ]");
    let (listens, routes) = match setup.protocol {
        Protocol::Tcp => {
            (String::new(), format!("[[route]]\nendpoint = \"tcp://{listen}\"\n{target}\n"))
        }
        Protocol::Http | Protocol::Https => {
            let word = if setup.protocol == Protocol::Http { "http" } else { "https" };
            let route = |host: &str| format!("[[route]]\nendpoint = \"http://{host}\"\n{target}\n");
            (format!("{word} = [\"{listen}\"]\n"), lines_of_hosts(setup, route))
        }
    };
    let certificate = match setup.protocol {
        Protocol::Https => format!(
            "[[certificate]]\nserver_names = []\nchain = \"{}\"\nkey = \"{}\"\n",
            setup.certificate.display(),
            setup.key.display()
        ),
        Protocol::Http | Protocol::Tcp => String::new(),
    };
    let text = format!(
        "[listen]
{listens}admin = \"unix:{directory}/{SOCKET}\"

[router]
cores = 1

{certificate}
[[job]]
name = \"{JOB}\"
instances = [\"{origin}\"]

{routes}"
    );
    let path = setup.directory.join("router.toml");
    write(&path, &text)?;
    Ok(Some(vec![
        "--config".to_owned(),
        path.display().to_string(),
        "--cores".to_owned(),
        "1".to_owned(),
    ]))
}
