//! Ports of Services, and what slices say they lead to.

use serde_json::{Value, json};
use svclb_tests::manifests::{Endpoint, Service};
use svclb_tests::{SOON, Transport, wait_until};

use super::super::super::scene::{Scene, TARGET, v4, v6, web, web_service};
use super::super::ask::{TCP, UDP, UNCONNECTED, answered_by, known, refused};
use super::super::slices::part;
use super::empty;

#[test]
fn should_serve_multiport_endpoints_from_pods() {
    let scene = empty();
    for (backend, port) in [(0, 9001), (1, 9002)] {
        scene.backends[backend].serve(Transport::Tcp, port).unwrap();
    }
    let service = Service::new("multi").at(v4(20)).tcp(80, 9001).tcp(81, 9002);
    let port = |name: &str, port: u16| json!([{ "name": name, "protocol": "TCP", "port": port }]);
    let endpoint = |number: usize| Endpoint::new(scene.backends[number].v4());
    let first = part(&service, "1", &port("tcp-80", 9001), &[endpoint(0)]);
    let second = part(&service, "2", &port("tcp-81", 9002), &[endpoint(1)]);
    let put = |objects: &[Value]| scene.manifests.put("multi.yaml", objects).unwrap();
    let (at_80, at_81) = (web(v4(20)), (v4(20), 81).into());

    put(&[service.object(), first]);
    known(&scene.node, at_80);
    answered_by(&scene.client, TCP, at_80, &["a"]);
    refused(&scene.client, at_81);
    put(&[service.object(), second.clone()]);
    answered_by(&scene.client, TCP, at_81, &["b"]);
    refused(&scene.client, at_80);
    let first = part(&service, "1", &port("tcp-80", 9001), &[endpoint(0)]);
    put(&[service.object(), first, second]);
    answered_by(&scene.client, TCP, at_80, &["a"]);
    answered_by(&scene.client, TCP, at_81, &["b"]);
}

#[test]
fn should_serve_endpoints_on_same_port_and_different_protocols() {
    let scene = Scene::web();
    let all = ["a", "b", "c"];
    let put = |service: Service| {
        let objects = service.at(v4(10)).at(v6(0x10)).with(&scene.endpoints());
        scene.manifests.put("web.yaml", &objects).unwrap();
    };
    for kind in [TCP, UDP, UNCONNECTED] {
        answered_by(&scene.client, kind, web(v4(10)), &all);
    }
    put(Service::new("web").udp(80, TARGET));
    refused(&scene.client, web(v4(10)));
    for kind in [UDP, UNCONNECTED] {
        answered_by(&scene.client, kind, web(v4(10)), &all);
    }
    put(Service::new("web").tcp(80, TARGET));
    answered_by(&scene.client, TCP, web(v4(10)), &all);
    let closed = wait_until(SOON, || scene.client.ask(UDP, web(v4(10))).is_err());
    assert!(closed, "UDP is still served");
    answered_by(&scene.client, TCP, web(v4(10)), &all);
}

#[test]
fn should_be_updated_after_adding_or_deleting_ports() {
    let scene = empty();
    let all = ["a", "b", "c"];
    let put = |service: Service| {
        let objects = service.at(v4(10)).with(&scene.endpoints_of(&all));
        scene.manifests.put("web.yaml", &objects).unwrap();
    };
    let (old, new) = (web(v4(10)), (v4(10), 81).into());
    put(Service::new("web").tcp(80, TARGET));
    answered_by(&scene.client, TCP, old, &all);
    refused(&scene.client, new);
    put(Service::new("web").tcp(80, TARGET).tcp(81, TARGET));
    answered_by(&scene.client, TCP, new, &all);
    answered_by(&scene.client, TCP, old, &all);
    put(Service::new("web").tcp(81, TARGET));
    refused(&scene.client, old);
    answered_by(&scene.client, TCP, new, &all);
}

#[test]
fn should_connect_to_the_named_ports_exposed_by_restartable_init_containers() {
    let scene = empty();
    scene.backends[0].serve(Transport::Tcp, 9005).unwrap();
    let service = Service::new("sidecar").at(v4(20)).tcp(80, TARGET);
    let mut object = service.object();
    // The Service says a name; only the slice knows the number.
    object["spec"]["ports"][0]["targetPort"] = json!("in-sidecar");
    let ports = json!([{ "name": "tcp-80", "protocol": "TCP", "port": 9005 }]);
    let slice = part(
        &service,
        "1",
        &ports,
        &[Endpoint::new(scene.backends[0].v4())],
    );
    scene
        .manifests
        .put("sidecar.yaml", &[object, slice])
        .unwrap();
    known(&scene.node, web(v4(20)));
    answered_by(&scene.client, TCP, web(v4(20)), &["a"]);
    let answer = scene.client.ask(TCP, web(v4(20))).unwrap();
    assert_eq!(answer.peer_name, Some(web(v4(20))));
}

#[test]
fn should_support_named_target_ports_that_resolve_to_different_ports_on_different_endpoints() {
    let scene = empty();
    scene.backends[0].serve(Transport::Tcp, 9001).unwrap();
    scene.backends[1].serve(Transport::Tcp, 9002).unwrap();
    let service = web_service();
    let put = |second: u16| {
        let slice = |suffix: &str, port: u16, backend: usize| {
            let ports = json!([{ "name": "tcp-80", "protocol": "TCP", "port": port }]);
            let endpoint = Endpoint::new(scene.backends[backend].v4());
            part(&service, suffix, &ports, &[endpoint])
        };
        let objects = [service.object(), slice("1", 9001, 0), slice("2", second, 1)];
        scene.manifests.put("web.yaml", &objects).unwrap();
    };
    put(9002);
    answered_by(&scene.client, TCP, web(v4(10)), &["a", "b"]);
    // Nothing listens at the new port yet: a refusal shows that it is the new one.
    put(9003);
    let moved = wait_until(SOON, || {
        let tally = scene.client.repeat(TCP, web(v4(10)), 40).unwrap();
        tally.failures.contains_key("connect: ECONNREFUSED") && tally.answers.keys().eq(["a"])
    });
    assert!(moved, "the second endpoint is still at its old port");
    scene.backends[1].serve(Transport::Tcp, 9003).unwrap();
    answered_by(&scene.client, TCP, web(v4(10)), &["a", "b"]);
}
