//! UDP: one socket that keeps its source port and goes on sending while backends cycle.

mod outside;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;
use svclb_tests::manifests::Endpoint;
use svclb_tests::{Peer, PeerSocket, SOON, wait_until};

use super::super::scene::{Scene, v4, web};
use super::ask::{UNCONNECTED, answered_by};
use super::cluster::{one_family, with_spec};

/// A scene with `web` as it is with these endpoints, and with others later.
fn with_endpoints(scene: &Scene, policy: &str, endpoints: &[Endpoint]) {
    let objects = with_spec("internalTrafficPolicy", policy, endpoints);
    scene.manifests.put("web.yaml", &objects).unwrap();
}

fn without_endpoints() -> Scene {
    Scene::new(|manifests, _| {
        manifests.put("web.yaml", &[one_family().object()]).unwrap();
    })
}

fn endpoint(scene: &Scene, number: usize) -> Endpoint {
    Endpoint::new(scene.backends[number].v4())
}

/// Sends on and on until a backend answers, and then once more. The source port that it saw.
fn reaches(socket: &PeerSocket<'_>, to: SocketAddr, backend: &str) -> u16 {
    let ask = || {
        socket.send_to(to, "still me").ok()?;
        socket.receive().ok()
    };
    let mut last = None;
    let reached = wait_until(SOON, || {
        last = ask();
        last.as_ref()
            .is_some_and(|answer| answer.backend == backend)
    });
    assert!(reached, "{last:?}, and not {backend}");
    let answer = ask().unwrap();
    assert_eq!((answer.backend.as_str(), answer.from), (backend, Some(to)));
    answer.client.port()
}

/// Backends come and go one after the other; `client` uses one socket throughout.
fn cycles(client: &Peer, put: impl Fn(usize)) {
    let socket = client.socket(UNCONNECTED, false).unwrap();
    let mut ports = BTreeSet::new();
    for (number, name) in [(0, "a"), (1, "b"), (2, "c"), (0, "a")] {
        put(number);
        ports.insert(reaches(&socket, web(v4(10)), name));
        answered_by(client, UNCONNECTED, web(v4(10)), &[name]);
    }
    assert_eq!(ports.len(), 1, "{ports:?}");
}

#[test]
fn should_preserve_udp_traffic_when_server_pod_cycles_cluster_ip() {
    let scene = without_endpoints();
    cycles(&scene.client, |number| {
        with_endpoints(&scene, "Cluster", &[endpoint(&scene, number)]);
    });
}

#[test]
fn should_preserve_udp_traffic_when_server_pod_cycles_internal_traffic_policy_local() {
    let scene = without_endpoints();
    cycles(&scene.client, |number| {
        let elsewhere = endpoint(&scene, (number + 1) % 3).on("node2");
        let endpoints = [endpoint(&scene, number), elsewhere];
        with_endpoints(&scene, "Local", &endpoints);
    });
}

#[test]
fn should_preserve_udp_traffic_when_server_pod_cycles_client_is_host_network() {
    let scene = without_endpoints();
    cycles(&scene.node, |number| {
        with_endpoints(&scene, "Cluster", &[endpoint(&scene, number)]);
    });
}

#[test]
fn should_preserve_udp_traffic_when_initial_unready_endpoints_get_ready() {
    let scene = without_endpoints();
    with_endpoints(&scene, "Cluster", &[endpoint(&scene, 0).unready()]);
    let socket = scene.client.socket(UNCONNECTED, false).unwrap();
    for _ in 0..3 {
        // Refused where the kernel can say so, and lost where not.
        drop(socket.send_to(web(v4(10)), "hello?"));
    }
    let port = socket.local_name().unwrap().port();
    with_endpoints(&scene, "Cluster", &[endpoint(&scene, 0)]);
    assert_eq!(reaches(&socket, web(v4(10)), "a"), port);
}

#[test]
fn a_socket_hears_again_of_a_service_that_had_no_endpoint_for_a_while() {
    let scene = without_endpoints();
    let socket = scene.client.socket(UNCONNECTED, false).unwrap();
    with_endpoints(&scene, "Cluster", &[endpoint(&scene, 0)]);
    let port = reaches(&socket, web(v4(10)), "a");
    scene
        .manifests
        .put("web.yaml", &[one_family().object()])
        .unwrap();
    let silent = wait_until(SOON, || {
        let sent = socket.send_to(web(v4(10)), "hello?");
        sent.is_err() || socket.receive().is_err()
    });
    assert!(silent, "{}", json!(scene.agent.log()));
    with_endpoints(&scene, "Cluster", &[endpoint(&scene, 1)]);
    assert_eq!(reaches(&socket, web(v4(10)), "b"), port);
}
