//! One segment for the pods of all nodes: a switch, to which the bridge of each is joined.

use anyhow::Result;

use crate::ip;
use crate::netns::Netns;
use crate::uplink::{like_a_wire, pass_by_firewall};
use crate::wire::End;

/// The lengths of the prefixes of all pods' addresses, IPv4 and IPv6.
pub(super) const PREFIXES: [u8; 2] = [16, 48];

/// The lines for `ip` that make the switch, which has no address.
pub(crate) fn switch() -> Vec<String> {
    vec![
        "link add lan type bridge mcast_snooping 0".to_owned(),
        "link set lan addrgenmode none up".to_owned(),
    ]
}

/// Joins a node's bridge to the switch.
pub(super) fn join(router: &Netns, node: End<'_>) -> Result<()> {
    let port = format!("l{}", node.index);
    let guest = node.netns.path().display();
    router.run(|| {
        ip::batch(&[
            format!("link add {port} type veth peer name lan0 netns {guest}"),
            format!("link set {port} master lan up"),
        ])?;
        like_a_wire(&port)
    })?;
    node.netns.run(|| {
        pass_by_firewall()?;
        like_a_wire("lan0")?;
        // An end of a pair would look as if a pod was behind it.
        ip::batch(&[
            "link set lan0 up".to_owned(),
            "link add eth1 link lan0 type macvlan mode passthru".to_owned(),
            "link set eth1 master br0 up".to_owned(),
        ])
    })
}
