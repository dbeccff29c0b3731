//! Why a request goes where it goes: the matcher itself, told aloud.
//!
//! The matcher is generic over a [`Trace`]. Requests run it with [`Untraced`], whose notes compile
//! to nothing; an explanation runs the very same code with a list. There is no second matcher
//! that could disagree. Deliberately absent: which instance; that depends on the load of a core.

use crate::slot::{JobSlot, RouteSlot};
use crate::table::{Miss, Route, Table};
use crate::weight::Weight;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A request that somebody wonders about.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Whether it comes over TLS.
    pub https: bool,
    /// The host as it would be sent.
    pub host: &'a str,
    /// The path as it would be sent, up to `?`.
    pub path: &'a str,
    /// Who asks.
    pub client: IpAddr,
    /// Whether a job has a live instance.
    pub live: &'a dyn Fn(JobSlot) -> bool,
}

/// One thing that was tried, in the order of trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A host pattern was looked up.
    Host {
        /// The pattern, in lower case.
        pattern: String,
        /// Whether the table has it.
        known: bool,
    },
    /// The path has a segment that could mean another path at the origin.
    DotSegment {
        /// The segment as sent.
        segment: String,
    },
    /// A prefix was looked up among those of the host.
    Prefix {
        /// The prefix.
        prefix: String,
        /// Whether a route has it.
        covers: bool,
    },
    /// The route's flag was compared with the scheme.
    HttpsOnly {
        /// Whether the client is sent to HTTPS.
        redirects: bool,
    },
    /// A rule of a job's ACL was compared with the client.
    Rule {
        /// Name of the job.
        job: Arc<str>,
        /// Position of the rule, from 0.
        number: usize,
        /// The rule in canonical form.
        rule: String,
        /// Whether it matches, and so decides.
        matches: bool,
    },
}

impl Step {
    /// A lookup of a host.
    pub(crate) fn host(pattern: &[u8], known: bool) -> Self {
        Self::Host { pattern: String::from_utf8_lossy(pattern).to_ascii_lowercase(), known }
    }
}

/// What becomes of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// 404: the host is unknown.
    NoHost,
    /// 404: no prefix of the host covers the path.
    NoPath,
    /// 301 to the same URL with `https`.
    Redirected,
    /// 403: no job on the route admits the client.
    Denied,
    /// 503: no job that might serve has a live instance.
    NoInstance,
    /// A job serves, by the shares.
    Served,
}

impl Outcome {
    /// The status that the router itself answers with; `None` when a job answers.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::NoHost | Self::NoPath => Some(404),
            Self::Redirected => Some(301),
            Self::Denied => Some(403),
            Self::NoInstance => Some(503),
            Self::Served => None,
        }
    }
}

/// A job on the route, and its share of such requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetView {
    /// Name of the job.
    pub job: Arc<str>,
    /// Its weight on the route.
    pub weight: Weight,
    /// Whether its ACL admits the client.
    pub admitted: bool,
    /// Whether it has a live instance.
    pub live: bool,
    /// It gets `parts` of `whole` such requests.
    pub parts: i64,
    /// The same for all targets, and at least 1.
    pub whole: i64,
}

impl TargetView {
    /// The share in percent.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
    pub fn percent(&self) -> f64 {
        100.0 * self.parts as f64 / self.whole as f64
    }
}

/// The way of a request through the table. Displays as text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Version of the table that was asked.
    pub version: u64,
    /// The URL that was asked for.
    pub url: String,
    /// Who asks.
    pub client: IpAddr,
    /// Everything that was tried, up to what decided.
    pub steps: Vec<Step>,
    /// The route, when one was found: its slot and its endpoint.
    pub route: Option<(RouteSlot, String)>,
    /// The jobs on the route, when it came to them.
    pub targets: Vec<TargetView>,
    /// What becomes of the request.
    pub outcome: Outcome,
}

/// Hears what the matcher tries.
pub(crate) trait Trace {
    /// Takes note of a step.
    fn note(&mut self, step: impl FnOnce() -> Step);
}

/// Hears nothing, at no cost.
pub(crate) struct Untraced;

impl Trace for Untraced {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Step) {}
}

impl Trace for Vec<Step> {
    fn note(&mut self, step: impl FnOnce() -> Step) {
        self.push(step());
    }
}

impl Table {
    /// What becomes of a request, and every rule that was tried on the way.
    #[must_use]
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let &Question { https, host, path, client, .. } = question;
        let scheme = if https { "https" } else { "http" };
        let mut explanation = Explanation {
            version: self.version(),
            url: format!("{scheme}://{host}{path}"),
            client,
            steps: Vec::new(),
            route: None,
            targets: Vec::new(),
            outcome: Outcome::Served,
        };
        let found = self.find_traced(host.as_bytes(), path.as_bytes(), &mut explanation.steps);
        explanation.outcome = match found {
            Err(Miss::NoHost) => Outcome::NoHost,
            Err(Miss::NoPath) => Outcome::NoPath,
            Ok(route) => {
                explanation.route = Some((route.slot, route.endpoint.to_string()));
                let redirects = route.https_only && !https;
                explanation.steps.push(Step::HttpsOnly { redirects });
                if redirects {
                    Outcome::Redirected
                } else {
                    self.explain_targets(route, question, &mut explanation)
                }
            }
        };
        explanation
    }

    fn explain_targets(
        &self,
        route: &Route,
        question: &Question<'_>,
        explanation: &mut Explanation,
    ) -> Outcome {
        let targets = &route.targets;
        let mut admitted = 0;
        let mut live = 0;
        for (index, target) in targets.list.iter().enumerate() {
            let admits = self.admits(target, question.client, &mut explanation.steps);
            admitted |= u64::from(admits) << index;
            live |= u64::from((question.live)(target.job)) << index;
        }
        let (shares, whole) = targets.shares(admitted & live);
        for (index, target) in targets.list.iter().enumerate() {
            let share = shares.iter().find(|share| share.target == index);
            explanation.targets.push(TargetView {
                job: self.job(target.job).map(|job| Arc::clone(&job.name)).unwrap_or_default(),
                weight: target.weight,
                admitted: admitted >> index & 1 == 1,
                live: live >> index & 1 == 1,
                parts: share.map_or(0, |share| share.parts),
                whole: whole.max(1),
            });
        }
        let active = targets.active();
        if active != 0 && active & admitted == 0 {
            Outcome::Denied
        } else if shares.is_empty() {
            Outcome::NoInstance
        } else {
            Outcome::Served
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { pattern, known: true } => write!(f, "host {pattern}: known"),
            Self::Host { pattern, known: false } => write!(f, "host {pattern}: unknown"),
            Self::DotSegment { segment } => {
                write!(f, "segment {segment}: could mean another path at the origin, no route")
            }
            Self::Prefix { prefix, covers: true } => write!(f, "prefix {prefix}: covers"),
            Self::Prefix { prefix, covers: false } => write!(f, "prefix {prefix}: no route"),
            Self::HttpsOnly { redirects: true } => f.write_str("https-only: redirects"),
            Self::HttpsOnly { redirects: false } => f.write_str("https-only: passes"),
            Self::Rule { job, number, rule, matches } => {
                let verdict = if *matches { "matches" } else { "no match" };
                write!(f, "{job} rule {}, {rule}: {verdict}", number + 1)
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHost => "404: the host is unknown",
            Self::NoPath => "404: no route of this host covers the path",
            Self::Redirected => "301: the same URL with https",
            Self::Denied => "403: no job on the route admits this client",
            Self::NoInstance => "503: no job that might serve has a live instance",
            Self::Served => "served",
        })
    }
}

impl fmt::Display for TargetView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (weight {}): ", self.job, self.weight)?;
        match (self.weight.is_active(), self.admitted, self.live) {
            (false, ..) => f.write_str("inactive"),
            (_, false, _) => f.write_str("does not admit the client"),
            (.., false) => f.write_str("no live instance"),
            _ => write!(f, "{:.2} % ({} of {})", self.percent(), self.parts, self.whole),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} from {}, table version {}", self.url, self.client, self.version)?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        if let Some((_, endpoint)) = &self.route {
            writeln!(f, "route {endpoint}")?;
        }
        for target in &self.targets {
            writeln!(f, "  {target}")?;
        }
        write!(f, "{}", self.outcome)
    }
}
