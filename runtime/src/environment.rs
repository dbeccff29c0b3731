//! The environment of an instance: what the platform says, what its packages add, what its job sets; the last wins.
//!
//! Values of packages may name what stands before them (`PATH=/opt/bin:$PATH`). `START_PATH` is where the process
//! begins, below the root of the instance. Pure. Deliberately absent: templates, and variables of bindings.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use wire::job::Job;
use wire::placement::StartPackage;
use wire::{InstanceId, JobId};

/// Where programs of the host are, for instances that run on it.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of one value after its names are filled in; chains that double at each step end here.
pub const VALUE_BYTES_MAX: usize = 128 * 1024;

/// The name by which processes of an instance are found, whatever they do to their groups and sessions.
pub const MARK: &str = "CNTM_INSTANCE_UUID";

/// What an environment is made of.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// The record that runs.
    pub job: &'a Job,
    /// Its id: a record that comes in a request could carry another.
    pub job_id: JobId,
    /// Which copy.
    pub instance: InstanceId,
    /// What is laid out, in order.
    pub packages: &'a [StartPackage],
    /// Root of its files on this host.
    pub root: &'a Path,
    /// Where others reach it.
    pub host_ip: IpAddr,
    /// Ports of the record with what they became, in the record's order.
    pub ports: &'a [(u16, u16)],
}

/// The environment and the directory in which the process begins.
#[must_use]
pub fn build(given: &Given<'_>) -> (BTreeMap<String, String>, PathBuf) {
    let mut all = BTreeMap::new();
    let mut set = |name: &str, value: String| drop(all.insert(name.to_owned(), value));
    set("PATH", PATH.to_owned());
    set("CNTM_HOST_IP", given.host_ip.to_string());
    set("CNTM_PROCESS_NAME", process_name(given.job).to_owned());
    set(MARK, given.instance.to_string());
    set("CNTM_JOB_UUID", given.job_id.to_string());
    set("CNTM_JOB_FQN", given.job.fqn.to_string());
    if let Some((_, port)) = given.ports.first() {
        set("PORT", port.to_string());
        set("CNTM_HOST_PORT", port.to_string());
    }
    if let [package] = given.packages {
        set("START_PATH", package.install_path.clone());
    }
    for package in given.packages {
        for (name, value) in package.environment.iter().filter(|(name, _)| !is_ours(name)) {
            let value = fill(value, &all);
            all.insert(name.clone(), value);
        }
    }
    if let Some(process) = given.job.process() {
        let own = process.environment.iter().filter(|(name, _)| !is_ours(name));
        all.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    }
    all.retain(|name, value| is_settable(name, value));
    let start = all.get("START_PATH").map_or("/", String::as_str);
    let directory = below(given.root, start).unwrap_or_else(|| given.root.to_owned());
    all.insert("START_PATH".to_owned(), directory.to_string_lossy().into_owned());
    let home = || directory.to_string_lossy().into_owned();
    all.entry("HOME".to_owned()).or_insert_with(home);
    (all, directory)
}

/// Nobody else sets these: the instance's processes are found by them.
fn is_ours(name: &str) -> bool {
    name.starts_with("CNTM_")
}

fn process_name(job: &Job) -> &str {
    if job.processes.contains_key("app") {
        return "app";
    }
    job.processes.keys().next().map_or("app", String::as_str)
}

/// Names with `=` or a zero byte would become other variables, or none.
fn is_settable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

/// `path` as a place below `root`; none when it would leave it.
#[must_use]
pub fn below(root: &Path, path: &str) -> Option<PathBuf> {
    let mut place = root.to_owned();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(place)
}

/// `$NAME` and `${NAME}` by what is known; a name that is not known becomes nothing, `$$` a dollar.
fn fill(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (name, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => {
                let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
                rest.split_at(rest.find(|c| !legal(c)).unwrap_or(rest.len()))
            }
        };
        if name.is_empty() {
            out.push('$');
        }
        out.push_str(known.get(name).map_or("", String::as_str));
        rest = after;
        if out.len() > VALUE_BYTES_MAX {
            out.truncate(out.floor_char_boundary(VALUE_BYTES_MAX));
            return out;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;
    use wire::PackageId;
    use wire::job::Process;

    fn package(path: &str, environment: &[(&str, &str)]) -> StartPackage {
        StartPackage {
            package: PackageId(Uuid::nil()),
            install_path: path.to_owned(),
            resources: Vec::new(),
            environment: environment.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        }
    }

    fn made(
        packages: &[StartPackage],
        set: &[(&str, &str)],
        ports: &[(u16, u16)],
    ) -> (BTreeMap<String, String>, PathBuf) {
        let mut job = Job::named("job::/a::b".parse().unwrap());
        let environment = set.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        job.processes.insert("app".into(), Process { environment, ..Process::default() });
        build(&Given {
            job: &job,
            job_id: JobId(Uuid::from_u128(1)),
            instance: InstanceId(Uuid::from_u128(2)),
            packages,
            root: Path::new("/r"),
            host_ip: "127.0.0.1".parse().unwrap(),
            ports,
        })
    }

    /// Goal: a bare job knows who and where it is.
    #[test]
    fn a_bare_job() {
        let (all, directory) = made(&[], &[], &[(0, 20_001), (9_000, 9_000)]);
        let shown: Vec<_> = all.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            shown,
            [
                "CNTM_HOST_IP=127.0.0.1",
                "CNTM_HOST_PORT=20001",
                "CNTM_INSTANCE_UUID=00000000-0000-0000-0000-000000000002",
                "CNTM_JOB_FQN=job::/a::b",
                "CNTM_JOB_UUID=00000000-0000-0000-0000-000000000001",
                "CNTM_PROCESS_NAME=app",
                "HOME=/r",
                &format!("PATH={PATH}"),
                "PORT=20001",
                "START_PATH=/r",
            ]
        );
        assert_eq!(directory, Path::new("/r"));
    }

    /// Goal: packages chain, the job has the last word, a path cannot leave the root.
    #[test]
    fn packages_and_the_job() {
        let packages = [
            package("/opt", &[("PATH", "/opt/bin:$PATH"), ("A", "1")]),
            package("/app", &[("PATH", "/x:${PATH}"), ("A", "${A}2$B$$"), ("START_PATH", "/app")]),
        ];
        let (all, directory) =
            made(&packages, &[("A", "$A"), ("HOME", "/h"), ("BAD=", "x"), (MARK, "x")], &[]);
        assert_eq!(all["PATH"], format!("/x:/opt/bin:{PATH}"));
        assert_eq!((all["A"].as_str(), all["HOME"].as_str()), ("$A", "/h"));
        assert_eq!(all[MARK], "00000000-0000-0000-0000-000000000002");
        assert_eq!((directory.as_path(), all.contains_key("BAD=")), (Path::new("/r/app"), false));
        assert_eq!(made(&packages[..1], &[], &[]).1, Path::new("/r/opt"));
        assert_eq!(made(&[], &[("START_PATH", "/../etc")], &[]).1, Path::new("/r"));
    }

    proptest! {
        /// Goal: any value is filled without a panic and within its bound.
        #[test]
        fn any_value(text in "[$A{}a ]{0,40}", known in "[$A]{0,5}") {
            let all = BTreeMap::from([("A".to_owned(), known)]);
            prop_assert!(fill(&text, &all).len() <= text.len() * 6 + 1);
        }
    }
}
