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
}

impl Counter {
    /// All of them, in the order of their index.
    pub const ALL: [Self; 8] = [
        Self::Connected,
        Self::Sent,
        Self::Refused,
        Self::SlotMissing,
        Self::PeerFallback,
        Self::PeerOverflow,
        Self::PeerLost,
        Self::AffinityHit,
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
        }
    }
}
