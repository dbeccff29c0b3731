//! Verbs and flags of `route`.
//!
//! Deliberately absent: what they do (`commands::route`).

use clap::{Args, Subcommand, ValueEnum};

/// `apc route …`
#[derive(Debug, Subcommand)]
pub(crate) enum RouteVerb {
    /// Lead an endpoint to a port of a job
    Add(RouteAdd),
    /// Take an endpoint from a job
    Delete(RouteUse),
    /// List endpoints
    List {
        /// With weights, full names and ids of the jobs
        #[arg(long, short = 'l')]
        long: bool,
    },
    /// Show the jobs of an endpoint
    Show {
        /// Such as app.example.com
        endpoint: String,
    },
    /// Set how much of the traffic of an endpoint goes to a job
    Weight(RouteUse),
    /// Give a job traffic again, or for the first time
    Map(RouteUse),
    /// Give a job no traffic; its route stays
    Unmap(RouteUse),
    /// Ask a router what it would do with a request, and why
    Explain {
        /// Such as http://app.example.com/path or tcp://10.0.0.1:5432
        url: String,
        /// Address of the client
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
        from: std::net::IpAddr,
    },
    /// Show what the routers counted on an endpoint beside what its weights promise
    Proof {
        /// Such as app.example.com
        endpoint: String,
        #[command(flatten)]
        kind: Kind,
    },
}

/// http or tcp, in the three ways to say it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Kind {
    /// http or tcp; http if the endpoint does not tell
    #[arg(long = "type", short = 't', value_name = "TYPE", value_enum)]
    pub(crate) kind: Option<TypeName>,
    /// The same as --type http
    #[arg(long, conflicts_with = "tcp")]
    pub(crate) http: bool,
    /// The same as --type tcp
    #[arg(long)]
    pub(crate) tcp: bool,
}

/// The words of `--type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TypeName {
    /// HTTP and HTTPS
    Http,
    /// Bytes
    Tcp,
}

/// Which job.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Target {
    /// The application
    #[arg(long, short = 'a', value_name = "NAME")]
    pub(crate) app: Option<String>,
    /// The job
    #[arg(long, short = 'j', value_name = "NAME", conflicts_with = "app")]
    pub(crate) job: Option<String>,
    /// The port of the job
    #[arg(long, short = 'p', value_name = "PORT")]
    pub(crate) port: Option<u16>,
}

/// `apc route add`
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RouteAdd {
    /// Such as app.example.com, app.example.com/path, tcp://10.0.0.1:5432, or auto
    pub(crate) endpoint: String,
    #[command(flatten)]
    pub(crate) kind: Kind,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Share of the traffic: 50%, auto, or negative for none
    #[arg(long, short = 'w', value_name = "PERCENT")]
    pub(crate) weight: Option<String>,
    /// Plain requests are redirected to https
    #[arg(long, visible_alias = "ho")]
    pub(crate) https_only: bool,
    /// Nothing needs to listen on the port, if it is added
    #[arg(long, short = 'o')]
    pub(crate) optional: bool,
    /// Wait until all routers serve it (this is always so)
    #[arg(long)]
    pub(crate) wait: bool,
    /// Refuse if a started job would have to be restarted
    #[arg(long)]
    pub(crate) no_restart: bool,
}

/// A route that is there.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RouteUse {
    /// Such as app.example.com
    pub(crate) endpoint: String,
    #[command(flatten)]
    pub(crate) kind: Kind,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Share of the traffic: 50%, auto, or negative for none
    #[arg(long, short = 'w', value_name = "PERCENT")]
    pub(crate) weight: Option<String>,
    /// Wait until all routers serve it (this is always so)
    #[arg(long)]
    pub(crate) wait: bool,
}
