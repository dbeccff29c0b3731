//! Why an exchange failed, and the one table of what follows from it: label, blame, status, permission to retry.
//!
//! Small and `Copy`: the hot path never builds a string. Deliberately absent: the decision to retry (`phase.rs`)
//! and the bytes of an answer (`answer.rs`).

/// Whose fault it is, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client sent something wrong, or left.
    Client,
    /// The table or the limits say no.
    Operator,
    /// The instance behind the router.
    Upstream,
    /// This router.
    Router,
}

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The client went away before its response was whole.
    ClientGone,
    /// The request head was refused by the parser; status and code are the parser's.
    Head {
        /// 400, 414, 417, 431, 501 or 505.
        status: u16,
        /// Stable reason code.
        code: &'static str,
    },
    /// The request head did not come in time.
    HeadSlow,
    /// The request body stopped coming.
    BodySlow,
    /// The request body is not framed as its head says.
    BodyMalformed,
    /// The request body is longer than the limit.
    BodyTooLarge,
    /// No route has this host and path.
    NoRoute,
    /// Every job on the route denies this client.
    AclDenied,
    /// No job on the route has an instance, or all weights are negative.
    NoInstance,
    /// Every instance refused the connection.
    UpstreamRefused,
    /// No connection within the connect budget.
    ConnectSlow,
    /// The instance did not answer in time.
    UpstreamSilent,
    /// The instance closed or reset the connection.
    UpstreamReset {
        /// The client has seen bytes of the response.
        response_begun: bool,
    },
    /// The instance sent something that is not HTTP/1.1, or framed ambiguously.
    UpstreamMalformed {
        /// The client has seen bytes of the response.
        response_begun: bool,
    },
    /// The client does not read its response.
    ClientSlow,
    /// Nothing moved in a tunnel or TCP session for too long.
    TunnelIdle,
    /// No memory page, descriptor or slot is left within the limits.
    Overloaded,
    /// The router stops.
    Stopping,
    /// An event that no state allows: a defect of this program, counted, never hidden.
    Bug,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Stable reason code: in `Apcera-Error`, in the access log, in metrics.
    pub label: &'static str,
    /// Whose fault it is.
    pub blame: Blame,
    /// The status to answer with; `None` when no answer can be honest.
    pub status: Option<u16>,
    /// Whether another try could serve the client. Permission, not a decision.
    pub retry: bool,
}

impl Failure {
    /// The only table, read by all.
    pub const fn verdict(self) -> Verdict {
        use Blame::{Client, Operator, Router, Upstream};
        let (label, blame, status, retry) = match self {
            Self::ClientGone => ("client_gone", Client, None, false),
            Self::Head { status, code } => (code, Client, Some(status), false),
            Self::HeadSlow => ("head_timeout", Client, Some(408), false),
            Self::BodySlow => ("body_timeout", Client, Some(408), false),
            Self::BodyMalformed => ("body_malformed", Client, Some(400), false),
            Self::BodyTooLarge => ("body_too_large", Client, Some(413), false),
            Self::NoRoute => ("no_route", Operator, Some(404), false),
            Self::AclDenied => ("acl_denied", Operator, Some(403), false),
            Self::NoInstance => ("no_instance", Operator, Some(503), false),
            Self::UpstreamRefused => ("upstream_refused", Upstream, Some(502), true),
            Self::ConnectSlow => ("connect_timeout", Upstream, Some(504), true),
            Self::UpstreamSilent => ("upstream_silent", Upstream, Some(504), false),
            Self::UpstreamReset { response_begun: false } => {
                ("upstream_reset", Upstream, Some(502), true)
            }
            // The client has seen bytes: neither a status nor a retry can be honest now.
            Self::UpstreamReset { response_begun: true } => ("upstream_cut", Upstream, None, false),
            Self::UpstreamMalformed { response_begun: false } => {
                ("upstream_malformed", Upstream, Some(502), false)
            }
            Self::UpstreamMalformed { response_begun: true } => {
                ("upstream_malformed_body", Upstream, None, false)
            }
            Self::ClientSlow => ("client_slow", Client, None, false),
            Self::TunnelIdle => ("tunnel_idle", Client, None, false),
            Self::Overloaded => ("overloaded", Router, Some(503), false),
            Self::Stopping => ("stopping", Operator, Some(503), false),
            Self::Bug => ("bug", Router, Some(500), false),
        };
        Verdict { label, blame, status, retry }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Failure; 18] = [
        Failure::ClientGone,
        Failure::HeadSlow,
        Failure::BodySlow,
        Failure::BodyMalformed,
        Failure::BodyTooLarge,
        Failure::NoRoute,
        Failure::AclDenied,
        Failure::NoInstance,
        Failure::UpstreamRefused,
        Failure::ConnectSlow,
        Failure::UpstreamSilent,
        Failure::UpstreamReset { response_begun: false },
        Failure::UpstreamReset { response_begun: true },
        Failure::UpstreamMalformed { response_begun: false },
        Failure::UpstreamMalformed { response_begun: true },
        Failure::ClientSlow,
        Failure::Overloaded,
        Failure::Stopping,
    ];

    /// Goal: labels are a stable, unambiguous interface. Method: no two failures share one.
    #[test]
    fn labels_are_unique_and_plain() {
        let mut labels: Vec<_> = ALL.iter().map(|failure| failure.verdict().label).collect();
        assert!(labels.iter().all(|l| l.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), ALL.len());
    }

    /// Goal: nobody answers a client that has seen bytes, and nobody retries what was answered.
    #[test]
    fn a_begun_response_is_never_answered_again() {
        for failure in ALL {
            let verdict = failure.verdict();
            assert!(!verdict.retry || verdict.blame == Blame::Upstream, "{failure:?}");
            if matches!(
                failure,
                Failure::UpstreamReset { response_begun: true }
                    | Failure::UpstreamMalformed { response_begun: true }
            ) {
                assert_eq!(verdict.status, None);
            }
        }
    }
}
