//! Services without usable endpoints.

use std::fmt::Debug;

use svclb_tests::manifests::Service;
use svclb_tests::{Failure, Kind, Peer, SOON, Transport, wait_until};

use super::scene::{Scene, TARGET, refuses_by_errno, v4, v6, web, web_service};

fn empty() -> Scene {
    Scene::new(|manifests, _| {
        manifests
            .put("web.yaml", &[web_service().object()])
            .unwrap();
    })
}

/// A connect is refused each time, and at once: the quickest of five, as a busy machine
/// lets any one of them wait.
fn assert_refused<T: Debug>(mut connect: impl FnMut() -> Result<T, Failure>) {
    let at_once = (0..5).any(|_| {
        let failure = connect().unwrap_err();
        assert_eq!(failure.to_string(), "connect: ECONNREFUSED");
        failure.nanos < 50_000_000
    });
    assert!(at_once);
}

#[test]
fn tcp_is_refused_at_once_for_pods_and_the_host_in_both_families() {
    let scene = empty();
    let tcp = Kind::new(Transport::Tcp);
    for peer in [&*scene.client as &Peer, &*scene.node] {
        for kind in [tcp, tcp.nonblocking()] {
            for ip in [v4(10), v6(0x10)] {
                assert_refused(|| peer.ask(kind, web(ip)));
            }
            assert_refused(|| peer.ask(kind.mapped(), web(v4(10))));
        }
    }
}

#[test]
fn a_connected_udp_socket_is_refused() {
    let scene = empty();
    for (ip, mapped) in [(v4(10), false), (v4(10), true), (v6(0x10), false)] {
        let mut kind = Kind::new(Transport::Udp);
        kind.mapped = mapped;
        let socket = scene.client.socket(kind, ip.is_ipv6()).unwrap();
        if refuses_by_errno(&scene) {
            assert_refused(|| socket.connect(web(ip)));
        } else {
            // The first datagram goes to a closed port, whose ICMP error the next one meets.
            socket.connect(web(ip)).unwrap();
            socket.send("first").unwrap();
            let mut reported = Ok(());
            wait_until(SOON, || {
                reported = socket.send("next");
                reported.is_err()
            });
            assert_eq!(reported.unwrap_err().to_string(), "send: ECONNREFUSED");
        }
    }
}

#[test]
fn an_unconnected_udp_socket_is_refused_where_the_kernel_can_say_so() {
    let scene = empty();
    for ip in [v4(10), v6(0x10)] {
        let kind = Kind::new(Transport::Udp).unconnected();
        let failure = scene.client.ask(kind, web(ip)).unwrap_err();
        let expected = if refuses_by_errno(&scene) {
            "send: ECONNREFUSED"
        } else {
            "receive: EAGAIN"
        };
        assert_eq!(failure.to_string(), expected);
    }
}

#[test]
fn a_service_is_refused_from_its_last_endpoint_on_and_served_from_its_first() {
    let scene = empty();
    assert_refused(|| scene.client.ask(Transport::Tcp, web(v4(10))));
    for _ in 0..3 {
        let objects = web_service().with(&scene.endpoints_of(&["b"]));
        scene.manifests.put("web.yaml", &objects).unwrap();
        scene.wait_for_answers(web(v4(10)), &["b"]);
        let objects = [web_service().object()];
        scene.manifests.put("web.yaml", &objects).unwrap();
        scene.wait_for_answers(web(v4(10)), &[]);
        assert_refused(|| scene.client.ask(Transport::Tcp, web(v4(10))));
    }
}

#[test]
fn one_family_without_endpoints_is_refused_while_the_other_is_served() {
    let scene = Scene::new(|manifests, endpoints| {
        let only_v4: Vec<_> = endpoints
            .iter()
            .copied()
            .filter(|ip| ip.is_ipv4())
            .collect();
        manifests
            .put("web.yaml", &web_service().with(&only_v4))
            .unwrap();
    });
    assert!(scene.client.ask(Transport::Tcp, web(v4(10))).is_ok());
    assert_refused(|| scene.client.ask(Transport::Tcp, web(v6(0x10))));
}

#[test]
fn endpoints_that_are_not_ready_do_not_count() {
    let scene = Scene::new(|manifests, endpoints| {
        let service = Service::new("web").at(v4(10)).tcp(80, TARGET);
        let mut slice = service.slice(&endpoints[..1]);
        slice["endpoints"][0]["conditions"] = serde_json::json!({ "ready": false });
        manifests
            .put("web.yaml", &[service.object(), slice])
            .unwrap();
    });
    assert_refused(|| scene.client.ask(Transport::Tcp, web(v4(10))));
}

#[test]
fn a_port_that_a_service_does_not_have_is_refused_at_its_address() {
    let scene = Scene::web();
    for ip in [v4(10), v6(0x10)] {
        assert_refused(|| scene.client.ask(Transport::Tcp, (ip, 81).into()));
        if refuses_by_errno(&scene) {
            assert_refused(|| scene.client.ask(Transport::Udp, (ip, 81).into()));
        }
    }
    // The address of no Service is left alone, whatever its port.
    let failure = scene.client.ask(Transport::Tcp, (v4(99), 81).into());
    assert_eq!(failure.unwrap_err().errno, "EHOSTUNREACH");
}
