//! How many Events this node sends about objects: a full map fails on every node at once, for as
//! long as it is full, and each node writes its Events to the one API server.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use crate::model::ObjectKey;

/// So many Events may be sent at once.
const BURST: u32 = 10;
/// After a burst, one Event may be sent in this time.
const REFILL: Duration = Duration::from_secs(300);
/// How long until another Event is sent about the same object: after the first, and at most. It
/// doubles with each.
const PAUSE: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(6 * 3600)];

/// A token bucket for the node, and a pause for each object.
#[derive(Debug)]
pub struct EventLimit {
    /// How much longer this node's times are than the constants, in parts of 512 (0 to 255): nodes on
    /// which the same object fails at the same time repeat their Events at different times.
    jitter: u32,
    /// When the bucket is full again; `None` if nothing was sent.
    full_at: Option<Instant>,
    sent: BTreeMap<ObjectKey, Sent>,
}

/// The last Event about an object.
#[derive(Debug)]
struct Sent {
    at: Instant,
    /// How long until the next.
    pause: Duration,
}

impl EventLimit {
    /// `node_name` spreads the Events of many nodes over time.
    pub fn new(node_name: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        node_name.hash(&mut hasher);
        let [jitter, ..] = hasher.finish().to_ne_bytes();
        Self {
            jitter: jitter.into(),
            full_at: None,
            sent: BTreeMap::new(),
        }
    }

    /// Whether an Event about this object may be sent now. If it was, call
    /// [`sent`](Self::sent).
    pub fn allows(&self, object: &ObjectKey, now: Instant) -> bool {
        let is_paused = self.sent.get(object).is_some_and(|sent| {
            let pause = self.jittered(sent.pause);
            now.saturating_duration_since(sent.at) < pause
        });
        let until_full = self
            .full_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        !is_paused && until_full <= self.jittered(REFILL) * (BURST - 1)
    }

    /// An Event about this object was sent.
    pub fn sent(&mut self, object: ObjectKey, now: Instant) {
        let [first, longest] = PAUSE;
        // An object about which there was nothing to send for long begins anew.
        self.sent
            .retain(|_, sent| now.saturating_duration_since(sent.at) < 2 * longest);
        let before = self.sent.get(&object);
        let pause = before.map_or(first, |sent| (sent.pause * 2).min(longest));
        self.sent.insert(object, Sent { at: now, pause });
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        self.full_at = Some(full_at + self.jittered(REFILL));
    }

    fn jittered(&self, time: Duration) -> Duration {
        time + time * self.jitter / 512
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    const HOUR: u64 = 3600;

    /// When Events are sent, in seconds, if each of these Services fails every five seconds.
    fn sent_at(limit: &mut EventLimit, services: usize, hours: u64) -> Vec<u64> {
        let begun = Instant::now();
        let names: Vec<_> = (0..services)
            .map(|number| ObjectKey::Service(ObjectName::new("default", format!("s{number}"))))
            .collect();
        let mut sent = Vec::new();
        for second in (0..hours * HOUR).step_by(5) {
            let now = begun + Duration::from_secs(second);
            for name in &names {
                if limit.allows(name, now) {
                    limit.sent(name.clone(), now);
                    sent.push(second);
                }
            }
        }
        sent
    }

    #[test]
    fn many_services_that_fail_for_ever_have_a_burst_and_then_one_in_several_minutes() {
        let sent = sent_at(&mut EventLimit::new("node1"), 200, 6);
        let at_once = sent.iter().filter(|second| **second == 0).count();
        assert_eq!(at_once, 10);
        let rest = sent.len() - at_once;
        assert!((6 * 8..=6 * 12).contains(&rest), "{rest} in six hours");
        let last_hour = sent.iter().filter(|second| **second >= 5 * HOUR).count();
        assert!(last_hour <= 12, "{last_hour} in the last hour");
    }

    #[test]
    fn the_events_of_a_service_come_less_and_less_often() {
        let sent = sent_at(&mut EventLimit::new("node1"), 1, 48);
        let pauses: Vec<_> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!((600..=900).contains(&pauses[0]), "{pauses:?}");
        let longest = pauses[pauses.len() - 1];
        assert!((6 * HOUR..=9 * HOUR).contains(&longest), "{pauses:?}");
    }

    #[test]
    fn nodes_repeat_their_events_at_different_times() {
        let second = |name: &str| sent_at(&mut EventLimit::new(name), 1, 1)[1];
        let times: std::collections::BTreeSet<_> = (0..20)
            .map(|number| second(&format!("node{number}")))
            .collect();
        assert!(times.len() > 10, "{times:?}");
    }
}
