//! Services: what every one of them does.

mod granular;
mod node_ports;
mod ports;

use svclb_tests::manifests::{Endpoint, Service};
use svclb_tests::{Kind, Peer};

use super::super::scene::{Scene, TARGET, v4, v6, web, web_service};
use super::ask::{KINDS, TCP, UDP, answered_by, known, publish, refused, unreachable};
use super::cluster::{Cluster, both};

fn empty() -> Scene {
    Scene::new(|manifests, _| {
        manifests
            .put("web.yaml", &[web_service().object()])
            .unwrap();
    })
}

#[test]
fn should_serve_a_basic_endpoint_from_pods() {
    let scene = empty();
    for names in [&["a"][..], &["a", "b"], &["b"]] {
        publish(&scene, names);
        for to in both() {
            answered_by(&scene.client, TCP, to, names);
        }
    }
    publish(&scene, &[]);
    for to in both() {
        refused(&scene.client, to);
    }
}

#[test]
fn should_be_able_to_up_and_down_services() {
    let service = |host| {
        Service::new(&format!("up-{host}"))
            .at(v4(host))
            .tcp(80, TARGET)
            .udp(80, TARGET)
    };
    let scene = empty();
    let up = |host: u8, names: &[&str]| {
        let objects = service(host).with(&scene.endpoints_of(names)[..1]);
        scene
            .manifests
            .put(&format!("up-{host}.yaml"), &objects)
            .unwrap();
        known(&scene.node, web(v4(host)));
    };
    up(11, &["a"]);
    up(12, &["b"]);
    answered_by(&scene.client, TCP, web(v4(11)), &["a"]);
    answered_by(&scene.client, TCP, web(v4(12)), &["b"]);
    scene.manifests.remove("up-11.yaml").unwrap();
    unreachable(&scene.node, web(v4(11)));
    unreachable(&scene.client, web(v4(11)));
    answered_by(&scene.client, TCP, web(v4(12)), &["b"]);
    up(13, &["c"]);
    answered_by(&scene.client, TCP, web(v4(13)), &["c"]);
    answered_by(&scene.client, TCP, web(v4(12)), &["b"]);
}

#[test]
fn should_work_after_the_service_has_been_recreated() {
    let scene = Scene::web();
    answered_by(&scene.client, TCP, web(v4(10)), &["a", "b", "c"]);
    scene.manifests.remove("web.yaml").unwrap();
    unreachable(&scene.node, web(v4(10)));
    unreachable(&scene.client, web(v4(10)));
    let dump = scene.agent.dump("services").unwrap().to_string();
    assert!(!dump.contains("10.96.0.10"), "{dump}");
    publish(&scene, &["b"]);
    for to in both() {
        known(&scene.node, to);
        for kind in KINDS {
            answered_by(&scene.client, kind, to, &["b"]);
        }
    }
}

#[test]
fn should_preserve_source_pod_ip_for_traffic_thru_service_cluster_ip() {
    let cluster = Cluster::new(2);
    let backend = &cluster[0].backend;
    cluster.put(&web_service().with(&[backend.v4().into(), backend.v6().into()]));
    for place in [&cluster[0], &cluster[1]] {
        for to in both() {
            for kind in KINDS {
                answered_by(&place.client, kind, to, &["a"]);
                assert_eq!(place.seen(kind, to), place.client.ip_like(to.ip()));
            }
        }
    }
}

#[test]
fn should_allow_pods_to_hairpin_back_to_themselves_through_services() {
    let scene = empty();
    publish(&scene, &["a"]);
    let pod = &scene.backends[0];
    for to in both() {
        for kind in KINDS {
            answered_by(pod, kind, to, &["a"]);
            let answer = pod.ask(kind, to).unwrap();
            assert_eq!(answer.client.ip(), pod.ip_like(to.ip()));
        }
    }
}

#[test]
fn should_not_be_able_to_connect_to_terminating_and_unready_endpoints_if_publish_not_ready_addresses_is_false()
 {
    let scene = empty();
    publish(&scene, &["a", "b"]);
    answered_by(&scene.client, TCP, web(v4(10)), &["a", "b"]);
    let [a, b] = [0, 1].map(|number| Endpoint::new(scene.backends[number].v4()));
    let service = web_service();
    let objects = [
        service.object(),
        service.slice_of(&[a.terminating(false), b.unready()]),
    ];
    scene.manifests.put("web.yaml", &objects).unwrap();
    for peer in [&*scene.client as &Peer, &*scene.node] {
        refused(peer, web(v4(10)));
    }
}

#[test]
fn should_be_able_to_connect_to_terminating_and_unready_endpoints_if_publish_not_ready_addresses_is_true()
 {
    let scene = empty();
    let service = web_service();
    let mut object = service.object();
    object["spec"]["publishNotReadyAddresses"] = true.into();
    // As the slices' controller writes them for such a Service: ready whatever the pod is.
    for terminating in [false, true] {
        let mut slice = service.slice_of(&[Endpoint::new(scene.backends[0].v4())]);
        slice["endpoints"][0]["conditions"] = serde_json::json!({
            "ready": true, "serving": false, "terminating": terminating,
        });
        scene
            .manifests
            .put("web.yaml", &[object.clone(), slice])
            .unwrap();
        for peer in [&*scene.client as &Peer, &*scene.node] {
            for kind in [TCP, UDP] {
                answered_by(peer, kind, web(v4(10)), &["a"]);
            }
        }
    }
}

/// A Service at these addresses leads there in each of their families, and another family
/// has no such Service.
fn has_cluster_ips(service: &Service, scene: &Scene, at: &[std::net::IpAddr]) {
    let objects = service.with(&scene.endpoints());
    scene.manifests.put("families.yaml", &objects).unwrap();
    for ip in at {
        known(&scene.node, web(*ip));
        for kind in KINDS.map(|kind: Kind| if ip.is_ipv4() { kind.mapped() } else { kind }) {
            answered_by(&scene.client, kind, web(*ip), &["a", "b", "c"]);
        }
    }
}

#[test]
fn should_create_service_with_ipv4_ipv6_or_both_cluster_ips_in_either_order() {
    let scene = empty();
    let service = |name| Service::new(name).tcp(80, TARGET).udp(80, TARGET);
    let (four, six) = (v4(20), v6(0x20));
    has_cluster_ips(&service("four").at(four), &scene, &[four]);
    unreachable(&scene.node, web(six));
    has_cluster_ips(&service("six").at(six), &scene, &[six]);
    unreachable(&scene.node, web(four));
    has_cluster_ips(&service("both").at(four).at(six), &scene, &[four, six]);
    has_cluster_ips(&service("turned").at(six).at(four), &scene, &[four, six]);
}
