//! The table of commands: nouns, verbs, flags, and their help. The parser, the completion and the reading of short
//! forms (`argv`) all work on this one table.
//!
//! Deliberately absent: what a command does (`commands`).

use crate::failure::EXIT_CODES;
use clap::{Args, Parser, Subcommand};

mod job;
mod rest;
mod route;

pub(crate) use self::job::{
    AppVerb, CreateFlags, DeployFlags, JobFlags, JobVerb, ListFlags, LogFlags, Named, RestartMode,
    Rollout, Source, UpdateFlags, Wait,
};
pub(crate) use self::rest::{ClusterVerb, ImVerb, PackageCreate, PackageVerb, Shell, TagVerb};
pub(crate) use self::route::{Kind, RouteAdd, RouteUse, RouteVerb, Target, TypeName};

/// What the user typed.
#[derive(Debug, Parser)]
#[command(
    name = "apc",
    about = "Create, run and connect jobs on a cluster",
    long_about = "Create, run and connect jobs on a cluster.\n\nOne dash and two mean the same: -app and --app. \
                  `apc help NOUN VERB` tells more about each command.",
    after_help = EXIT_CODES,
    disable_help_subcommand = true,
    disable_version_flag = true,
    max_term_width = 100,
    subcommand_required = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Globals {
    /// Work in this namespace
    #[arg(long, visible_alias = "ns", global = true, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Ask nothing, take the defaults
    #[arg(long, global = true)]
    pub(crate) batch: bool,
    /// Say nothing but errors and data
    #[arg(long, visible_alias = "silent", global = true)]
    pub(crate) quiet: bool,
    /// Print what the API answered, and nothing else, on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No colours; so does the variable NO_COLOR
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

impl Noun {
    /// It goes on until the user ends it.
    pub(crate) const fn follows(&self) -> bool {
        match self {
            Self::App(AppVerb::Logs(flags)) | Self::Job(JobVerb::Logs(flags)) => flags.follow,
            _ => false,
        }
    }
}

/// What it is about.
#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Applications: jobs made from a directory
    #[command(visible_alias = "application", subcommand)]
    App(AppVerb),
    /// All jobs, applications among them
    #[command(subcommand)]
    Job(JobVerb),
    /// Routes: under which URL a job answers
    #[command(subcommand)]
    Route(RouteVerb),
    /// Packages: the files that jobs are made of
    #[command(subcommand)]
    Package(PackageVerb),
    /// The cluster itself
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// Tags of instance managers
    #[command(subcommand)]
    Tag(TagVerb),
    /// Choose the cluster, or show which one is chosen
    Target {
        /// Address of its API, such as https://api.example.com
        url: Option<String>,
    },
    /// Keep a token for the cluster
    Login {
        /// The token
        #[arg(long, value_name = "TOKEN")]
        token: Option<String>,
        /// A file that holds the token; - is standard input
        #[arg(long, value_name = "FILE")]
        token_file: Option<String>,
    },
    /// Forget the token
    Logout,
    /// Choose the namespace, or show which one is chosen
    Namespace {
        /// Such as /sandbox/admin
        name: Option<String>,
    },
    /// Versions of this program and of the cluster
    Version,
    /// Print a script for your shell that completes commands and names
    Completion {
        /// bash, zsh or fish
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Names that fit the words so far; asked by the shell's script
    #[command(name = "__names", hide = true)]
    Names {
        /// The words so far, the one at the cursor last
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}
