//! `continuum.conf`: the manifest of one application, beside its source.
//!
//! Source: apcera.md 28.1. What is known and not acted on yet is listed in `ignored`, so that the command line can say
//! so. Deliberately absent: multi-resource manifests.

use crate::{Mistake, Section, units};
use std::collections::BTreeMap;

/// Keys of the original that nothing here acts on.
const IGNORED: &[&str] = &[
    "staging_pipeline",
    "package_env",
    "package_dependencies",
    "allow_egress",
    "services",
    "stager_options",
    "templates",
];

/// What the file says; nothing is defaulted here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Continuum {
    /// Local name.
    pub name: Option<String>,
    /// Namespace.
    pub namespace: Option<String>,
    /// Copies.
    pub instances: Option<u32>,
    /// Directory to deploy.
    pub path: Option<String>,
    /// For a shell.
    pub start_cmd: Option<String>,
    /// Whether to start it.
    pub start: Option<bool>,
    /// Seconds until it must listen.
    pub timeout: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub disk: Option<u64>,
    /// Milliseconds per second.
    pub cpu: Option<u64>,
    /// Bits per second.
    pub network: Option<u64>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// No default route and port.
    pub disable_routes: bool,
    /// `always`, `no`, `failure`.
    pub restart_mode: Option<String>,
    /// Ports and their routes.
    pub ports: Vec<ContinuumPort>,
    /// Keys that were there and are not acted on.
    pub ignored: Vec<String>,
}

/// A port of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContinuumPort {
    /// 0 = chosen at start.
    pub number: u16,
    /// Nothing needs to listen.
    pub optional: bool,
    /// What leads here.
    pub routes: Vec<ContinuumRoute>,
}

/// A route of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContinuumRoute {
    /// `http` or `tcp`.
    pub kind: String,
    /// Endpoint or `auto`.
    pub endpoint: String,
    /// Percent.
    pub weight: f64,
    /// Plain requests are redirected.
    pub https_only: bool,
}

/// Reads the text of a `continuum.conf`.
pub fn parse(text: &str) -> Result<Continuum, Mistake> {
    let mut file = Section::of_file(text)?;
    let mut conf = Continuum {
        name: file.text("name")?,
        namespace: file.text("namespace")?,
        instances: file.value("instances", "a number, for example 2")?,
        path: file.text("path")?,
        start_cmd: file.text("start_cmd")?,
        start: file.flag("start")?,
        timeout: file.value("timeout", "seconds, for example 30")?,
        env: file.pairs("env")?.into_iter().collect(),
        disable_routes: file.flag("disable_routes")?.unwrap_or(false),
        restart_mode: file.text("restart_mode")?,
        ignored: file.ignored(IGNORED),
        ..Continuum::default()
    };
    if let Some(mut resources) = file.section("resources")? {
        conf.memory = resources.parsed("memory", "a size, for example 256MB", units::bytes)?;
        conf.disk = resources.parsed("disk_space", "a size, for example 1GB", units::bytes)?;
        conf.cpu = resources.value("cpu", "milliseconds per second, for example 100")?;
        conf.network = resources.parsed(
            "network_bandwidth",
            "a rate, for example 5Mbps",
            units::bits_per_second,
        )?;
        resources.finish()?;
    }
    for mut section in file.sections("ports")? {
        conf.ports.push(port(&mut section)?);
        section.finish()?;
    }
    file.finish()?;
    Ok(conf)
}

fn port(section: &mut Section) -> Result<ContinuumPort, Mistake> {
    let mut port = ContinuumPort {
        number: section.value("number", "0 to 65535")?.unwrap_or(0),
        optional: section.flag("optional")?.unwrap_or(false),
        routes: Vec::new(),
    };
    for mut route in section.sections("routes")? {
        let place = route.place();
        let endpoint = route.text("endpoint")?;
        port.routes.push(ContinuumRoute {
            kind: route.text("type")?.unwrap_or_else(|| "http".to_owned()),
            endpoint: endpoint.ok_or_else(|| {
                Mistake::new(place, "a route without endpoint", "write `endpoint: auto`")
            })?,
            weight: route.parsed("weight", "percent, for example 50", percent)?.unwrap_or(0.0),
            https_only: route.flag("https_only")?.unwrap_or(false),
        });
        route.finish()?;
    }
    Ok(port)
}

fn percent(text: &str) -> Result<f64, std::num::ParseFloatError> {
    text.trim_end_matches('%').parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a manifest with everything in it.
    #[test]
    fn a_whole_manifest() {
        let text = r#"
            name: "todo"
            namespace: "/dev/test"
            instances: 2
            start_cmd: ./run.sh --fast
            start: true
            resources { memory: "128MB" disk_space: 512MB cpu: 100 network_bandwidth: 10Mbps }
            env { GREETING: "hello, world" N: 1 }
            ports: [ { number: 0, routes: [ { type: http, endpoint: auto, weight: 25.5% } ] }
                     { number: 222, optional: true } ]
            services: [ { type: mysql } ]
        "#;
        let conf = parse(text).unwrap();
        assert_eq!(
            (conf.name.as_deref(), conf.instances, conf.memory),
            (Some("todo"), Some(2), Some(128 << 20))
        );
        assert_eq!(conf.start_cmd.as_deref(), Some("./run.sh --fast"));
        assert_eq!(conf.env["GREETING"], "hello, world");
        assert_eq!(conf.ports.len(), 2);
        assert_eq!((conf.ports[0].routes[0].weight, conf.ports[1].optional), (25.5, true));
        assert_eq!(conf.ignored, ["services"]);
    }

    /// Goal: mistakes are told with their line and the nearest known word.
    #[test]
    fn mistakes() {
        let told = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(told("nmae: x"), "line 1: nmae is not known; try: did you mean name?");
        assert_eq!(
            told("\nresources { memory: lots }"),
            "line 2: resources.memory is \"lots\": \"lots\" does not begin with a number; try: a size, for example 256MB"
        );
        assert_eq!(
            told("ports [ { routes [ { type: http } ] } ]"),
            "line 1: a route without endpoint; try: write `endpoint: auto`"
        );
        assert_eq!(
            told("instances: many"),
            "line 1: instances is \"many\": invalid digit found in string; try: a number, for example 2"
        );
    }
}
