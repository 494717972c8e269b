//! What was there before an agent, or before a Service, goes on.

use std::net::IpAddr;

use svclb_tests::manifests::Service;
use svclb_tests::{PodNetwork, Transport};

use super::{MODES, World, asks_on, hidden_pods};
use crate::lab::scene::{TARGET, v4, v6};

#[test]
fn connections_to_a_process_of_the_host_go_on_where_a_service_appears() {
    const PORT: u16 = 8443;
    for mode in MODES {
        let world = World::serving(PodNetwork::Vxlan, hidden_pods(), &["a", "b"], mode);
        let host = &world.nodes[0];
        host.serve(Transport::Tcp, PORT).unwrap();
        let at = world.nodes_at(0, PORT);
        let sockets = at.map(|to| {
            let socket = world.client.socket(Transport::Tcp, to.is_ipv6()).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(asks_on(&socket, "before").unwrap(), "node1");
            socket
        });
        let service = Service::new("own")
            .at(v4(11))
            .at(v6(0x11))
            .tcp(PORT, TARGET);
        let ips = [IpAddr::from(host.v4()), host.v6().into()];
        world.put(
            &ips.into_iter().fold(service, Service::balanced_at),
            &["a", "b"],
        );
        for (to, socket) in at.into_iter().zip(&sockets) {
            world.wait_for_answers(to, &["a", "b"]);
            for text in ["after", "long after"] {
                let answer = asks_on(socket, text);
                assert_eq!(answer, Ok("node1".to_owned()), "{mode:?} {to}");
            }
        }
    }
}
