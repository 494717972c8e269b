//! A segment: a bridge, and namespaces that have a device on it.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::ip;
use crate::netns::Netns;

/// A bridge in the namespace of its owner, which is the gateway of the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) bridge: &'static str,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    /// The lengths of its ranges' prefixes: the owner's addresses are in both.
    pub(crate) prefixes: [u8; 2],
    pub(crate) mtu: u16,
}

impl Segment {
    /// The lines for `ip` that make the bridge.
    pub(crate) fn make(&self) -> Vec<String> {
        let Self {
            bridge,
            v4,
            v6,
            prefixes: [v4_prefix, v6_prefix],
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
            format!("addr add {v4}/{v4_prefix} dev {bridge}"),
            format!("addr add {v6}/{v6_prefix} dev {bridge} nodad"),
            format!("link set {bridge} up"),
        ]
    }

    /// Gives a namespace a device `eth0` on the segment; `port` is the other end's name.
    pub(crate) fn attach(&self, owner: &Netns, port: &str, guest: &Netns) -> Result<()> {
        self.attach_as("eth0", owner, port, guest)
    }

    /// The same with another name for the device.
    pub(crate) fn attach_as(
        &self,
        device: &str,
        owner: &Netns,
        port: &str,
        guest: &Netns,
    ) -> Result<()> {
        let (mtu, guest) = (self.mtu, guest.path().display());
        owner.run(|| {
            ip::batch(&[
                format!(
                    "link add {port} mtu {mtu} type veth peer name {device} mtu {mtu} netns {guest}"
                ),
                format!("link set {port} master {} up", self.bridge),
            ])
        })
    }

    /// The lines for `ip` that make use of such a device.
    pub(crate) fn join(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<String> {
        let [v4_prefix, v6_prefix] = self.prefixes;
        vec![
            format!("addr add {v4}/{v4_prefix} dev eth0"),
            format!("addr add {v6}/{v6_prefix} dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add default via {}", self.v4),
            format!("route add ::/0 via {}", self.v6),
        ]
    }
}
