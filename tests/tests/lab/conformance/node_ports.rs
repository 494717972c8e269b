//! Node ports: Services that get them, change their type, and lose them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use svclb_tests::{Kind, Transport};

use super::super::scene::{TARGET, v4, v6, web_service};
use super::ask::{KINDS, TCP, refused};
use super::cluster::both;
use super::front::{Front, NODE_PORT, balanced, balancer, given, loses, node_port, refuses};
use super::type_changes::external;

#[test]
fn should_be_able_to_create_a_functioning_node_port_service() {
    let front = Front::new(&node_port(), &["a", "b"]);
    front.is_given(&front.everywhere(NODE_PORT), &["a", "b"]);
    for pod in &front.pods {
        for to in both() {
            for kind in KINDS {
                given(pod, kind, to, &["a", "b"]);
            }
        }
    }
}

#[test]
fn should_be_able_to_change_the_type_from_external_name_to_node_port() {
    let front = Front::of(2, |front| {
        front.put_as(external(false), &node_port(), &[]);
    });
    let everywhere = front.everywhere(NODE_PORT);
    front.is_refused(&everywhere);
    front.put(&node_port(), &["a", "b"]);
    front.is_given(&everywhere, &["a", "b"]);
}

#[test]
fn should_be_able_to_change_the_type_from_node_port_to_external_name() {
    let front = Front::new(&node_port(), &["a", "b"]);
    let everywhere = front.everywhere(NODE_PORT);
    for keeps_addresses in [true, false] {
        front.put(&node_port(), &["a", "b"]);
        front.is_given(&everywhere, &["a", "b"]);
        let endpoints = front.endpoints(&["a", "b"]);
        front.put_as(external(keeps_addresses), &node_port(), &endpoints);
        front.is_refused(&everywhere);
    }
}

#[test]
fn should_be_able_to_update_service_type_to_node_port_listening_on_same_port_number_but_different_protocols()
 {
    let one = svclb_tests::manifests::Service::new("web")
        .at(v4(10))
        .at(v6(0x10))
        .tcp(80, TARGET);
    let front = Front::new(&one, &["a", "b"]);
    let everywhere = front.everywhere(NODE_PORT);
    front.is_refused(&everywhere);
    // Port 80 over both protocols has one number at the nodes.
    front.put(&node_port(), &["a", "b"]);
    front.is_given(&everywhere, &["a", "b"]);
    // Without UDP, TCP goes on at the same number.
    front.put(&one.node_ports(NODE_PORT - 80), &["a", "b"]);
    for to in everywhere {
        refuses(&front.client, KINDS[1], to);
        given(&front.client, TCP, to, &["a", "b"]);
    }
}

#[test]
fn should_release_node_ports_on_delete() {
    let front = Front::new(&node_port(), &["a", "b"]);
    let everywhere = front.everywhere(NODE_PORT);
    front.is_given(&everywhere, &["a", "b"]);
    front.remove();
    front.is_refused(&everywhere);
    // A program of the host may have the port now.
    let host = &front.nodes[0];
    for kind in [KINDS[0], KINDS[1]] {
        host.serve(kind.transport, NODE_PORT).unwrap();
        for to in front.at(0, NODE_PORT) {
            given(&front.client, kind, to, &["node1"]);
        }
    }
    for to in front.at(1, NODE_PORT) {
        refused(&front.client, to);
    }
    // And another Service elsewhere.
    front.put(&web_service().node_ports(NODE_PORT - 79), &["b"]);
    front.is_given(&front.everywhere(NODE_PORT + 1), &["b"]);
}

#[test]
fn should_be_rejected_when_no_endpoints_exist() {
    let front = Front::new(&balanced(), &[]);
    let mut addresses = front.everywhere(NODE_PORT);
    addresses.extend(balancer());
    front.is_refused(&addresses);
    // With the policy as well: there is none that another node could have.
    front.put(&balanced().external_local(), &["a"]);
    for to in front.at(1, NODE_PORT) {
        loses(&front.client, TCP, to);
    }
    front.put(&balanced().external_local(), &[]);
    front.is_refused(&addresses);
    front.put(&balanced(), &["a", "b"]);
    front.is_given(&addresses, &["a", "b"]);
}

#[test]
fn should_leave_ports_of_the_host_to_pods_with_the_same_number_at_other_addresses_or_protocols() {
    // Upstream's HostPort test, with a Service whose node port is beside it.
    const HOST_PORT: u16 = 31_337;
    let other: [IpAddr; 2] = [
        Ipv4Addr::new(203, 0, 113, 99).into(),
        Ipv6Addr::new(0xfd00, 0x203, 0, 0x113, 0, 0, 0, 0x99).into(),
    ];
    let front = Front::new(&node_port(), &["a", "b"]);
    let node = &front.nodes[0];
    let own: [IpAddr; 2] = [node.v4().into(), node.v6().into()];
    for (other, own) in other.into_iter().zip(own) {
        node.ip(&format!("address add {other} dev eth0")).unwrap();
        front.outside.route(other, node).unwrap();
        for (transport, at, name) in [
            (Transport::Tcp, own, "a"),
            (Transport::Tcp, other, "c"),
            (Transport::Udp, other, "a"),
        ] {
            let pod = front.backend(name).ip_like(at);
            let (at, to) = ((at, HOST_PORT).into(), (pod, TARGET).into());
            node.map_host_port(transport, at, to).unwrap();
            let kind = Kind::new(transport);
            for peer in [&*front.client, &**node, &*front.nodes[1]] {
                given(peer, kind, at, &[name]);
            }
        }
    }
    front.is_given(&front.at(0, NODE_PORT), &["a", "b"]);
}
