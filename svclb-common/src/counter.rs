//! What the programs count.

/// Index into `COUNTERS`, a per-CPU array of `u64`. The names are the metric labels too.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Counter {
    /// Connects (TCP, or connected UDP) rewritten to a backend.
    Connected = 0,
    /// Datagrams with a destination of their own rewritten to a backend.
    Sent = 1,
    /// Connects and datagrams to a Service without usable endpoints.
    Refused = 2,
    /// A frontend named a slot that was not there. Always zero, unless svclb has a defect.
    SlotMissing = 3,
    /// TCP sockets whose cookie slot belonged to another socket, kept in socket storage.
    PeerFallback = 4,
    /// Translations moved from a socket's ring to `PEER_OVERFLOW`: the socket talks to
    /// more Service backends than a ring holds.
    PeerOverflow = 5,
    /// Translations that could not be remembered: no memory, or more than
    /// [`OVERFLOW_LEN`](crate::OVERFLOW_LEN) beyond the ring.
    PeerLost = 6,
    /// Connects that session affinity sent to the backend of the time before.
    AffinityHit = 7,
    /// Flows from outside that were given a backend.
    FlowsOpened = 8,
    /// Packets of flows from outside that were translated, in either direction.
    Translated = 9,
    /// Packets from outside to a Service without usable endpoints, or of a connection without a flow,
    /// to which a reset or an ICMP error was sent.
    OutsideRefused = 10,
    /// Packets dropped since only other nodes have endpoints (`externalTrafficPolicy: Local`).
    DropNoLocalEndpoint = 11,
    /// Packets dropped since `FLOWS` is full.
    DropFlowsFull = 12,
    /// Packets dropped since no source port was free for their backend.
    DropNoPort = 13,
    /// Packets dropped since no route leads to their backend or client.
    DropNoRoute = 14,
    /// Packets to be forwarded that were too long for the next link.
    DropTooBig = 15,
    /// Packets dropped since their client is in none of the Service's source ranges.
    DropSourceRange = 16,
    /// Packets from outside to a Service without usable endpoints, or of a connection without a flow,
    /// to which no refusal can be sent.
    DropUnserved = 17,
    /// Packets to be forwarded whose hop limit was used up.
    DropHopLimit = 18,
    /// Packets dropped since the flow that another CPU had opened for them was gone again.
    DropFlowGone = 19,
    /// Packets dropped since the kernel could not make their headers writable.
    DropNotWritable = 20,
    /// Connects refused and packets dropped since their frontend changed at each of several readings.
    FrontendUnsettled = 21,
    /// Flows that were over and made room for a new one in a full `FLOWS`.
    FlowsReplaced = 22,
    /// Flows that were given an address and a port of this node as they left it.
    FlowsMasqueraded = 23,
    /// Flows of the node itself, at a port of a Service or of `--source-ports`, that are left alone.
    FlowsOwn = 24,
    /// Replies sent back by the device that their client's packets come in by, where the kernel would
    /// have sent them by another one.
    Returned = 25,
    /// ICMP redirects of this node about packets that it translated, dropped: the client would send past
    /// the node.
    DropIcmpRedirect = 26,
}

impl Counter {
    /// All of them, in the order of their index.
    pub const ALL: [Self; 27] = [
        Self::Connected,
        Self::Sent,
        Self::Refused,
        Self::SlotMissing,
        Self::PeerFallback,
        Self::PeerOverflow,
        Self::PeerLost,
        Self::AffinityHit,
        Self::FlowsOpened,
        Self::Translated,
        Self::OutsideRefused,
        Self::DropNoLocalEndpoint,
        Self::DropFlowsFull,
        Self::DropNoPort,
        Self::DropNoRoute,
        Self::DropTooBig,
        Self::DropSourceRange,
        Self::DropUnserved,
        Self::DropHopLimit,
        Self::DropFlowGone,
        Self::DropNotWritable,
        Self::FrontendUnsettled,
        Self::FlowsReplaced,
        Self::FlowsMasqueraded,
        Self::FlowsOwn,
        Self::Returned,
        Self::DropIcmpRedirect,
    ];

    /// The index into the map.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The name in metrics and dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Sent => "sent",
            Self::Refused => "refused",
            Self::SlotMissing => "slot_missing",
            Self::PeerFallback => "peer_fallback",
            Self::PeerOverflow => "peer_overflow",
            Self::PeerLost => "peer_lost",
            Self::AffinityHit => "affinity_hit",
            Self::FlowsOpened => "flows_opened",
            Self::Translated => "translated",
            Self::OutsideRefused => "outside_refused",
            Self::DropNoLocalEndpoint => "drop_no_local_endpoint",
            Self::DropFlowsFull => "drop_flows_full",
            Self::DropNoPort => "drop_no_port",
            Self::DropNoRoute => "drop_no_route",
            Self::DropTooBig => "drop_too_big",
            Self::DropSourceRange => "drop_source_range",
            Self::DropUnserved => "drop_unserved",
            Self::DropHopLimit => "drop_hop_limit",
            Self::DropFlowGone => "drop_flow_gone",
            Self::DropNotWritable => "drop_not_writable",
            Self::FrontendUnsettled => "frontend_unsettled",
            Self::FlowsReplaced => "flows_replaced",
            Self::FlowsMasqueraded => "flows_masqueraded",
            Self::FlowsOwn => "flows_own",
            Self::Returned => "returned",
            Self::DropIcmpRedirect => "drop_icmp_redirect",
        }
    }
}
