//! What this program remembers between two commands: the cluster, a token and a namespace for each cluster.
//!
//! One JSON file, `$APC_HOME/.apc` or `$HOME/.apc`, readable by its owner only; APC_TARGET and APC_TOKEN win. Fields of
//! newer versions survive. Deliberately absent: passwords.

use crate::failure::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Name of the file.
const FILE: &str = ".apc";
/// Bytes of the file; it holds a few lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Address of the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    /// By address: `Bearer …`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tokens: BTreeMap<String, String>,
    /// By address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) namespace: BTreeMap<String, String>,
    #[serde(flatten)]
    extra: BTreeMap<String, serde_json::Value>,
}

/// Where the file is.
pub(crate) fn path() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("APC_HOME").filter(|home| !home.is_empty());
    let home = home.or_else(|| std::env::var_os("HOME").filter(|home| !home.is_empty()));
    home.map(|home| Path::new(&home).join(FILE)).ok_or_else(|| {
        Failure::failed("there is no place for settings")
            .because("HOME is not set")
            .hint("set HOME or APC_HOME")
    })
}

impl Settings {
    /// What the file says; an absent file says nothing.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let told = |why: String| {
            Failure::failed(format!("cannot read {}", path.display()))
                .because(why)
                .hint("mend it, or delete it and choose the target again")
        };
        match fs::metadata(path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                return Err(told(format!("{} bytes", meta.len())));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(told(error.to_string())),
        }
        let text = fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(&text).map_err(|error| told(error.to_string()))
    }

    /// Writes the file whole or not at all; only its owner can read it.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let written = self.write(path);
        written.map_err(|error| {
            Failure::failed(format!("cannot write {}", path.display())).because(error.to_string())
        })
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    }

    /// The token for a cluster, as the header has it.
    pub(crate) fn token(&self, target: &str) -> Option<String> {
        let given = std::env::var("APC_TOKEN").ok().filter(|token| !token.is_empty());
        given.as_deref().map(bearer).or_else(|| self.tokens.get(target).cloned())
    }
}

/// A token as the header has it.
pub(crate) fn bearer(token: &str) -> String {
    let token = token.trim();
    let bare = token.strip_prefix("Bearer ").unwrap_or(token);
    format!("Bearer {}", bare.trim())
}

/// The address as people type it, made whole: a scheme, no slash at the end, no `/v1`.
pub(crate) fn canonical_target(text: &str) -> Result<String, Failure> {
    let refused = |why: String| {
        Failure::usage(format!("\"{text}\" is not the address of a cluster"))
            .because(why)
            .hint("apc target http://127.0.0.1:8790")
    };
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = reqwest::Url::parse(&whole).map_err(|error| refused(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused(format!("the scheme is {}, not http or https", url.scheme())));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refused("it has no host".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(refused("it holds more than a host, a port and a path".to_owned()));
    }
    let text = url.as_str().trim_end_matches('/');
    Ok(text.strip_suffix("/v1").unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("apc-settings-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder.join(FILE)
    }

    /// Goal: what is written is read; strange fields survive; nobody else can read it.
    #[test]
    fn written_is_read() {
        let path = place("written");
        fs::write(&path, r#"{"target":"http://a","future":7}"#).unwrap();
        let mut settings = Settings::load(&path).unwrap();
        settings.tokens.insert("http://a".to_owned(), bearer("secret"));
        settings.save(&path).unwrap();
        assert_eq!(Settings::load(&path).unwrap(), settings);
        assert!(fs::read_to_string(&path).unwrap().contains("\"future\": 7"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    /// Goal: an absent file is empty settings; a broken one is told with its name.
    #[test]
    fn absent_and_broken() {
        let path = place("broken");
        assert_eq!(Settings::load(&path).unwrap(), Settings::default());
        fs::write(&path, "{").unwrap();
        let failure = Settings::load(&path).unwrap_err();
        assert!(failure.what.starts_with("cannot read ") && !failure.why.is_empty(), "{failure:?}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    /// Goal: addresses get one form; what is no address is refused.
    #[test]
    fn addresses_have_one_form() {
        for (text, expected) in [
            ("http://127.0.0.1:8790/", "http://127.0.0.1:8790"),
            ("api.example.com", "https://api.example.com"),
            ("https://API.example.com/v1", "https://api.example.com"),
        ] {
            assert_eq!(canonical_target(text).unwrap(), expected);
        }
        for text in ["ftp://x", "http://", "http://a:b@c", "http://a?b=c", ""] {
            assert!(canonical_target(text).is_err(), "{text:?}");
        }
        assert_eq!(bearer(" Bearer x\n"), "Bearer x");
    }
}
