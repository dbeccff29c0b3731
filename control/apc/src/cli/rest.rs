//! Verbs and flags of `package`, `cluster` and `tag`; shells of `completion`.
//!
//! Deliberately absent: what they do (`commands`).

use clap::{Args, Subcommand, ValueEnum};

/// `apc package …`
#[derive(Debug, Subcommand)]
pub(crate) enum PackageVerb {
    /// List packages
    List {
        /// With full names and ids
        #[arg(long, short = 'l')]
        long: bool,
        /// Of all namespaces
        #[arg(long)]
        all: bool,
    },
    /// Show one
    Show {
        /// Which package
        name: String,
    },
    /// Make a package from a directory, or from an archive
    Create(PackageCreate),
    /// Write the content of a package into a file
    Download {
        /// Which package
        name: String,
        /// The file; NAME.tar.gz if not given
        file: Option<String>,
    },
    /// Delete one
    Delete {
        /// Which package
        name: String,
    },
}

/// `apc package create`
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PackageCreate {
    /// Its name
    pub(crate) name: String,
    /// A directory, or a .tar or .tar.gz; the current directory if not given
    pub(crate) source: Option<String>,
    /// A directory, or a .tar or .tar.gz
    #[arg(long, short = 'p', value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// A variable for jobs that use it; may be repeated
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env_set: Vec<String>,
    /// What it needs, such as os.linux; a list
    #[arg(long, visible_alias = "do", value_name = "LIST")]
    pub(crate) depends_on: Option<String>,
}

/// `apc cluster …`
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Instance managers: the machines that run instances
    #[command(subcommand)]
    Im(ImVerb),
    /// Tags of instance managers
    #[command(subcommand)]
    Tag(TagVerb),
}

/// `apc cluster im …`
#[derive(Debug, Subcommand)]
pub(crate) enum ImVerb {
    /// List them
    List,
}

/// `apc tag …`, `apc cluster tag …`
#[derive(Debug, Subcommand)]
pub(crate) enum TagVerb {
    /// List them
    List,
}

/// Shells that can be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// Bourne Again
    Bash,
    /// Z
    Zsh,
    /// Friendly interactive
    Fish,
}
