//! Addresses for clients outside, used from inside the cluster: translated at the socket.

use std::net::{IpAddr, SocketAddr};

use svclb_tests::manifests::{Endpoint, Service};
use svclb_tests::{Failure, Kind, Peer, SOON, Transport, lacks, wait_until};

use super::scene::{Scene, kernel, v4, v6, web, web_service};

/// Port 80 has the node port 30080.
const NODE_PORT: u16 = 30_080;
const BALANCED: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(std::net::Ipv6Addr::new(
        0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10,
    )),
];
const EXTERNAL: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 10)),
    IpAddr::V6(std::net::Ipv6Addr::new(
        0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10,
    )),
];

/// `web` with every kind of address.
fn outward() -> Service {
    let service = web_service().node_ports(30_000);
    let service = BALANCED.into_iter().fold(service, Service::balanced_at);
    EXTERNAL.into_iter().fold(service, Service::external_ip)
}

fn scene() -> Scene {
    Scene::new(|manifests, endpoints| {
        manifests
            .put("web.yaml", &outward().with(endpoints))
            .unwrap();
    })
}

/// Every way to use UDP and TCP.
fn kinds(to: SocketAddr) -> Vec<Kind> {
    let udp = Kind::new(Transport::Udp);
    let mut kinds = vec![Kind::new(Transport::Tcp), udp, udp.unconnected()];
    if to.is_ipv4() {
        kinds.extend([Kind::new(Transport::Tcp).mapped(), udp.mapped()]);
    }
    kinds
}

fn own_node_ports(scene: &Scene) -> [SocketAddr; 2] {
    [
        (scene.node.v4(), NODE_PORT).into(),
        (scene.node.v6(), NODE_PORT).into(),
    ]
}

fn served(peer: &Peer, to: SocketAddr) {
    for kind in kinds(to) {
        let answer = peer.ask(kind, to).unwrap();
        assert!(["a", "b", "c"].contains(&&*answer.backend), "{to} {kind:?}");
    }
}

fn unreachable(peer: &Peer, to: SocketAddr) {
    let failure = peer.ask(Transport::Tcp, to).unwrap_err();
    assert!(
        ["EHOSTUNREACH", "ENETUNREACH", "ECONNREFUSED"].contains(&&*failure.errno),
        "{failure:?}"
    );
}

#[test]
fn pods_and_the_host_reach_their_nodes_node_ports() {
    let scene = scene();
    for to in own_node_ports(&scene) {
        served(&scene.client, to);
        served(&scene.node, to);
    }
}

#[test]
fn pods_and_the_host_reach_load_balancer_and_external_ips_that_no_interface_owns() {
    let scene = scene();
    for ip in BALANCED.into_iter().chain(EXTERNAL) {
        served(&scene.client, web(ip));
        served(&scene.node, web(ip));
    }
}

/// Before Linux 5.14 the node's namespace is recognised only if it is the initial one, which no
/// lab's is.
fn knows_its_namespace() -> bool {
    let knows = kernel() >= (5, 14);
    if !knows {
        lacks("SO_NETNS_COOKIE");
    }
    knows
}

#[test]
fn the_host_reaches_node_ports_at_loopback_addresses_and_pods_reach_nothing_there() {
    let scene = scene();
    for ip in ["127.0.0.1", "127.1.2.3", "::1"] {
        let to = SocketAddr::new(ip.parse().unwrap(), NODE_PORT);
        if knows_its_namespace() {
            served(&scene.node, to);
        }
        unreachable(&scene.client, to);
    }
    unreachable(&scene.node, (IpAddr::from([127, 0, 0, 1]), 80).into());
}

#[test]
fn a_loopback_service_of_the_hosts_own_goes_on_being_reached() {
    let scene = scene();
    scene.node.serve(Transport::Tcp, 9000).unwrap();
    scene.node.serve(Transport::Udp, 9000).unwrap();
    for ip in ["127.0.0.1", "::1"] {
        let to = SocketAddr::new(ip.parse().unwrap(), 9000);
        for transport in [Transport::Tcp, Transport::Udp] {
            assert_eq!(scene.node.ask(transport, to).unwrap().backend, "node1");
        }
    }
}

#[test]
fn with_external_policy_local_clients_inside_use_every_endpoint() {
    let scene = scene();
    let service = outward().external_local();
    let elsewhere: Vec<_> = scene
        .backends
        .iter()
        .map(|pod| Endpoint::new(pod.v4()).on("elsewhere"))
        .collect();
    let objects = [service.object(), service.slice_of(&elsewhere)];
    scene.manifests.put("web.yaml", &objects).unwrap();
    let here = own_node_ports(&scene)[0];
    for to in [here, web(BALANCED[0]), web(EXTERNAL[0])] {
        scene.wait_for_answers(to, &["a", "b", "c"]);
        served(&scene.node, to);
    }
}

#[test]
fn without_endpoints_every_address_refuses() {
    let scene = scene();
    scene
        .manifests
        .put("web.yaml", &[outward().object()])
        .unwrap();
    scene.wait_for_answers(web(v4(10)), &[]);
    let addresses = BALANCED.into_iter().chain(EXTERNAL).map(web);
    for to in addresses.chain(own_node_ports(&scene)) {
        let failure = scene.client.ask(Transport::Tcp, to).unwrap_err();
        assert_eq!(failure.to_string(), "connect: ECONNREFUSED", "{to}");
    }
}

#[test]
fn the_type_changes_and_what_goes_with_it_comes_and_goes() {
    let scene = Scene::web();
    let to = own_node_ports(&scene)[0];
    let put = |service: Service| {
        let objects = service.with(&scene.endpoints());
        scene.manifests.put("web.yaml", &objects).unwrap();
    };
    for _ in 0..2 {
        put(web_service());
        scene.wait_for_answers(to, &[]);
        unreachable(&scene.node, to);
        put(web_service().node_ports(30_000));
        scene.wait_for_answers(to, &["a", "b", "c"]);
        put(web_service().node_ports(31_000));
        scene.wait_for_answers(to, &[]);
        put(outward());
        scene.wait_for_answers(web(BALANCED[0]), &["a", "b", "c"]);
    }
    assert!(scene.client.ask(Transport::Tcp, web(v6(0x10))).is_ok());
}

#[test]
fn external_ips_are_not_served_where_the_operator_says_off() {
    let mut scene = scene();
    served(&scene.client, web(EXTERNAL[0]));
    scene.agent.terminate().unwrap();
    scene.agent.set_args(&["--external-ips", "off"]);
    scene.agent.run().unwrap();
    unreachable(&scene.client, web(EXTERNAL[0]));
    served(&scene.client, web(BALANCED[0]));
}

#[test]
fn node_ports_are_at_the_nodes_present_addresses() {
    let scene = scene();
    let added: SocketAddr = "192.0.2.77:30080".parse().unwrap();
    let refused = |failure: &Failure| failure.to_string().starts_with("connect: E");
    assert!(refused(
        &scene.client.ask(Transport::Tcp, added).unwrap_err()
    ));
    scene.node.ip("addr add 192.0.2.77/32 dev br0").unwrap();
    scene.wait_for_answers(added, &["a", "b", "c"]);
    scene.node.ip("addr del 192.0.2.77/32 dev br0").unwrap();
    // There is no answer, and the time-outs of many tries would take minutes.
    let gone = wait_until(SOON, || scene.client.ask(Transport::Tcp, added).is_err());
    assert!(gone);
}
