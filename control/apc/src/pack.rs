//! A directory as one archive: tar, gzip, the same bytes for the same files.
//!
//! Names are sorted, owners and device numbers are left out, times stay. Links stay links; one that leads out of the
//! directory is refused, because the instance manager would refuse it later. Deliberately absent: detection of what the
//! directory holds (`start_command`).

use crate::failure::Failure;
use crate::ignore::Ignore;
use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Name of the file with patterns.
const IGNORE_FILE: &str = ".apcignore";
/// Bytes of all files together, before they are packed.
pub(crate) const SOURCE_BYTES_MAX: u64 = 2 << 30;
/// Files and directories.
pub(crate) const ENTRIES_MAX: usize = 200_000;
/// Directories in one another.
const DEPTH_MAX: usize = 64;

/// An archive in a file that goes when this goes.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    temporary: bool,
    /// Of the archive.
    pub(crate) sha256: [u8; 32],
    /// Of the archive.
    pub(crate) length: u64,
}

impl Archive {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An archive that is there already.
    pub(crate) fn existing(path: &Path) -> Result<Self, Failure> {
        let told = |error: io::Error| {
            Failure::failed(format!("cannot read {}", path.display())).because(error.to_string())
        };
        let mut file = File::open(path).map_err(told)?;
        let mut counted = Counted { inner: io::sink(), hash: Sha256::new(), length: 0 };
        io::copy(&mut file, &mut counted).map_err(told)?;
        Ok(Self {
            path: path.to_owned(),
            temporary: false,
            sha256: counted.hash.finalize().into(),
            length: counted.length,
        })
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if self.temporary {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Counts and hashes what passes.
struct Counted<W> {
    inner: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Packs `directory`.
pub(crate) fn pack(directory: &Path) -> Result<Archive, Failure> {
    let entries = collect(directory)?;
    let told = |error: io::Error| {
        Failure::failed(format!("cannot pack {}", directory.display())).because(error.to_string())
    };
    let path = std::env::temp_dir().join(format!("apc-{}.tar.gz", uuid::Uuid::new_v4()));
    let mut archive = Archive { path, temporary: true, sha256: [0; 32], length: 0 };
    let file = File::options().write(true).create_new(true).open(&archive.path).map_err(told)?;
    let counted = Counted { inner: io::BufWriter::new(file), hash: Sha256::new(), length: 0 };
    // No time and no name in the head: the same files give the same bytes.
    let gzip = GzBuilder::new().mtime(0).write(counted, Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for entry in &entries {
        append(&mut tar, directory, entry).map_err(told)?;
    }
    let mut counted = tar.into_inner().and_then(flate2::write::GzEncoder::finish).map_err(told)?;
    counted.flush().map_err(told)?;
    archive.sha256 = counted.hash.finalize().into();
    archive.length = counted.length;
    Ok(archive)
}

/// Relative paths of everything that goes along, in order.
fn collect(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let told = |path: &Path, error: &io::Error| {
        Failure::failed(format!("cannot read {}", path.display())).because(error.to_string())
    };
    let meta = fs::metadata(directory).map_err(|error| {
        let exit = Failure::not_found(format!("there is no directory {}", directory.display()));
        exit.because(error.to_string()).hint("-p DIR, or run apc in the directory")
    })?;
    if !meta.is_dir() {
        return Err(
            Failure::usage(format!("{} is not a directory", directory.display())).hint("-p DIR")
        );
    }
    let ignore = match fs::read_to_string(directory.join(IGNORE_FILE)) {
        Ok(text) => Ignore::parse(&text).map_err(|why| {
            Failure::failed(format!("{IGNORE_FILE} is not understood")).because(why)
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ignore::default(),
        Err(error) => return Err(told(&directory.join(IGNORE_FILE), &error)),
    };
    let mut found = Vec::new();
    let mut bytes = 0_u64;
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let whole = directory.join(&folder);
        for entry in fs::read_dir(&whole).map_err(|error| told(&whole, &error))? {
            let entry = entry.map_err(|error| told(&whole, &error))?;
            let path = folder.join(entry.file_name());
            let meta = entry.metadata().map_err(|error| told(&entry.path(), &error))?;
            let text = path.to_str().ok_or_else(|| {
                Failure::failed(format!("the name {} is not UTF-8", path.display()))
                    .hint("rename it, or list it in .apcignore")
            })?;
            if text == IGNORE_FILE || ignore.ignores(text, meta.is_dir()) {
                continue;
            }
            if meta.is_dir() {
                if path.components().count() > DEPTH_MAX {
                    return Err(Failure::failed(format!(
                        "{text} is more than {DEPTH_MAX} directories deep"
                    )));
                }
                open.push(path.clone());
            } else if meta.is_symlink() {
                stays_inside(directory, &path)?;
            } else if !meta.is_file() {
                return Err(Failure::failed(format!(
                    "{text} is neither a file nor a directory nor a link"
                ))
                .hint("list it in .apcignore"));
            }
            bytes = bytes.saturating_add(if meta.is_file() { meta.len() } else { 0 });
            found.push(path);
            bounded(found.len(), bytes)?;
        }
    }
    found.sort();
    Ok(found)
}

fn bounded(entries: usize, bytes: u64) -> Result<(), Failure> {
    if entries <= ENTRIES_MAX && bytes <= SOURCE_BYTES_MAX {
        return Ok(());
    }
    Err(Failure::failed("the directory is too large")
        .because(format!(
            "at most {ENTRIES_MAX} files and {} together",
            crate::units::show_bytes(SOURCE_BYTES_MAX)
        ))
        .hint("list what is not needed in .apcignore"))
}

/// A link may lead anywhere below the directory, and nowhere else.
fn stays_inside(directory: &Path, link: &Path) -> Result<(), Failure> {
    let target = fs::read_link(directory.join(link)).map_err(|error| {
        Failure::failed(format!("cannot read the link {}", link.display()))
            .because(error.to_string())
    })?;
    let mut depth = link.components().count().saturating_sub(1);
    let mut inside = !target.is_absolute();
    for part in target.components() {
        match part {
            Component::ParentDir if depth == 0 => inside = false,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            _ => {}
        }
    }
    if inside {
        return Ok(());
    }
    Err(Failure::failed(format!("the link {} leads to {}", link.display(), target.display()))
        .because("only links within the directory go along")
        .hint("replace it by what it leads to, or list it in .apcignore"))
}

fn append<W: Write>(tar: &mut tar::Builder<W>, directory: &Path, path: &Path) -> io::Result<()> {
    let whole = directory.join(path);
    let meta = fs::symlink_metadata(&whole)?;
    let mut header = tar::Header::new_gnu();
    let modified = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    header.set_mtime(modified.map_or(0, |since| since.as_secs()));
    header.set_mode(meta.permissions().mode() & 0o777);
    header.set_size(0);
    if meta.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        return tar.append_data(&mut header, path, io::empty());
    }
    if meta.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        return tar.append_link(&mut header, path, fs::read_link(&whole)?);
    }
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(meta.len());
    // A file that grows while it is read must not spill into the next one.
    let content = File::open(&whole)?.take(meta.len()).chain(io::repeat(0)).take(meta.len());
    tar.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("apc-pack-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(folder.join("sub")).unwrap();
        folder
    }

    fn names(archive: &Archive) -> Vec<String> {
        let file = File::open(archive.path()).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let entries = tar.entries().unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry.link_name().unwrap().map(|to| format!(" -> {}", to.display()));
                format!("{}{}", entry.path().unwrap().display(), link.unwrap_or_default())
            })
            .collect()
    }

    /// Goal: files, directories and links go along in order, what is ignored does not; the same files give the same
    /// bytes, and the file goes with its owner.
    #[test]
    fn a_directory_becomes_the_same_archive() {
        let folder = folder("same");
        fs::write(folder.join("b.txt"), "b").unwrap();
        fs::write(folder.join("sub/a.txt"), "a").unwrap();
        fs::write(folder.join("x.log"), "no").unwrap();
        fs::write(folder.join(".apcignore"), "*.log\n").unwrap();
        std::os::unix::fs::symlink("sub/a.txt", folder.join("link")).unwrap();
        let (first, second) = (pack(&folder).unwrap(), pack(&folder).unwrap());
        assert_eq!(names(&first), ["b.txt", "link -> sub/a.txt", "sub", "sub/a.txt"]);
        assert_eq!((first.sha256, first.length), (second.sha256, second.length));
        assert_eq!(fs::metadata(first.path()).unwrap().len(), first.length);
        assert_eq!(Archive::existing(first.path()).unwrap().sha256, first.sha256);
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists());
        fs::remove_dir_all(folder).unwrap();
    }

    /// Goal: what cannot be deployed is told before anything is sent.
    #[test]
    fn what_cannot_go_is_told() {
        let folder = folder("told");
        std::os::unix::fs::symlink("../../etc/passwd", folder.join("sub/out")).unwrap();
        let failure = pack(&folder).unwrap_err();
        assert_eq!(failure.what, "the link sub/out leads to ../../etc/passwd");
        assert!(
            pack(&folder.join("absent")).unwrap_err().what.starts_with("there is no directory ")
        );
        fs::write(folder.join("file"), "").unwrap();
        assert!(pack(&folder.join("file")).unwrap_err().what.ends_with("is not a directory"));
        fs::remove_dir_all(folder).unwrap();
    }
}
