//! Ports of the node that flows to other nodes are given.

use svclb_tests::{PodNetwork, Transport};

use super::{MODES, World, hidden_pods};

#[test]
fn the_hosts_sockets_go_on_finding_ports_where_their_range_lies_within_the_agents() {
    for mode in MODES {
        let mut world = World::new(PodNetwork::Vxlan, hidden_pods());
        world.put(&super::service(), &["a", "b"]);
        world.client.serve(Transport::Tcp, 7000).unwrap();
        for node in &world.nodes {
            node.asks_from(&(50_000..=60_999)).unwrap();
        }
        world.start(mode);
        for to in [world.client.v4_at(7000), world.client.v6_at(7000)] {
            for node in &world.nodes {
                let tally = node.repeat(Transport::Tcp, to, 50).unwrap();
                assert_eq!(tally.answered(), 50, "{mode:?} {to}: {tally:?}");
            }
        }
        for to in world.balanced() {
            world.wait_for_answers(to, &["a", "b"]);
        }
    }
}
