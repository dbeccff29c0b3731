//! What routers were told about endpoints here: numbered changes, a digest, and the whole on demand.
//!
//! Pure. Deliberately absent: sending. A message that is lost shows in the next beat's digest.

use std::collections::BTreeMap;
use wire::announce::{AnnounceBeat, Announcement, EndpointChange, EndpointUp, EndpointsAll};
use wire::digest::Digest;
use wire::{ImId, InstanceId};

/// Where the announcements of one process of an instance manager stand.
#[derive(Clone, Debug)]
pub struct Announcements {
    im: ImId,
    epoch: u64,
    seq: u64,
    up: BTreeMap<InstanceId, Vec<EndpointUp>>,
    digest: Digest,
}

impl Announcements {
    /// Nothing announced.
    #[must_use]
    pub fn new(im: ImId, epoch: u64) -> Self {
        Self { im, epoch, seq: 0, up: BTreeMap::new(), digest: Digest::default() }
    }

    /// Endpoints of one instance that may be sent requests; none when there is nothing new in that.
    pub fn up(&mut self, instance: InstanceId, endpoints: Vec<EndpointUp>) -> Option<Announcement> {
        if endpoints.is_empty() || self.up.contains_key(&instance) {
            return None;
        }
        for endpoint in &endpoints {
            self.digest.add(&endpoint.digest_bytes());
        }
        let changes = endpoints.iter().cloned().map(EndpointChange::Up).collect();
        self.up.insert(instance, endpoints);
        Some(self.changed(changes))
    }

    /// The instance is to get nothing new; none when routers do not know it.
    pub fn down(&mut self, instance: InstanceId) -> Option<Announcement> {
        for endpoint in self.up.remove(&instance)? {
            self.digest.remove(&endpoint.digest_bytes());
        }
        Some(self.changed(vec![EndpointChange::Down(instance)]))
    }

    /// "This is where I stand."
    #[must_use]
    pub fn beat(&self) -> AnnounceBeat {
        AnnounceBeat { im: self.im, epoch: self.epoch, seq: self.seq, digest: self.digest }
    }

    /// The whole.
    #[must_use]
    pub fn all(&self) -> EndpointsAll {
        let endpoints = self.up.values().flatten().cloned().collect();
        EndpointsAll { im: self.im, epoch: self.epoch, seq: self.seq, endpoints }
    }

    /// The number of the last change, as routers name it.
    #[must_use]
    pub fn stand(&self) -> (ImId, u64, u64) {
        (self.im, self.epoch, self.seq)
    }

    fn changed(&mut self, changes: Vec<EndpointChange>) -> Announcement {
        self.seq += 1;
        let (im, epoch, seq, digest) = (self.im, self.epoch, self.seq, self.digest);
        Announcement { im, epoch, seq, changes, digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;
    use wire::JobId;

    fn endpoint(instance: InstanceId, port: u16) -> EndpointUp {
        let addr = format!("127.0.0.1:{}", 1_000 + port).parse().unwrap();
        EndpointUp { instance, job: JobId(Uuid::nil()), port, addr }
    }

    proptest! {
        /// Goal: a listener that follows every change holds the whole and its digest at every number.
        #[test]
        fn followers_agree(steps in proptest::collection::vec((0_u128..4, any::<bool>(), 0_u16..3), 0..60)) {
            let mut said = Announcements::new(ImId(Uuid::nil()), 7);
            let mut heard: BTreeMap<InstanceId, Vec<EndpointUp>> = BTreeMap::new();
            let mut last = 0;
            for (id, up, count) in steps {
                let id = InstanceId(Uuid::from_u128(id));
                let change = if up {
                    said.up(id, (0..count).map(|port| endpoint(id, port)).collect())
                } else {
                    said.down(id)
                };
                let Some(change) = change else { continue };
                prop_assert_eq!((change.epoch, change.seq), (7, last + 1));
                last = change.seq;
                for change in change.changes {
                    match change {
                        EndpointChange::Up(up) => heard.entry(up.instance).or_default().push(up),
                        EndpointChange::Down(id) => drop(heard.remove(&id)),
                    }
                }
                let all: Vec<_> = heard.values().flatten().cloned().collect();
                let bytes: Vec<_> = all.iter().map(EndpointUp::digest_bytes).collect();
                prop_assert_eq!(change.digest, Digest::of(bytes.iter().map(Vec::as_slice)));
                prop_assert_eq!(said.beat().digest, change.digest);
                prop_assert_eq!(said.all().endpoints, all);
            }
            prop_assert_eq!(said.stand().2, last);
        }
    }
}
