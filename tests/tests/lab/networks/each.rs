//! Each kind of network, as `docs/networks.md` lists them: the same scenarios on all of them.
//!
//! Most need the feature `all-networks`, with which `cargo xtask test networks` builds them. `cargo xtask
//! test` runs those of which the agent or a program takes its own notice.

#[cfg(feature = "all-networks")]
use svclb_tests::{DIRECT_TC, KERNEL};
use svclb_tests::{PodNetwork, UplinkDevice, UplinkOptions};

#[cfg(feature = "all-networks")]
use super::reach::has_pods_behind_nodes;
use super::reach::serves;
use crate::lab::outside::Site;
#[cfg(feature = "all-networks")]
use crate::lab::{matrix::outward::leads_where_the_oracle_says, outside, scene::lacks_devices};

/// A network with pods that nobody outside knows, where that is possible.
fn site(network: PodNetwork, device: UplinkDevice) -> Site {
    let options = UplinkOptions {
        device,
        masquerade: network != PodNetwork::Macvlan,
        ..UplinkOptions::default()
    };
    Site(network, options)
}

/// A site of which the kernel has all devices.
#[cfg(feature = "all-networks")]
fn possible_site(network: PodNetwork, device: UplinkDevice) -> Option<Site> {
    (!lacks_devices(network, device)).then(|| site(network, device))
}

macro_rules! networks {
    ($($(#[$run:meta])* $name:ident: $network:ident, $device:ident;)*) => {$(
        $(#[$run])*
        mod $name {
            use super::*;

            const NETWORK: PodNetwork = PodNetwork::$network;
            const DEVICE: UplinkDevice = UplinkDevice::$device;

            #[test]
            fn clients_of_every_place_are_served() {
                serves(site(NETWORK, DEVICE));
            }

            #[test]
            #[cfg(feature = "all-networks")]
            fn clients_outside_get_what_their_service_says() {
                let Some(site) = possible_site(NETWORK, DEVICE) else {
                    return;
                };
                outside::refuses(site);
                outside::has_affinity(site);
                outside::goes_on(site);
                outside::moves_datagrams(site);
                if has_pods_behind_nodes(NETWORK) {
                    outside::keeps_to_local_backends(site);
                    outside::reaches_itself(site);
                }
            }

            #[test]
            #[cfg(feature = "all-networks")]
            fn addresses_lead_where_the_oracle_says() {
                let Some(site) = possible_site(NETWORK, DEVICE) else {
                    return;
                };
                leads_where_the_oracle_says(site, &[KERNEL, DIRECT_TC]);
            }
        }
    )*};
}

networks! {
    #[cfg(feature = "all-networks")]
    routed: Routed, Plain;
    #[cfg(feature = "all-networks")]
    lan: Lan, Plain;
    #[cfg(feature = "all-networks")]
    vxlan: Vxlan, Plain;
    #[cfg(feature = "all-networks")]
    narrow_vxlan: NarrowVxlan, Plain;
    #[cfg(feature = "all-networks")]
    tun: Tun, Plain;
    ipip: Ipip, Plain;
    #[cfg(feature = "all-networks")]
    gre: Gre, Plain;
    #[cfg(feature = "all-networks")]
    wireguard: WireGuard, Plain;
    #[cfg(feature = "all-networks")]
    netkit_pods: Netkit, Plain;
    macvlan_pods: Macvlan, Macvlan;
    #[cfg(feature = "all-networks")]
    macvlan_uplink: Vxlan, Macvlan;
    bridge_uplink: Vxlan, Bridge;
    #[cfg(feature = "all-networks")]
    vlan_uplink: Vxlan, Vlan;
    #[cfg(feature = "all-networks")]
    bond_uplink: Vxlan, Bond;
    unnumbered_uplink: Vxlan, Unnumbered;
}
