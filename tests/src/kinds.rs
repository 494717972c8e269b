//! Which kinds of network devices the kernel has.

use anyhow::Result;

use crate::ip;
use crate::netns::on_thread_apart;

/// Whether the kernel has devices of a kind (ip-link(8)), such as `wireguard`: built in, or as a module
/// that it can load.
///
/// # Errors
/// If one cannot be made for another reason.
pub fn has_devices(kind: &str) -> Result<bool> {
    let options = match kind {
        "vlan" => " id 5",
        "vrf" => " table 100",
        // Without it would be that one which each namespace has of itself.
        "ipip" | "gre" | "sit" => " local 192.0.2.1",
        _ => "",
    };
    let below = match kind {
        "vlan" | "macvlan" => " link below",
        _ => "",
    };
    on_thread_apart(|| {
        ip::batch(&["link add below type bridge".to_owned()])?;
        let made = ip::batch(&[format!("link add tried{below} type {kind}{options}")]);
        match made {
            Err(error) if is_unknown(&format!("{error:#}")) => Ok(false),
            made => made.map(|()| true),
        }
    })
}

fn is_unknown(message: &str) -> bool {
    // Older kernels have no words for it.
    message.contains("Unknown device type") || message.contains("Operation not supported")
}
