//! `cluster.conf`: where NATS, PostgreSQL and the package objects are, and what each role needs to know.
//!
//! The sections are those of the original (`chef { continuum { … } }`, apcera.md 26); a file may also give the inner
//! sections at its top level. Sections of the original that concern machines and tools we do not have are read over and
//! listed in `ignored`. Deliberately absent: credentials in other places than this file or files that it names.

use crate::{Mistake, Section, units};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Sections of the original at the top of the file that nothing here acts on.
const IGNORED_TOP: &[&str] = &["provisioner", "machines", "components"];
/// Sections of the original within `continuum` that nothing here acts on.
const IGNORED: &[&str] = &[
    "cluster",
    "mounts",
    "nfs",
    "ssh",
    "vxlan_enabled",
    "ip-mappings",
    "stagehand",
    "riak",
    "gluster",
    "redis",
    "monitoring",
    "splunk",
    "graphite",
    "statsd",
    "auditlog_db",
    "vault",
    "kv_store",
];

/// What the file says, with every default in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConf {
    /// For people.
    pub cluster_name: String,
    /// Suffix of default routes.
    pub base_domain: String,
    /// Where roles of this machine keep their files.
    pub state_dir: PathBuf,
    /// None = everything in one process.
    pub nats: Option<Nats>,
    /// Component database.
    pub database: Database,
    /// API server.
    pub api: Api,
    /// Router.
    pub router: Router,
    /// Package manager.
    pub packages: Packages,
    /// Instance manager.
    pub instances: Instances,
    /// Principals and their tokens.
    pub tokens: Vec<Token>,
    /// Sections that were there and are not acted on.
    pub ignored: Vec<String>,
}

/// The bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nats {
    /// `nats://host:port`.
    pub urls: Vec<String>,
    /// User name.
    pub user: Option<String>,
    /// And password.
    pub password: Option<String>,
    /// Or a token.
    pub token: Option<String>,
}

/// The component database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// One file, one process.
    File(PathBuf),
    /// `postgres://…`.
    Postgres(String),
}

/// The API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How clients reach it; none = `http://<listen>`.
    pub url: Option<String>,
}

/// The router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Where it listens, http and https.
    pub address: IpAddr,
    /// Plain.
    pub http_port: u16,
    /// TLS; only with certificates.
    pub https_port: Option<u16>,
    /// Threads; none = one for each processor.
    pub cores: Option<usize>,
    /// Admin page and metrics; none = nowhere.
    pub admin: Option<SocketAddr>,
    /// Certificates by server name.
    pub tls_hosts: Vec<TlsHost>,
    /// Whether https is on; a self-signed certificate is made when no host is given.
    pub ssl: bool,
    /// Address of tcp routes.
    pub tcp_address: IpAddr,
    /// Ports that `auto` may take.
    pub tcp_ports: RangeInclusive<u16>,
    /// Balancers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsHost {
    /// Names, one leftmost label may be `*`.
    pub server_names: Vec<String>,
    /// PEM file.
    pub certificate_chain: PathBuf,
    /// PEM file.
    pub private_key: PathBuf,
}

/// The package manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packages {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How others reach it; none = `http://<listen>`.
    pub url: Option<String>,
    /// Where the objects are.
    pub objects: Objects,
    /// Bytes of one resource.
    pub resource_bytes_max: u64,
}

/// Where package objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objects {
    /// A directory; one package manager only.
    Local(PathBuf),
    /// Any S3 service.
    S3 {
        /// `http://host:port`; none = Amazon's.
        endpoint: Option<String>,
        /// Bucket.
        bucket: String,
        /// Region.
        region: String,
        /// Access key.
        access_key: String,
        /// Secret key.
        secret_key: String,
    },
}

/// The instance manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instances {
    /// Address of its instances, as routers reach them.
    pub address: IpAddr,
    /// Ports that it gives to instances.
    pub ports: RangeInclusive<u16>,
    /// Site.
    pub datacenter: String,
    /// Tags that jobs may ask for.
    pub tags: Vec<String>,
    /// Milliseconds of processor time per second; none = what the machine has.
    pub cpu: Option<u64>,
    /// Bytes; none = what the machine has.
    pub memory: Option<u64>,
    /// Bytes; none = half of what is free.
    pub disk: Option<u64>,
    /// Bits per second.
    pub network: Option<u64>,
    /// Bytes of the package cache.
    pub cache_bytes_max: u64,
}

/// A principal and its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Principal.
    pub name: String,
    /// The token itself.
    pub token: Option<String>,
    /// Or a file that holds it.
    pub token_file: Option<PathBuf>,
}

impl Default for ClusterConf {
    fn default() -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let state_dir = PathBuf::from("/var/lib/apcera");
        Self {
            cluster_name: "apcera".to_owned(),
            base_domain: "apcera.localhost".to_owned(),
            nats: None,
            database: Database::File(state_dir.join("components.db")),
            api: Api { listen: SocketAddr::new(loopback, 8790), url: None },
            router: Router {
                address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                http_port: 8080,
                https_port: None,
                cores: None,
                admin: None,
                tls_hosts: Vec::new(),
                ssl: false,
                tcp_address: loopback,
                tcp_ports: 10_000..=19_999,
                trusted_proxies: Vec::new(),
            },
            packages: Packages {
                listen: SocketAddr::new(loopback, 0),
                url: None,
                objects: Objects::Local(state_dir.join("packages")),
                resource_bytes_max: 2 << 30,
            },
            instances: Instances {
                address: loopback,
                ports: 20_000..=29_999,
                datacenter: String::new(),
                tags: Vec::new(),
                cpu: None,
                memory: None,
                disk: None,
                network: None,
                cache_bytes_max: 4 << 30,
            },
            tokens: Vec::new(),
            ignored: Vec::new(),
            state_dir,
        }
    }
}

impl ClusterConf {
    /// Reads the text of a `cluster.conf`.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let mut file = Section::of_file(text)?;
        let mut conf = Self { ignored: file.ignored(IGNORED_TOP), ..Self::default() };
        if let Some(mut chef) = file.section("chef")? {
            if let Some(mut inner) = chef.section("continuum")? {
                conf.read(&mut inner)?;
                inner.finish()?;
            }
            chef.finish()?;
        }
        conf.read(&mut file)?;
        file.finish()?;
        Ok(conf)
    }

    fn read(&mut self, from: &mut Section) -> Result<(), Mistake> {
        self.ignored.extend(from.ignored(IGNORED));
        set(&mut self.cluster_name, from.text("cluster_name")?);
        set(&mut self.base_domain, from.text("base_domain")?);
        if let Some(dir) = from.text("state_dir")? {
            self.state_dir = PathBuf::from(dir);
            self.database = Database::File(self.state_dir.join("components.db"));
            self.packages.objects = Objects::Local(self.state_dir.join("packages"));
        }
        if let Some(mut section) = from.section("nats")? {
            let place = section.place();
            let urls = section.texts("urls")?.filter(|urls| !urls.is_empty());
            self.nats = Some(Nats {
                urls: urls.ok_or_else(|| {
                    Mistake::new(place, "nats has no urls", "urls: [ \"nats://127.0.0.1:4222\" ]")
                })?,
                user: section.text("user")?,
                password: section.text("password")?,
                token: section.text("token")?,
            });
            section.finish()?;
        }
        if let Some(mut section) = from.section("component_db")? {
            if let Some(path) = section.text("file")? {
                self.database = Database::File(path.into());
            }
            if let Some(url) =
                section.parsed("url", "postgres://user:password@host:5432/name", postgres_url)?
            {
                self.database = Database::Postgres(url);
            }
            section.finish()?;
        }
        self.read_api(from)?;
        self.read_router(from)?;
        self.read_packages(from)?;
        self.read_instances(from)
    }

    fn read_api(&mut self, from: &mut Section) -> Result<(), Mistake> {
        if let Some(mut section) = from.section("api_server")? {
            set(&mut self.api.listen, section.value("listen", "address:port")?);
            self.api.url = section.text("url")?;
            section.finish()?;
        }
        if let Some(mut section) = from.section("auth_server")? {
            for mut token in section.sections("tokens")? {
                let place = token.place();
                let entry = Token {
                    name: token.text("name")?.unwrap_or_default(),
                    token: token.text("token")?,
                    token_file: token.text("token_file")?.map(PathBuf::from),
                };
                token.finish()?;
                if entry.name.is_empty() || entry.token.is_some() == entry.token_file.is_some() {
                    let what = "a token needs a name, and either the token or a token_file";
                    return Err(Mistake::new(
                        place,
                        what,
                        "{ name: admin, token_file: /etc/apcera/admin.token }",
                    ));
                }
                self.tokens.push(entry);
            }
            self.ignored.extend(section.ignored(&["identity", "admins"]));
            section.finish()?;
        }
        Ok(())
    }

    fn read_router(&mut self, from: &mut Section) -> Result<(), Mistake> {
        let Some(mut section) = from.section("router")? else { return Ok(()) };
        let router = &mut self.router;
        set(&mut router.address, section.value("address", "an IP address")?);
        set(&mut router.http_port, section.value("http_port", "1 to 65535")?);
        router.https_port = section.value("https_port", "1 to 65535")?;
        router.cores = section.value("cores", "a number")?;
        router.admin = section.value("admin", "address:port")?;
        set(&mut router.tcp_address, section.value("tcp_address", "an IP address")?);
        set(&mut router.tcp_ports, section.parsed("tcp_ports", "10000-19999", ports)?);
        set(&mut router.trusted_proxies, section.texts("trusted_proxies")?);
        if let Some(mut ssl) = section.section("ssl")? {
            router.ssl = ssl.flag("enable")?.unwrap_or(true);
            for mut host in ssl.sections("tlshosts")? {
                let place = host.place();
                let names = host.texts("server_names")?;
                let chain = host.text("certificate_chain")?;
                let key = host.text("private_key")?;
                host.finish()?;
                let (Some(server_names), Some(chain), Some(key)) = (names, chain, key) else {
                    let what = "a tlshost needs server_names, certificate_chain and private_key";
                    return Err(Mistake::new(place, what, ""));
                };
                router.tls_hosts.push(TlsHost {
                    server_names,
                    certificate_chain: chain.into(),
                    private_key: key.into(),
                });
            }
            ssl.finish()?;
            if router.ssl && router.https_port.is_none() {
                router.https_port = Some(8443);
            }
        }
        section.finish()
    }

    fn read_packages(&mut self, from: &mut Section) -> Result<(), Mistake> {
        let Some(mut section) = from.section("package_manager")? else { return Ok(()) };
        set(&mut self.packages.listen, section.value("listen", "address:port")?);
        self.packages.url = section.text("url")?;
        set(
            &mut self.packages.resource_bytes_max,
            section.parsed("resource_size_max", "a size, for example 2GB", units::bytes)?,
        );
        let place = section.place();
        let kind = section.text("package_store_type")?.unwrap_or_else(|| "local".to_owned());
        if let Some(mut local) = section.section("local_store")? {
            if let Some(path) = local.text("path")? {
                self.packages.objects = Objects::Local(path.into());
            }
            self.ignored.extend(local.ignored(&["cleanup_on_delete"]));
            local.finish()?;
        }
        let s3 = section.section("s3_store")?;
        match (kind.as_str(), s3) {
            ("local", _) => {}
            ("s3", Some(mut s3)) => {
                self.packages.objects = Objects::S3 {
                    endpoint: s3.text("endpoint")?,
                    bucket: s3.text("bucket")?.unwrap_or_else(|| "packages".to_owned()),
                    region: s3.text("region")?.unwrap_or_else(|| "us-east-1".to_owned()),
                    access_key: s3.text("access_key")?.unwrap_or_default(),
                    secret_key: s3.text("secret_key")?.unwrap_or_default(),
                };
                s3.finish()?;
            }
            (other, _) => {
                let what = format!("package_store_type {other} needs what is not there");
                return Err(Mistake::new(place, what, "local, or s3 with an s3_store section"));
            }
        }
        section.finish()
    }

    fn read_instances(&mut self, from: &mut Section) -> Result<(), Mistake> {
        let Some(mut section) = from.section("instance_manager")? else { return Ok(()) };
        let im = &mut self.instances;
        set(&mut im.address, section.value("address", "an IP address")?);
        set(&mut im.ports, section.parsed("ports", "20000-29999", ports)?);
        set(&mut im.datacenter, section.text("datacenter")?);
        set(&mut im.tags, section.texts("tags")?);
        im.cpu = section.value("cpu", "milliseconds per second, for example 4000")?;
        im.memory = section.parsed("memory", "a size, for example 8GB", units::bytes)?;
        im.disk = section.parsed("disk", "a size, for example 50GB", units::bytes)?;
        im.network =
            section.parsed("network", "a rate, for example 1Gbps", units::bits_per_second)?;
        set(
            &mut im.cache_bytes_max,
            section.parsed("cache_size_max", "a size, for example 4GB", units::bytes)?,
        );
        self.ignored.extend(section.ignored(&[
            "keep_logs",
            "container_dns_ip",
            "log",
            "package_manager_lru",
        ]));
        section.finish()
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// `10000-19999`.
pub fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').ok_or("a range of ports has a - in it")?;
    let port = |text: &str| text.trim().parse::<u16>().map_err(|why| format!("\"{text}\": {why}"));
    let (first, last) = (port(first)?, port(last)?);
    if first == 0 || first > last {
        return Err("the first port must be 1 or more and not above the last".to_owned());
    }
    Ok(first..=last)
}

fn postgres_url(text: &str) -> Result<String, &'static str> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        Ok(text.to_owned())
    } else {
        Err("it must begin with postgres://")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a file in the original's shape; what we do not have is read over and told.
    #[test]
    fn a_file_of_the_original_shape() {
        let text = r#"
            provisioner { type: generic }
            machines { all { hosts: ["10.0.0.1"] suitable_tags: [ "component-db" ] } }
            components { router: 2, instance-manager: 3 }
            chef { continuum {
                cluster_name: prod
                base_domain: example.com
                nats { urls: [ "nats://10.0.0.1:4222", "nats://10.0.0.2:4222" ] }
                component_db { url: "postgres://apcera:x@10.0.0.1/apcera" }
                package_manager {
                    package_store_type: s3
                    s3_store { endpoint: "http://10.0.0.3:9000" bucket: pkgs access_key: a secret_key: b }
                }
                router { http_port: 80 https_port: 443 tcp_ports: 10000-10999
                    ssl { enable: true, tlshosts: [ { server_names: ["*.example.com"]
                        certificate_chain: /etc/c.pem
                        private_key: /etc/k.pem } ] } }
                instance_manager { tags: [gpu, "rack 1"] memory: 8GB }
                auth_server { tokens: [ { name: admin, token_file: /etc/t } ] }
                mounts { }
            } }
        "#;
        let conf = ClusterConf::parse(text).unwrap();
        assert_eq!(conf.nats.unwrap().urls.len(), 2);
        assert_eq!(
            conf.database,
            Database::Postgres("postgres://apcera:x@10.0.0.1/apcera".to_owned())
        );
        assert_eq!(conf.router.https_port, Some(443));
        assert_eq!(conf.router.tls_hosts[0].private_key, PathBuf::from("/etc/k.pem"));
        assert_eq!(conf.router.tcp_ports, 10_000..=10_999);
        assert_eq!((conf.instances.tags.len(), conf.instances.memory), (2, Some(8 << 30)));
        assert!(
            matches!(conf.packages.objects, Objects::S3 { ref bucket, .. } if bucket == "pkgs")
        );
        assert_eq!(
            conf.ignored,
            ["provisioner", "machines", "components", "chef.continuum.mounts"]
        );
    }

    /// Goal: an empty file is a cluster on one machine.
    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(ClusterConf::parse("").unwrap(), ClusterConf::default());
    }

    /// Goal: mistakes have a line and a remedy.
    #[test]
    fn mistakes() {
        let told = |text: &str| ClusterConf::parse(text).unwrap_err().to_string();
        assert_eq!(
            told("router {\n htpp_port: 80\n}"),
            "line 2: router.htpp_port is not known; try: did you mean http_port?"
        );
        assert_eq!(
            told("component_db { url: mysql://x }"),
            "line 1: component_db.url is \"mysql://x\": it must begin with postgres://; try: \
             postgres://user:password@host:5432/name"
        );
        assert_eq!(
            told("nats { }"),
            "line 1: nats has no urls; try: urls: [ \"nats://127.0.0.1:4222\" ]"
        );
        assert_eq!(
            told("router { tcp_ports: 5-2 }"),
            "line 1: router.tcp_ports is \"5-2\": the first port must be 1 or more and not above the last; try: \
             10000-19999"
        );
        assert_eq!(
            told("package_manager { package_store_type: riak }"),
            "line 1: package_store_type riak needs what is not there; try: local, or s3 with an s3_store section"
        );
    }
}
