//! ClusterIP over UDP: connected sockets, and those where every datagram names its
//! destination.

use std::net::SocketAddr;

use svclb_tests::manifests::Service;
use svclb_tests::{Kind, Transport};

use super::scene::{Scene, TARGET, assert_even, lacks_sockets, v4, v6, web, web_service};

const UNCONNECTED: Kind = Kind::new(Transport::Udp).unconnected();

#[test]
fn connected_sockets_reach_every_backend_and_see_the_service_as_peer_and_sender() {
    let scene = Scene::web();
    for ip in [v4(10), v6(0x10)] {
        assert_even(&scene.client, Transport::Udp, web(ip));
        let answer = scene.client.ask(Transport::Udp, web(ip)).unwrap();
        assert_eq!(answer.peer_name, Some(web(ip)));
        assert_eq!(answer.from, Some(web(ip)));
        assert_eq!(answer.client.ip(), scene.client.ip_like(ip));
    }
}

#[test]
fn unconnected_sockets_reach_every_backend_and_see_the_service_as_sender() {
    let scene = Scene::web();
    for ip in [v4(10), v6(0x10)] {
        assert_even(&scene.client, UNCONNECTED, web(ip));
        let answer = scene.client.ask(UNCONNECTED, web(ip)).unwrap();
        assert_eq!(answer.from, Some(web(ip)));
        assert_even(&scene.node, UNCONNECTED, web(ip));
    }
}

#[test]
fn ipv6_sockets_reach_an_ipv4_service_by_its_mapped_address() {
    let scene = Scene::web();
    for kind in [Kind::new(Transport::Udp), UNCONNECTED] {
        assert_even(&scene.client, kind.mapped(), web(v4(10)));
        let answer = scene.client.ask(kind.mapped(), web(v4(10))).unwrap();
        assert_eq!(answer.from.unwrap().to_string(), "[::ffff:10.96.0.10]:80");
    }
}

#[test]
fn an_unconnected_socket_stays_with_one_backend() {
    let scene = Scene::web();
    let socket = scene.client.socket(UNCONNECTED, false).unwrap();
    let mut backends = Vec::new();
    for _ in 0..30 {
        socket.send_to(web(v4(10)), "again").unwrap();
        backends.push(socket.receive().unwrap().backend);
    }
    backends.dedup();
    assert_eq!(backends.len(), 1, "{backends:?}");
}

/// One socket asks `count` Services, all before it reads the first answer. Each has a
/// backend port of its own, so each answer can be told apart.
fn one_socket_asks_many_services(count: u8) {
    let port_of = |host: u8| 9000 + u16::from(host);
    let scene = Scene::new(|manifests, endpoints| {
        let services: Vec<_> = (1..=count)
            .flat_map(|host| {
                Service::new(&format!("many-{host}"))
                    .at(v4(host))
                    .udp(53, port_of(host))
                    .with(&endpoints[..1])
            })
            .collect();
        manifests.put("many.yaml", &services).unwrap();
    });
    for host in 1..=count {
        let port = port_of(host);
        scene.backends[0].serve(Transport::Udp, port).unwrap();
    }
    let service_of = |host: u8| SocketAddr::new(v4(host), 53);
    let socket = scene.client.socket(UNCONNECTED, false).unwrap();
    for round in 0..2 {
        for host in 1..=count {
            let question = format!("{round}/{host}");
            socket.send_to(service_of(host), &question).unwrap();
        }
        let mut answered = Vec::new();
        for _ in 1..=count {
            let received = socket.receive().unwrap();
            let host: u8 = received
                .echoed
                .split('/')
                .next_back()
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(received.from, Some(service_of(host)), "{received:?}");
            answered.push(host);
        }
        answered.sort_unstable();
        assert!(answered.into_iter().eq(1..=count));
    }
}

#[test]
fn one_socket_hears_each_of_three_services_under_its_own_address() {
    one_socket_asks_many_services(3);
}

#[test]
fn one_socket_hears_each_of_twenty_services_under_its_own_address() {
    one_socket_asks_many_services(20);
}

#[test]
fn one_socket_hears_each_of_seventy_services_under_its_own_address() {
    one_socket_asks_many_services(70);
}

#[test]
fn two_services_with_one_backend_asked_in_turn_each_answer_for_themselves() {
    let scene = Scene::new(|manifests, endpoints| {
        for (name, host) in [("first", 11), ("second", 12)] {
            let service = Service::new(name).at(v4(host)).udp(80, TARGET);
            manifests
                .put(&format!("{name}.yaml"), &service.with(&endpoints[..1]))
                .unwrap();
        }
    });
    let socket = scene.client.socket(UNCONNECTED, false).unwrap();
    for _ in 0..5 {
        for host in [11, 12] {
            socket.send_to(web(v4(host)), "whose?").unwrap();
            assert_eq!(socket.receive().unwrap().from, Some(web(v4(host))));
        }
    }
}

#[test]
fn a_connected_socket_may_connect_again_and_shows_the_new_address() {
    let scene = Scene::new(|manifests, endpoints| {
        let other = Service::new("other").at(v4(11)).udp(80, TARGET);
        let mut objects = web_service().with(&endpoints[..1]);
        objects.extend(other.with(&endpoints[2..3]));
        manifests.put("both.yaml", &objects).unwrap();
    });
    let socket = scene.client.socket(Transport::Udp, false).unwrap();
    for (host, backend) in [(10, "a"), (11, "b"), (10, "a")] {
        socket.connect(web(v4(host))).unwrap();
        assert_eq!(socket.peer_name().unwrap(), web(v4(host)));
        socket.send("hello").unwrap();
        let received = socket.receive().unwrap();
        assert_eq!(received.backend, backend);
        assert_eq!(received.from, Some(web(v4(host))));
    }
}

fn one_backend() -> Scene {
    Scene::new(|manifests, endpoints| {
        let objects = web_service().with(&endpoints[..1]);
        manifests.put("web.yaml", &objects).unwrap();
    })
}

#[test]
fn a_socket_that_connects_to_the_backend_of_its_service_sees_the_backend() {
    let scene = one_backend();
    let direct = scene.backends[0].v4_at(TARGET);
    let socket = scene.client.socket(Transport::Udp, false).unwrap();
    for to in [web(v4(10)), direct, web(v4(10)), direct] {
        socket.connect(to).unwrap();
        assert_eq!(socket.peer_name().unwrap(), to);
        socket.send("hello").unwrap();
        assert_eq!(socket.receive().unwrap().from, Some(to));
    }
}

#[test]
fn datagrams_to_a_pod_itself_are_left_alone() {
    let scene = Scene::web();
    let pod = &scene.backends[1];
    for to in [pod.v4_at(TARGET), pod.v6_at(TARGET)] {
        for kind in [Kind::new(Transport::Udp), UNCONNECTED] {
            let answer = scene.client.ask(kind, to).unwrap();
            assert_eq!((answer.backend.as_str(), answer.from), ("b", Some(to)));
        }
    }
}

#[test]
fn a_udp_lite_socket_counts_as_udp() {
    let scene = Scene::web();
    let kind = Kind::new(Transport::UdpLite);
    if lacks_sockets("udp-lite", scene.client.socket(kind, false).map(drop)) {
        return;
    }
    for backend in &scene.backends {
        backend.serve(Transport::UdpLite, TARGET).unwrap();
    }
    // Datagrams with an address. UDP-Lite has no hook at connect: the kernel calls one only
    // for protocols with a `pre_connect`, and UDP-Lite never got it.
    for ip in [v4(10), v6(0x10)] {
        assert_even(&scene.client, kind.unconnected(), web(ip));
    }
}
