//! When a flow from outside is over: by what was seen of both directions, and by the time since
//! the last packet of either.

use std::time::Duration;

use svclb_common::{FlowState, FlowValue, Proto};

/// How long a flow is remembered after its last packet, by what was seen of it. The defaults
/// are those of Linux and kube-proxy for netfilter's conntrack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP without a reply (`nf_conntrack_tcp_timeout_syn_sent`, shortened: a flood of
    /// them must not fill the map).
    pub tcp_opening: Duration,
    /// TCP with replies (`nf_conntrack_tcp_timeout_established`, as kube-proxy sets it).
    pub tcp_established: Duration,
    /// TCP that one side ended (`nf_conntrack_tcp_timeout_close_wait`, as kube-proxy sets it).
    pub tcp_half_closed: Duration,
    /// TCP that both sides ended (`nf_conntrack_tcp_timeout_time_wait`).
    pub tcp_closed: Duration,
    /// TCP that was reset (`nf_conntrack_tcp_timeout_close`).
    pub tcp_reset: Duration,
    /// UDP without a reply, or with a single request and its reply
    /// (`nf_conntrack_udp_timeout`).
    pub udp: Duration,
    /// UDP with further packets in both directions (`nf_conntrack_udp_timeout_stream`).
    pub udp_stream: Duration,
}

/// For how long a flow that may go on is remembered at least, however full the map is: programs write
/// when a flow was last seen once a second.
const LEAST_OF_LIVE: Duration = Duration::from_secs(2);

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            tcp_opening: seconds(30),
            tcp_established: seconds(24 * 3600),
            tcp_half_closed: seconds(3600),
            tcp_closed: seconds(120),
            tcp_reset: seconds(10),
            udp: seconds(30),
            udp_stream: seconds(120),
        }
    }
}

impl Timeouts {
    /// How long a flow is remembered. `other` is the other direction's entry, if it has one:
    /// a direction alone is what a crash or a full map left.
    pub fn of(&self, proto: Proto, one: &FlowValue, other: Option<&FlowValue>) -> Duration {
        match FlowState::of(proto, one.flags, other.map(|other| other.flags)) {
            FlowState::TcpOpening => self.tcp_opening,
            FlowState::TcpEstablished => self.tcp_established,
            FlowState::TcpHalfClosed => self.tcp_half_closed,
            FlowState::TcpClosed => self.tcp_closed,
            FlowState::TcpReset => self.tcp_reset,
            FlowState::Udp => self.udp,
            FlowState::UdpStream => self.udp_stream,
        }
    }

    /// The timeouts where a map of `capacity` entries has `entries` in it. Once it is more than half
    /// full, what is over or never had a reply is forgotten the sooner the less room there is,
    /// down to a twelfth of its time, and to two seconds where the flow may go on: else the flows of two minutes would be all that a node
    /// can take. Flows that go on keep their timeouts, also when there is no room.
    #[must_use]
    pub fn under_pressure(&self, entries: usize, capacity: usize) -> Self {
        if !is_under_pressure(entries, capacity) {
            return *self;
        }
        let room = capacity.saturating_sub(entries);
        let share = (room as f64 * 2.0 / capacity as f64).max(1.0 / 12.0);
        // These flows may go on, and when one was seen is known to a second: below that, datagrams
        // that come all the time would not keep their flow.
        let least = |timeout: Duration| timeout.mul_f64(share).max(LEAST_OF_LIVE);
        Self {
            tcp_opening: least(self.tcp_opening),
            tcp_closed: self.tcp_closed.mul_f64(share),
            tcp_reset: self.tcp_reset.mul_f64(share),
            udp: least(self.udp),
            ..*self
        }
    }

    /// Whether a flow is over at a time, in nanoseconds of CLOCK_MONOTONIC.
    pub fn is_over(
        &self,
        proto: Proto,
        one: &FlowValue,
        other: Option<&FlowValue>,
        now_ns: u64,
    ) -> bool {
        let last = other
            .map_or(0, |other| other.last_seen_ns)
            .max(one.last_seen_ns);
        let idle = Duration::from_nanos(now_ns.saturating_sub(last));
        idle >= self.of(proto, one, other)
    }
}

/// Whether a map is so full that flows are forgotten sooner, and looked for more often.
pub const fn is_under_pressure(entries: usize, capacity: usize) -> bool {
    entries > capacity / 2
}

#[cfg(test)]
mod tests {
    use svclb_common::FlowFlags;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn direction(flags: &[FlowFlags], last_seen: u64) -> FlowValue {
        FlowValue {
            flags: flags
                .iter()
                .fold(FlowFlags::NONE, |all, flag| all.union(*flag)),
            last_seen_ns: last_seen * SECOND,
            ..FlowValue::default()
        }
    }

    /// After how many seconds a flow is over whose directions were seen like this at second 0.
    fn lasts(proto: Proto, one: &[FlowFlags], other: &[FlowFlags]) -> u64 {
        let timeouts = Timeouts::default();
        let (one, other) = (direction(one, 0), direction(other, 0));
        (0..=100_000)
            .find(|second| timeouts.is_over(proto, &one, Some(&other), second * SECOND))
            .unwrap()
    }

    const SEEN: FlowFlags = FlowFlags::SEEN;
    const FIN: FlowFlags = FlowFlags::FIN;
    const RST: FlowFlags = FlowFlags::RST;

    #[test]
    fn an_established_connection_is_kept_for_a_day_and_one_without_a_reply_for_seconds() {
        assert_eq!(lasts(Proto::TCP, &[SEEN], &[SEEN]), 24 * 3600);
        assert_eq!(lasts(Proto::TCP, &[SEEN], &[]), 30);
    }

    #[test]
    fn a_connection_that_one_side_ended_is_kept_for_an_hour_as_with_kube_proxy() {
        assert_eq!(lasts(Proto::TCP, &[SEEN, FIN], &[SEEN]), 3600);
        assert_eq!(lasts(Proto::TCP, &[SEEN], &[SEEN, FIN]), 3600);
    }

    #[test]
    fn a_connection_that_both_ended_or_one_reset_goes_soon() {
        assert_eq!(lasts(Proto::TCP, &[SEEN, FIN], &[SEEN, FIN]), 120);
        assert_eq!(lasts(Proto::TCP, &[SEEN], &[SEEN, RST]), 10);
    }

    #[test]
    fn datagrams_that_go_on_both_ways_keep_their_flow_for_longer() {
        const STREAM: FlowFlags = FlowFlags::STREAM;
        assert_eq!(lasts(Proto::UDP, &[SEEN, STREAM], &[]), 30);
        assert_eq!(lasts(Proto::UDP, &[SEEN], &[SEEN]), 30);
        assert_eq!(lasts(Proto::UDP, &[SEEN, STREAM], &[SEEN]), 120);
        assert_eq!(lasts(Proto::UDP, &[SEEN], &[SEEN, STREAM]), 120);
    }

    #[test]
    fn a_packet_of_either_direction_keeps_both() {
        let timeouts = Timeouts::default();
        let (one, other) = (direction(&[SEEN], 0), direction(&[SEEN], 1000));
        for (one, other) in [(one, other), (other, one)] {
            let is_over = |at| timeouts.is_over(Proto::UDP, &one, Some(&other), at * SECOND);
            assert!(!is_over(1029) && is_over(1030));
        }
    }

    #[test]
    fn the_fuller_the_map_the_sooner_is_forgotten_what_is_over_and_nothing_else() {
        let timeouts = Timeouts::default();
        for entries in [0, 500] {
            assert_eq!(timeouts.under_pressure(entries, 1000), timeouts);
        }
        let seconds = |entries| timeouts.under_pressure(entries, 1000).tcp_closed.as_secs();
        assert_eq!([750, 900, 990, 1000].map(seconds), [60, 24, 10, 10]);
        let full = timeouts.under_pressure(1000, 1000);
        let still = Timeouts {
            tcp_opening: full.tcp_opening,
            tcp_closed: full.tcp_closed,
            tcp_reset: full.tcp_reset,
            udp: full.udp,
            ..timeouts
        };
        assert_eq!(full, still);
        assert!(full.udp < timeouts.udp && full.tcp_opening < timeouts.tcp_opening);
        assert_eq!(timeouts.under_pressure(0, 0), timeouts, "no map at all");
    }

    #[test]
    fn a_full_map_remembers_a_flow_that_may_go_on_for_longer_than_its_time_is_known_to() {
        let timeouts = Timeouts {
            tcp_opening: Duration::from_secs(10),
            udp: Duration::from_secs(3),
            ..Timeouts::default()
        };
        let full = timeouts.under_pressure(1000, 1000);
        let least = Duration::from_secs(2);
        assert_eq!([full.tcp_opening, full.udp], [least, least]);
    }

    #[test]
    fn a_direction_alone_is_swept() {
        let timeouts = Timeouts::default();
        let alone = direction(&[SEEN], 0);
        assert!(timeouts.is_over(Proto::TCP, &alone, None, 30 * SECOND));
        assert!(!timeouts.is_over(Proto::TCP, &alone, None, 29 * SECOND));
    }
}
