//! The trait by which the bytes of a frame are reached.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Where the checksum of a TCP or UDP header stands, and what rules hold for it.
#[derive(Clone, Copy, Debug)]
pub struct TransportChecksum {
    /// Its offset in the frame.
    pub at: u32,
    /// In UDP zero stands for "no checksum" (RFC 768).
    pub is_udp: bool,
    /// The packet is of IPv4: its addresses are covered by a header checksum, too.
    pub is_v4: bool,
}

/// A frame. Offsets count from its first byte on; what is read and written is in the bytes' own
/// order.
///
/// Each method that returns an `Option` returns `None` for bytes beyond the end of the frame, and
/// where the operation is not offered.
pub trait Frame {
    /// Whether this is XDP, which leaves to tc what is rare: options, extension headers, fragments,
    /// ICMP and rejects.
    const IS_XDP: bool;
    /// Where the network header begins: after the link header, or at once on a device without one.
    const NETWORK: u32;

    /// The type of the network header, as in an Ethernet header, in network order.
    fn ethertype(&self) -> Option<u16>;
    /// The length of the frame in bytes.
    fn len(&self) -> u32;
    /// Whether the frame has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The length of the data in each packet, if the frame stands for several (GSO); zero
    /// otherwise.
    fn segment(&self) -> u32;
    /// Whether the frame is addressed to this node, in the device's own network rather than in a
    /// VLAN above it.
    fn is_for_this_node(&self) -> bool;
    /// Reads a `T` from the linear part of the frame, which takes no helper call. `None` also where
    /// the bytes are in the frame, but not in that part.
    fn load_linear<T: FromBytes>(&self, offset: u32) -> Option<T>;
    /// Reads a `T`.
    fn load<T: FromBytes>(&self, offset: u32) -> Option<T>;
    /// Writes a `T`.
    fn store<T: IntoBytes + Immutable>(&self, offset: u32, value: T) -> Option<()>;
    /// Corrects the checksum of an IPv4 header for a change of what it covers.
    fn correct_header(&self, offset: u32, change: u32) -> Option<()>;
    /// Corrects the checksum of a TCP or UDP header: for changed addresses, which it covers by its
    /// pseudo header, and for the rest that changed.
    fn correct_transport(&self, field: TransportChecksum, addresses: u32, rest: u32) -> Option<()>;
    /// Corrects the sum that the kernel holds of the whole packet (`CHECKSUM_COMPLETE`), if there is
    /// one, for a change that no checksum within the packet makes up for.
    fn correct_sum(&self, change: u32);
    /// Cuts the frame to a length. Not offered by XDP.
    fn cut(&self, length: u32) -> Option<()>;
    /// Makes room in front of the network header, so that all but the link header stands that much
    /// further back. Not offered by XDP.
    fn grow(&self, more: u32) -> Option<()>;
}
