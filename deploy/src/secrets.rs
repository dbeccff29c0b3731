//! What a cluster of one machine makes for itself at its first start: a token for its operator, and a certificate.
//!
//! Both are kept in the state directory with mode 0600 and used again. Deliberately absent: real identities, and a
//! certificate authority; browsers will warn.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::RngExt;

use crate::failure::Failure;

/// Letters of a token; more than 256 bits of them.
const TOKEN_LETTERS: usize = 48;

/// The operator's token: read, or made.
pub(crate) fn admin_token(file: &Path) -> Result<String, Failure> {
    const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
    if file.exists() {
        return read_token(file);
    }
    let mut source = rand::rng();
    let token: String = (0..TOKEN_LETTERS)
        .map(|_| char::from(LETTERS[source.random_range(0..LETTERS.len())]))
        .collect();
    write_private(file, format!("{token}\n").as_bytes())?;
    Ok(token)
}

/// A token that stands in a file, alone.
pub(crate) fn read_token(file: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(file).map_err(|why| {
        Failure::new(format!("cannot read the token in {}", file.display()), why)
            .hint(format!("openssl rand -hex 32 > {}", file.display()))
    })?;
    let token = text.trim();
    if token.len() < 16 || !token.chars().all(|c| c.is_ascii_graphic()) {
        let why = "a token is one word of 16 letters or more";
        return Err(Failure::new(format!("{} holds no token", file.display()), why)
            .hint("remove the file, and a new token is made at the next start"));
    }
    Ok(token.to_owned())
}

/// A certificate for the cluster's domain and its key, as PEM files: there, or made.
pub(crate) fn certificate(chain: &Path, key: &Path, domain: &str) -> Result<(), Failure> {
    let names_file = chain.with_extension("names");
    let names = vec![format!("*.{domain}"), domain.to_owned(), "localhost".to_owned()];
    let wanted = names.join("\n");
    let made_for = fs::read_to_string(&names_file).unwrap_or_default();
    if chain.exists() && key.exists() && made_for == wanted {
        return Ok(());
    }
    let failed = |why: rcgen::Error| Failure::new(format!("no certificate for {domain}"), why);
    let made = rcgen::generate_simple_self_signed(names).map_err(failed)?;
    write_private(key, made.signing_key.serialize_pem().as_bytes())?;
    write_private(chain, made.cert.pem().as_bytes())?;
    write_private(&names_file, wanted.as_bytes())
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(file: &Path, content: &[u8]) -> Result<(), Failure> {
    let beside = file.with_extension("new");
    let write = || {
        drop(fs::remove_file(&beside));
        let mut out =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        out.write_all(content)?;
        out.sync_all()?;
        fs::rename(&beside, file)
    };
    write().map_err(|why| Failure::new(format!("cannot write {}", file.display()), why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Goal: a token is made once, private, and refused when somebody spoiled it.
    #[test]
    fn a_token_is_made_once() {
        let dir = std::env::temp_dir().join(format!("apcera-token-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("admin.token");
        let first = admin_token(&file).unwrap();
        assert_eq!(first.len(), TOKEN_LETTERS);
        assert_eq!(admin_token(&file).unwrap(), first);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "short").unwrap();
        assert!(admin_token(&file).unwrap_err().to_string().contains("holds no token"));
        fs::remove_dir_all(&dir).unwrap();
    }

    /// Goal: a certificate is made once for one domain, and anew for another.
    #[test]
    fn a_certificate_fits_its_domain() {
        let dir = std::env::temp_dir().join(format!("apcera-cert-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (chain, key) = (dir.join("c.pem"), dir.join("k.pem"));
        certificate(&chain, &key, "a.localhost").unwrap();
        let first = fs::read(&chain).unwrap();
        certificate(&chain, &key, "a.localhost").unwrap();
        assert_eq!(fs::read(&chain).unwrap(), first);
        certificate(&chain, &key, "b.localhost").unwrap();
        assert_ne!(fs::read(&chain).unwrap(), first);
        fs::remove_dir_all(&dir).unwrap();
    }
}
