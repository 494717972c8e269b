//! Frames as switches and routers send them.

use std::net::SocketAddr;

use svclb_tests::{PodNetwork, Transport};

use super::raw::{datagram, send_frame, tagged};
use super::{MODES, World, connected, hidden_pods, service};

#[test]
fn a_frame_with_a_priority_and_no_vlan_is_translated() {
    const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    for mode in MODES {
        for name in ["a", "b"] {
            let mut world = World::new(PodNetwork::Vxlan, hidden_pods());
            world.nodes[0]
                .ip("link set eth0 address 02:00:00:00:00:01")
                .unwrap();
            world.put(&service(), &[name]);
            world.start(mode);
            for (to, port) in [world.balanced(), world.node_ports(0)]
                .concat()
                .into_iter()
                .zip(44_100..)
            {
                world.wait_for_answers(to, &[name]);
                let from = SocketAddr::new(world.client.ip_like(to.ip()), port);
                let socket = connected(&world.client, Transport::Udp, from, to).unwrap();
                let packet = datagram(from, to, "tagged\n");
                send_frame(&world.outside, &tagged(HARDWARE, &packet));
                let answer = socket.receive();
                let answer = answer.unwrap_or_else(|failure| panic!("{mode:?} {to}: {failure}"));
                assert_eq!((&*answer.backend, &*answer.echoed), (name, "tagged"));
            }
        }
    }
}
