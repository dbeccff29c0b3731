//! Lays a package out: tar or tar.gz into a directory, and nowhere else.
//!
//! Refused: absolute paths and `..`, entries behind links, links that lead out, devices, too many entries or bytes.
//! Deliberately absent: owners and set-user bits; files belong to whoever runs the instance manager.

use flate2::read::MultiGzDecoder;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Component, Path};
use tar::{Archive, EntryType};

/// Entries of one archive.
pub const ENTRIES_MAX: usize = 300_000;
/// Segments of a path: the time to make and check directories grows with their square.
const DEPTH_MAX: usize = 128;
/// Bytes of one entry's name, links and extended attributes.
const HEAD_BYTES_MAX: u64 = 1 << 20;
/// Bytes of all its files.
pub const UNPACKED_BYTES_MAX: u64 = 8 << 30;

/// Why a package was not laid out.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Cannot be read or written.
    #[error("cannot be unpacked: {0}")]
    Io(#[from] io::Error),
    /// An entry that must not be.
    #[error("entry \"{name}\" {why}")]
    Entry {
        /// Which.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than a bound.
    #[error("more than {0}")]
    TooMuch(String),
    /// Nobody wants it any more.
    #[error("given up")]
    Abandoned,
}

/// Unpacks `archive` below `root`, which exists; looks at `abandoned` between entries.
pub fn unpack(
    archive: &Path,
    root: &Path,
    abandoned: &dyn Fn() -> bool,
) -> Result<(), UnpackError> {
    let mut file = File::open(archive)?;
    let mut magic = [0; 2];
    let packed = file.read(&mut magic)? == 2 && magic == [0x1f, 0x8b];
    file.rewind()?;
    let file = BufReader::with_capacity(128 * 1024, file);
    if packed {
        entries(MultiGzDecoder::new(file), root, abandoned)
    } else {
        entries(file, root, abandoned)
    }
}

fn entries(from: impl Read, root: &Path, abandoned: &dyn Fn() -> bool) -> Result<(), UnpackError> {
    let left = Cell::new(0);
    let mut archive = Archive::new(Allowance { from, left: &left, abandoned });
    archive.set_preserve_permissions(false);
    archive.set_unpack_xattrs(false);
    let (mut count, mut bytes) = (0, 0_u64);
    let mut entries = archive.entries()?;
    loop {
        if abandoned() {
            return Err(UnpackError::Abandoned);
        }
        left.set(HEAD_BYTES_MAX);
        let Some(entry) = entries.next() else { return Ok(()) };
        let mut entry = entry.map_err(|why| reason(why, &left, abandoned))?;
        count += 1;
        bytes = bytes.saturating_add(entry.size());
        if count > ENTRIES_MAX {
            return Err(UnpackError::TooMuch(format!("{ENTRIES_MAX} entries")));
        }
        if bytes > UNPACKED_BYTES_MAX {
            return Err(UnpackError::TooMuch(format!("{UNPACKED_BYTES_MAX} bytes")));
        }
        let path = entry.path()?.into_owned();
        let target = entry.link_name()?.map(std::borrow::Cow::into_owned);
        let refused = |why| UnpackError::Entry { name: path.display().to_string(), why };
        check(root, &path, entry.header().entry_type(), target.as_deref()).map_err(refused)?;
        left.set(HEAD_BYTES_MAX.saturating_add(entry.size()));
        let unpacked = entry.unpack_in(root);
        if !unpacked.map_err(|why| reason(why, &left, abandoned))? {
            return Err(refused("leads out of the package"));
        }
        // What a link or a directory brings along is no part of the next head.
        io::copy(&mut entry, &mut io::sink()).map_err(|why| reason(why, &left, abandoned))?;
    }
}

/// Gives bytes of the archive as long as the allowance lasts and somebody wants them. Long names and extended heads are
/// read into memory whole, and a few packed bytes can stand for gigabytes of them.
struct Allowance<'a, R> {
    from: R,
    left: &'a Cell<u64>,
    abandoned: &'a dyn Fn() -> bool,
}

impl<R: Read> Read for Allowance<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 || (self.abandoned)() {
            return Err(io::Error::other("no more is read"));
        }
        let most = usize::try_from(self.left.get()).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.from.read(&mut buffer[..most])?;
        self.left.set(self.left.get().saturating_sub(count as u64));
        Ok(count)
    }
}

/// Why reading ended, which the archive's own words hide.
fn reason(why: io::Error, left: &Cell<u64>, abandoned: &dyn Fn() -> bool) -> UnpackError {
    if abandoned() {
        UnpackError::Abandoned
    } else if left.get() == 0 {
        UnpackError::TooMuch(format!("{HEAD_BYTES_MAX} bytes before an entry"))
    } else {
        UnpackError::Io(why)
    }
}

fn check(
    root: &Path,
    path: &Path,
    kind: EntryType,
    target: Option<&Path>,
) -> Result<(), &'static str> {
    if !path.components().all(inside) {
        return Err("leads out of the package");
    }
    if path.components().count() > DEPTH_MAX {
        return Err("lies too deep");
    }
    let mut parent = root.to_owned();
    for part in path.parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        if fs::symlink_metadata(&parent).is_ok_and(|about| about.is_symlink()) {
            return Err("lies behind a link");
        }
    }
    match kind {
        EntryType::Regular
        | EntryType::Continuous
        | EntryType::Directory
        | EntryType::GNUSparse => Ok(()),
        EntryType::Link if target.is_some_and(|to| shares(root, path, to)) => Ok(()),
        EntryType::Symlink if target.is_some_and(|to| stays(path, to)) => Ok(()),
        EntryType::Link | EntryType::Symlink => Err("is a link that leads out of the package"),
        EntryType::XGlobalHeader => Ok(()),
        _ => Err("is neither file, directory nor link"),
    }
}

fn inside(part: Component<'_>) -> bool {
    matches!(part, Component::Normal(_) | Component::CurDir)
}

/// A second name of what the package has. A symbolic link must stay inside under the new name too: what goes up two
/// directories from a deep place leads out from a shallow one.
fn shares(root: &Path, path: &Path, target: &Path) -> bool {
    target.components().all(inside)
        && fs::read_link(root.join(target)).map_or(true, |to| stays(path, &to))
}

/// A link's target goes up only at its start, and not beyond the root. Directories above the link are no links, so that
/// counting is enough.
fn stays(path: &Path, target: &Path) -> bool {
    let depth = path.components().filter(|c| matches!(c, Component::Normal(_))).count();
    let mut up = 0;
    let mut down = false;
    for part in target.components() {
        match part {
            Component::ParentDir if down => return false,
            Component::ParentDir => up += 1,
            Component::Normal(_) => down = true,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    up < depth
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;
    use tar::{Builder, Header};

    struct Place(std::path::PathBuf);

    impl Place {
        fn new() -> Self {
            let name = format!("runtime-unpack-{}", uuid::Uuid::new_v4());
            let place = std::env::temp_dir().join(name);
            fs::create_dir_all(place.join("root")).unwrap();
            Self(place)
        }

        fn unpack(&self, bytes: &[u8]) -> Result<(), String> {
            let archive = self.0.join("a.tar");
            fs::write(&archive, bytes).unwrap();
            unpack(&archive, &self.0.join("root"), &|| false).map_err(|why| why.to_string())
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// Entries as name, kind, link target or text; names are written as they are, whatever they say.
    fn tar(list: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, text) in list {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o6755);
            let linked = matches!(kind, EntryType::Symlink | EntryType::Link);
            if linked {
                header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            }
            let body = if linked { "" } else { *text };
            header.set_size(body.len() as u64);
            header.set_cksum();
            builder.append(&header, body.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    use EntryType::{Directory, Fifo, GNULongName, Link, Regular, Symlink};

    /// Goal: an honest package is laid out, plain and packed, without set-user bits.
    #[test]
    fn honest_packages() {
        use std::os::unix::fs::PermissionsExt;
        let honest = tar(&[
            ("bin", Directory, ""),
            ("./bin/app", Regular, "x"),
            ("bin/again", Symlink, "app"),
            ("lib/up", Symlink, "../bin/app"),
            ("hard", Link, "bin/app"),
        ]);
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&honest).unwrap();
        for bytes in [honest.clone(), packed.finish().unwrap()] {
            let place = Place::new();
            place.unpack(&bytes).unwrap();
            let root = place.0.join("root");
            for name in ["bin/app", "bin/again", "lib/up", "hard"] {
                assert_eq!(fs::read_to_string(root.join(name)).unwrap(), "x", "{name}");
            }
            let mode = fs::metadata(root.join("bin/app")).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o755);
        }
    }

    /// Goal: whatever would touch or reach something outside is refused, with its name.
    #[test]
    fn hostile_packages() {
        type Listed = (&'static str, EntryType, &'static str);
        let cases: &[(&[Listed], &str)] = &[
            (&[("../x", Regular, "")], "entry \"../x\" leads out of the package"),
            (&[("/etc/x", Regular, "")], "entry \"/etc/x\" leads out of the package"),
            (&[("a/../../x", Regular, "")], "entry \"a/../../x\" leads out of the package"),
            (&[("a", Symlink, "/etc")], "entry \"a\" is a link that leads out of the package"),
            (
                &[("a/b", Symlink, "../../x")],
                "entry \"a/b\" is a link that leads out of the package",
            ),
            (&[("a", Symlink, "b/../../x")], "entry \"a\" is a link that leads out of the package"),
            (&[("a", Link, "../x")], "entry \"a\" is a link that leads out of the package"),
            (
                &[("d", Directory, ""), ("a", Symlink, "d"), ("a/x", Regular, "")],
                "entry \"a/x\" lies behind a link",
            ),
            (
                &[("x", Regular, ""), ("d/e/up", Symlink, "../../x"), ("up", Link, "d/e/up")],
                "entry \"up\" is a link that leads out of the package",
            ),
            (&[("a", Fifo, "")], "entry \"a\" is neither file, directory nor link"),
        ];
        for (list, why) in cases {
            let place = Place::new();
            assert_eq!(place.unpack(&tar(list)).unwrap_err(), *why);
        }
        let place = Place::new();
        assert!(place.unpack(b"\x1f\x8bno gzip").is_err() && place.unpack(&[7; 600]).is_err());
        let whole = tar(&[("x", Regular, "y")]);
        fs::write(place.0.join("a.tar"), whole).unwrap();
        let given_up = unpack(&place.0.join("a.tar"), &place.0.join("root"), &|| true);
        assert!(matches!(given_up, Err(UnpackError::Abandoned)));
    }

    /// Goal: a name that would not fit into memory is refused before it is read, and one that is too deep before it is
    /// made; a long one that makes sense is not.
    #[test]
    fn endless_names() {
        let long = "n".repeat(150);
        let place = Place::new();
        place.unpack(&tar(&[("@", GNULongName, &long), ("x", Regular, "y")])).unwrap();
        assert_eq!(fs::read_to_string(place.0.join("root").join(&long)).unwrap(), "y");
        let deep = format!("{}x", "d/".repeat(DEPTH_MAX));
        let refused = Place::new().unpack(&tar(&[("@", GNULongName, &deep), ("x", Regular, "")]));
        assert!(refused.unwrap_err().ends_with("lies too deep"));
        let endless = "n".repeat(2 * usize::try_from(HEAD_BYTES_MAX).unwrap());
        let refused = Place::new().unpack(&tar(&[("@", GNULongName, &endless)]));
        assert_eq!(refused.unwrap_err(), "more than 1048576 bytes before an entry");
    }
}
