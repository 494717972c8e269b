//! Networking, granular checks: every kind of client, every kind of endpoint.

use svclb_tests::Transport;
use svclb_tests::manifests::Service;

use super::super::super::scene::{Scene, TARGET, v4, v6, web, web_service};
use super::super::ask::{KINDS, TCP, UDP, UNCONNECTED, answered_by, known, publish, unreachable};
use super::super::cluster::{Cluster, both, one_family};

const ALL: [&str; 3] = ["a", "b", "c"];

#[test]
fn should_function_for_node_service_udp() {
    let scene = Scene::web();
    for to in both() {
        for kind in [UDP, UNCONNECTED] {
            answered_by(&scene.node, kind, to, &ALL);
        }
    }
}

#[test]
fn should_function_for_endpoint_service_http_and_udp() {
    let scene = Scene::web();
    for endpoint in &scene.backends {
        for to in both() {
            for kind in KINDS {
                answered_by(endpoint, kind, to, &ALL);
            }
        }
    }
}

#[test]
fn should_function_for_multiple_endpoint_services_with_same_selector() {
    let scene = Scene::web();
    let twin = Service::new("twin")
        .at(v4(20))
        .at(v6(0x20))
        .tcp(80, TARGET)
        .udp(80, TARGET);
    let objects = twin.with(&scene.endpoints_of(&ALL));
    scene.manifests.put("twin.yaml", &objects).unwrap();
    for to in [v4(10), v6(0x10), v4(20), v6(0x20)].map(web) {
        known(&scene.node, to);
        for kind in KINDS {
            answered_by(&scene.client, kind, to, &ALL);
        }
    }
    scene.manifests.remove("twin.yaml").unwrap();
    unreachable(&scene.node, web(v4(20)));
    for to in both() {
        for kind in KINDS {
            answered_by(&scene.client, kind, to, &ALL);
        }
    }
}

#[test]
fn should_update_endpoints_http_and_udp() {
    let scene = Scene::web();
    for names in [&ALL[..], &["a", "b"]] {
        publish(&scene, names);
        for to in both() {
            for kind in KINDS {
                answered_by(&scene.client, kind, to, names);
            }
        }
    }
    // Once it has taken effect the one that left never answers again.
    for to in both() {
        for kind in KINDS {
            let tally = scene.client.repeat(kind, to, 100).unwrap();
            assert_eq!(tally.failed(), 0, "{tally:?}");
            assert!(!tally.answers.contains_key("c"), "{tally:?}");
        }
    }
}

#[test]
fn should_be_able_to_handle_large_requests_http_and_udp() {
    let scene = Scene::web();
    let text = "x".repeat(2000);
    for to in both() {
        for kind in [TCP, UDP] {
            let socket = scene.client.socket(kind, to.is_ipv6()).unwrap();
            socket.connect(to).unwrap();
            socket.send(&text).unwrap();
            assert_eq!(socket.receive().unwrap().echoed, text);
        }
        let socket = scene.client.socket(UNCONNECTED, to.is_ipv6()).unwrap();
        socket.send_to(to, &text).unwrap();
        let received = socket.receive().unwrap();
        assert_eq!((received.echoed, received.from), (text.clone(), Some(to)));
    }
}

#[test]
fn should_function_for_service_endpoints_using_host_network() {
    let cluster = Cluster::new(2);
    for place in [&cluster[0], &cluster[1]] {
        for transport in [Transport::Tcp, Transport::Udp] {
            place.node.serve(transport, TARGET).unwrap();
        }
    }
    let hosts = ["node1", "node2"];
    let four = [0, 1].map(|number| cluster[number].host_endpoint());
    let six = [0, 1].map(|number| cluster[number].node.v6().into());
    let service = web_service();
    cluster.put(&[
        service.object(),
        service.slice_of(&four),
        service.slice(&six),
    ]);
    for place in [&cluster[0], &cluster[1]] {
        for to in both() {
            place.is_given(to, &hosts);
        }
    }
    // The hosts ask as endpoints, too: each is given the other, and itself.
    for host in hosts {
        let number = usize::from(host == "node2");
        let service = one_family();
        let slice = service.slice_of(&[cluster[number].host_endpoint()]);
        cluster.put(&[service.object(), slice]);
        for place in [&cluster[0], &cluster[1]] {
            place.is_given(web(v4(10)), &[host]);
        }
    }
}
