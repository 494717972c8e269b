//! ClusterIP over TCP.

use serde_json::Value;
use svclb_tests::{Kind, SOON, Transport, wait_until};

use super::scene::{
    MANY, Scene, TARGET, assert_even, assert_spread, kernel, lacks_sockets, v4, v6, web,
    web_service,
};

#[test]
fn every_backend_is_reached_evenly_and_getpeername_shows_the_service_address() {
    let scene = Scene::web();
    for ip in [v4(10), v6(0x10)] {
        assert_even(&scene.client, Transport::Tcp, web(ip));
        let answer = scene.client.ask(Transport::Tcp, web(ip)).unwrap();
        assert_eq!(answer.peer_name, Some(web(ip)));
    }
}

#[test]
fn the_backend_sees_the_address_of_the_pod_that_connects() {
    let scene = Scene::web();
    for ip in [v4(10), v6(0x10)] {
        let answer = scene.client.ask(Transport::Tcp, web(ip)).unwrap();
        assert_eq!(answer.client.ip(), scene.client.ip_like(ip));
    }
}

#[test]
fn sockets_of_the_nodes_host_are_translated_like_those_of_pods() {
    let scene = Scene::web();
    for ip in [v4(10), v6(0x10)] {
        assert_even(&scene.node, Transport::Tcp, web(ip));
    }
}

#[test]
fn a_backend_reaches_its_own_service_and_may_be_given_itself() {
    let scene = Scene::web();
    assert_even(&scene.backends[0], Transport::Tcp, web(v4(10)));
}

#[test]
fn an_ipv6_socket_reaches_an_ipv4_service_by_its_mapped_address() {
    let scene = Scene::web();
    let kind = Kind::new(Transport::Tcp).mapped();
    assert_even(&scene.client, kind, web(v4(10)));
    let answer = scene.client.ask(kind, web(v4(10))).unwrap();
    assert_eq!(
        answer.peer_name.unwrap().to_string(),
        "[::ffff:10.96.0.10]:80"
    );
}

#[test]
fn a_connect_that_does_not_block_is_translated_too() {
    let scene = Scene::web();
    let kind = Kind::new(Transport::Tcp).nonblocking();
    for ip in [v4(10), v6(0x10)] {
        assert_even(&scene.client, kind, web(ip));
    }
}

#[test]
fn an_mptcp_socket_is_a_tcp_client() {
    let scene = Scene::web();
    let kind = Kind::new(Transport::Mptcp);
    if lacks_sockets("mptcp", scene.client.socket(kind, false).map(drop)) {
        return;
    }
    // The kernel runs the hook at connect for the first subflow, and the one at getpeername
    // for the MPTCP socket. Before 5.19 nothing leads from one to the other, and the name
    // shown is the backend's.
    let dump = scene.agent.dump("all").unwrap();
    let leads = dump["node"]["skc_to_mptcp_sock"].as_bool().unwrap();
    assert!(leads || kernel() < (5, 19), "{:?}", dump["node"]);
    for ip in [v4(10), v6(0x10)] {
        let tally = scene.client.repeat(kind, web(ip), MANY).unwrap();
        assert_spread(&tally);
        assert_eq!(
            tally.wrong_names,
            if leads { 0 } else { u64::from(MANY) },
            "{tally:?}"
        );
    }
}

#[test]
fn a_closed_socket_is_forgotten() {
    let scene = Scene::web();
    let mut kinds = vec![Kind::new(Transport::Tcp), Kind::new(Transport::Udp)];
    // A subflow is the kernel's own socket, which it releases without the hook; only where
    // its MPTCP socket can be found instead is nothing left.
    let dump = scene.agent.dump("all").unwrap();
    if dump["node"]["skc_to_mptcp_sock"] == true {
        kinds.push(Kind::new(Transport::Mptcp));
    }
    for kind in kinds {
        scene.client.repeat(kind, web(v4(10)), 600).unwrap();
    }
    let mut left = Value::Null;
    let forgotten = wait_until(SOON, || {
        left = scene.agent.dump("sockets").unwrap()["sockets"].clone();
        left.as_array().is_some_and(Vec::is_empty)
    });
    assert!(forgotten, "{left}");
}

#[test]
fn an_address_that_is_no_service_is_left_alone() {
    let scene = Scene::web();
    let pod = &scene.backends[1];
    for to in [pod.v4_at(TARGET), pod.v6_at(TARGET)] {
        let answer = scene.client.ask(Transport::Tcp, to).unwrap();
        assert_eq!(answer.backend, "b");
        assert_eq!(answer.peer_name, Some(to));
    }
    // Of the range, but no Service's: it is not refused.
    let failure = scene.client.ask(Transport::Tcp, web(v4(99))).unwrap_err();
    assert_eq!(failure.to_string(), "connect: EHOSTUNREACH");
}

#[test]
fn tcp_and_udp_on_one_port_are_different_frontends() {
    let scene = Scene::new(|manifests, endpoints| {
        let tcp = web_service().with(&endpoints[..2]);
        manifests.put("web.yaml", &tcp).unwrap();
        let only_tcp = svclb_tests::manifests::Service::new("only-tcp")
            .at(v4(11))
            .tcp(80, TARGET);
        manifests
            .put("only-tcp.yaml", &only_tcp.with(&endpoints[2..3]))
            .unwrap();
    });
    let client = &scene.client;
    assert!(client.ask(Transport::Udp, web(v4(10))).is_ok());
    assert_eq!(
        client.ask(Transport::Tcp, web(v4(11))).unwrap().backend,
        "b"
    );
    assert!(client.ask(Transport::Udp, web(v4(11))).is_err());
}

#[test]
fn a_socket_that_failed_may_connect_again_to_another_service() {
    let scene = Scene::new(|manifests, endpoints| {
        manifests
            .put("web.yaml", &web_service().with(endpoints))
            .unwrap();
        let empty = svclb_tests::manifests::Service::new("empty")
            .at(v4(20))
            .tcp(80, TARGET);
        manifests.put("empty.yaml", &[empty.object()]).unwrap();
    });
    let socket = scene.client.socket(Transport::Tcp, false).unwrap();
    let failure = socket.connect(web(v4(20))).unwrap_err();
    assert_eq!(failure.errno, "ECONNREFUSED");
    socket.connect(web(v4(10))).unwrap();
    assert_eq!(socket.peer_name().unwrap(), web(v4(10)));
    socket.send("hello").unwrap();
    assert_eq!(socket.receive().unwrap().echoed, "hello");
}

#[test]
fn a_connection_keeps_its_name_while_the_service_changes_and_goes() {
    let scene = Scene::web();
    let socket = scene.client.socket(Transport::Tcp, false).unwrap();
    socket.connect(web(v4(10))).unwrap();
    socket.send("before").unwrap();
    let first = socket.receive().unwrap().backend;
    scene.manifests.remove("web.yaml").unwrap();
    let gone = wait_until(SOON, || {
        scene.client.ask(Transport::Udp, web(v4(10))).is_err()
    });
    assert!(gone, "{:?}", scene.agent.log());
    socket.send("after").unwrap();
    let received = socket.receive().unwrap();
    assert_eq!(
        (received.backend, received.echoed.as_str()),
        (first, "after")
    );
    assert_eq!(socket.peer_name().unwrap(), web(v4(10)));
}
