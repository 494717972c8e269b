//! What CNI plugins do for pods whose addresses nobody outside knows.

use std::process::Command;

use anyhow::Result;

use crate::tool;

/// Makes a node, in whose namespace the calling thread is, put its own address in the
/// place of its pods' for all but other pods. From now on it tracks connections.
pub(crate) fn masquerade(node: u8) -> Result<()> {
    let script = format!(
        "table ip cni {{
            chain postrouting {{
                type nat hook postrouting priority 100;
                ip saddr 10.244.{node}.0/24 ip daddr != {{ 10.244.0.0/16, 224.0.0.0/4 }} masquerade
            }}
        }}
        table ip6 cni {{
            chain postrouting {{
                type nat hook postrouting priority 100;
                ip6 saddr fd00:10:244:{node}::/64 ip6 daddr != {{ fd00:10:244::/48, ff00::/8 }} masquerade
            }}
        }}
        "
    );
    tool::feed(Command::new("nft").args(["-f", "-"]), "nftables", &script)
}
