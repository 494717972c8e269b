//! EndpointSlices: several of one Service, and those that mirror Endpoints.

use serde_json::{Value, json};
use svclb_tests::Transport;
use svclb_tests::manifests::{Endpoint, Service};

use super::super::scene::{Scene, TARGET, v4, web};
use super::ask::{TCP, answered_by, refused};

/// One slice of several, with ports of its own.
pub(super) fn part(
    service: &Service,
    suffix: &str,
    ports: &Value,
    endpoints: &[Endpoint],
) -> Value {
    let mut slice = service.slice_of(endpoints);
    let name = slice["metadata"]["name"].as_str().unwrap_or_default();
    slice["metadata"]["name"] = format!("{name}-{suffix}").into();
    slice["ports"] = ports.clone();
    slice
}

/// One TCP port.
fn port(name: &str, number: u16) -> Value {
    json!([{ "name": name, "protocol": "TCP", "port": number }])
}

/// The backends answer at 9001 and 9002 too: `a` and `b` each at one, `c` at both.
fn scene() -> Scene {
    let scene = Scene::new(|manifests, _| {
        let unnamed = Service::new("unnamed").at(v4(11)).tcp(80, TARGET);
        let objects = [service().object(), unnamed.object()];
        manifests.put("web.yaml", &objects).unwrap();
    });
    for (backend, port) in [(0, 9001), (1, 9002), (2, 9001), (2, 9002)] {
        scene.backends[backend].serve(Transport::Tcp, port).unwrap();
    }
    scene
}

fn service() -> Service {
    Service::new("web").at(v4(10)).tcp(80, 9001).tcp(81, 9002)
}

#[test]
fn should_support_a_service_with_multiple_ports_specified_in_multiple_endpoint_slices() {
    let scene = scene();
    let service = service();
    let c = [Endpoint::new(scene.backends[2].v4())];
    let objects = [
        service.object(),
        part(&service, "1", &port("tcp-80", 9001), &c),
        part(&service, "2", &port("tcp-81", 9002), &c),
    ];
    scene.manifests.put("web.yaml", &objects).unwrap();
    answered_by(&scene.client, TCP, web(v4(10)), &["c"]);
    answered_by(&scene.client, TCP, (v4(10), 81).into(), &["c"]);
}

#[test]
fn should_support_a_service_with_multiple_endpoint_ips_specified_in_multiple_endpoint_slices() {
    let scene = scene();
    let service = service();
    let [a, b] = [0, 1].map(|number| [Endpoint::new(scene.backends[number].v4())]);
    // One port's name with two numbers: both are right, each for its own slice.
    let objects = [
        service.object(),
        part(&service, "1", &port("tcp-80", 9001), &a),
        part(&service, "2", &port("tcp-80", 9002), &b),
    ];
    scene.manifests.put("web.yaml", &objects).unwrap();
    answered_by(&scene.client, TCP, web(v4(10)), &["a", "b"]);
    let objects = [
        service.object(),
        part(&service, "1", &port("tcp-80", 9001), &a),
        part(&service, "2", &port("tcp-81", 9002), &b),
    ];
    scene.manifests.put("web.yaml", &objects).unwrap();
    answered_by(&scene.client, TCP, web(v4(10)), &["a"]);
    answered_by(&scene.client, TCP, (v4(10), 81).into(), &["b"]);
}

fn custom(subsets: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": { "name": "web", "namespace": "default" },
        "subsets": subsets,
    })
}

#[test]
fn should_mirror_a_custom_endpoints_resource_through_create_update_and_delete() {
    let scene = scene();
    let subset = |number: usize, port: u16| {
        json!([{
            "addresses": [{ "ip": scene.backends[number].v4() }],
            "ports": [{ "name": "tcp-80", "port": port }],
        }])
    };
    for (number, port, name) in [(0, 9001, "a"), (1, 9002, "b")] {
        let objects = [service().object(), custom(&subset(number, port))];
        scene.manifests.put("web.yaml", &objects).unwrap();
        answered_by(&scene.client, TCP, web(v4(10)), &[name]);
    }
    scene
        .manifests
        .put("web.yaml", &[service().object()])
        .unwrap();
    refused(&scene.client, web(v4(10)));
}

#[test]
fn should_mirror_a_custom_endpoint_with_multiple_subsets_and_same_ip_address() {
    let scene = scene();
    let subset = |name: &str, port: u16| {
        json!({
            "addresses": [{ "ip": scene.backends[2].v4() }],
            "ports": [{ "name": name, "port": port }],
        })
    };
    let subsets = json!([subset("tcp-80", 9001), subset("tcp-81", 9002)]);
    let objects = [service().object(), custom(&subsets)];
    scene.manifests.put("web.yaml", &objects).unwrap();
    answered_by(&scene.client, TCP, web(v4(10)), &["c"]);
    answered_by(&scene.client, TCP, (v4(10), 81).into(), &["c"]);
}

#[test]
fn should_create_endpoints_and_endpoint_slices_for_pods_matching_a_service() {
    let scene = scene();
    let endpoint = |number: usize| Endpoint::new(scene.backends[number].v4());
    // The one with named ports: the first pod has one of them, the second the other.
    let named = service();
    let mut objects = vec![
        named.object(),
        part(&named, "1", &port("tcp-80", 9001), &[endpoint(0)]),
        part(&named, "2", &port("tcp-81", 9002), &[endpoint(1)]),
    ];
    // The one with a single port without a name, of both pods, in a slice each.
    let unnamed = Service::new("unnamed").at(v4(11)).tcp(80, TARGET);
    let mut object = unnamed.object();
    object["spec"]["ports"][0]
        .as_object_mut()
        .unwrap()
        .remove("name");
    objects.extend([
        object,
        part(&unnamed, "1", &port("", TARGET), &[endpoint(0)]),
        part(&unnamed, "2", &port("", TARGET), &[endpoint(1)]),
    ]);
    scene.manifests.put("web.yaml", &objects).unwrap();
    answered_by(&scene.client, TCP, web(v4(10)), &["a"]);
    answered_by(&scene.client, TCP, (v4(10), 81).into(), &["b"]);
    answered_by(&scene.client, TCP, web(v4(11)), &["a", "b"]);
}
