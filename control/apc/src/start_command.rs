//! Which command starts an application, when nobody says so.
//!
//! In this order: `--start-cmd`, `start_cmd` of continuum.conf, `bash_start.sh`, the `web:` line of a `Procfile`,
//! `scripts.start` of `package.json`. Deliberately absent: staging; what an interpreter needs is on the host.

use crate::failure::Failure;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Bytes of a file that is looked into.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The command, from what lies in the directory.
pub(crate) fn find(directory: &Path) -> Result<String, Failure> {
    if let Ok(about) = fs::metadata(directory.join("bash_start.sh"))
        && about.is_file()
    {
        // Files that came through a zip or a share have lost the bit.
        let executable = about.permissions().mode() & 0o111 != 0;
        return Ok(if executable { "./bash_start.sh" } else { "bash ./bash_start.sh" }.to_owned());
    }
    if let Some(command) = read(&directory.join("Procfile")).as_deref().and_then(of_procfile) {
        return Ok(command);
    }
    if read(&directory.join("package.json")).as_deref().is_some_and(has_start_script) {
        return Ok("npm start".to_owned());
    }
    Err(Failure::usage(format!("it is not known how to start what is in {}", directory.display()))
        .because("it has no start_cmd in continuum.conf, no bash_start.sh, no web: line in a Procfile, no scripts.start in package.json")
        .hint("--start-cmd './server --port $PORT'"))
}

fn read(path: &Path) -> Option<String> {
    let small = fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= FILE_BYTES_MAX);
    if small { fs::read_to_string(path).ok() } else { None }
}

fn of_procfile(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("web:"))?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn has_start_script(text: &str) -> bool {
    let package: Option<serde_json::Value> = serde_json::from_str(text).ok();
    package.is_some_and(|package| package["scripts"]["start"].is_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the files in their order, and a clear word when there is none.
    #[test]
    fn files_in_their_order() {
        let folder = std::env::temp_dir().join(format!("apc-start-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let failure = find(&folder).unwrap_err();
        assert!(
            failure.what.starts_with("it is not known how to start what is in "),
            "{failure:?}"
        );
        assert!(!failure.why.is_empty() && failure.remedy.contains("--start-cmd"));
        fs::write(folder.join("package.json"), r#"{"scripts":{"start":"node x"}}"#).unwrap();
        assert_eq!(find(&folder).unwrap(), "npm start");
        fs::write(folder.join("Procfile"), "worker: x\nweb: ./serve $PORT\n").unwrap();
        assert_eq!(find(&folder).unwrap(), "./serve $PORT");
        let script = folder.join("bash_start.sh");
        fs::write(&script, "").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(find(&folder).unwrap(), "bash ./bash_start.sh");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(&folder).unwrap(), "./bash_start.sh");
        fs::remove_dir_all(folder).unwrap();
    }
}
