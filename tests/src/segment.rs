//! A segment: a bridge, and namespaces that have a device on it.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::ip;
use crate::netns::Netns;

/// A bridge in the namespace of its owner, which is the gateway of the segment.
/// Its ranges are the /24 and the /64 of the owner's addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) bridge: &'static str,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) mtu: u16,
}

impl Segment {
    /// The lines for `ip` that make the bridge.
    pub(crate) fn make(&self) -> Vec<String> {
        let Self {
            bridge,
            v4,
            v6,
            mtu,
        } = self;
        let [a, b, c, d] = v4.octets();
        vec![
            // With an address of its own, since otherwise it takes that of one of its
            // ports and changes it with them.
            format!(
                "link add {bridge} address 02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x} mtu {mtu} \
                 type bridge mcast_snooping 0"
            ),
            format!("addr add {v4}/24 dev {bridge}"),
            format!("addr add {v6}/64 dev {bridge} nodad"),
            format!("link set {bridge} up"),
        ]
    }

    /// Gives a namespace a device `eth0` on the segment; `port` is the other end's name.
    pub(crate) fn attach(&self, owner: &Netns, port: &str, guest: &Netns) -> Result<()> {
        let (mtu, guest) = (self.mtu, guest.path().display());
        owner.run(|| {
            ip::batch(&[
                format!(
                    "link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {guest}"
                ),
                format!("link set {port} master {} up", self.bridge),
            ])
        })
    }

    /// The lines for `ip` that make use of such a device.
    pub(crate) fn join(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<String> {
        vec![
            format!("addr add {v4}/24 dev eth0"),
            format!("addr add {v6}/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add default via {}", self.v4),
            format!("route add ::/0 via {}", self.v6),
        ]
    }
}
