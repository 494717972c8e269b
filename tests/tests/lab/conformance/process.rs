//! The proxy as a process, and what it leaves alone.

use std::net::IpAddr;

use svclb_tests::Agent;
use svclb_tests::manifests::Service;

use super::super::scene::{Scene, TARGET, v4, v6, web, web_service};
use super::ask::{KINDS, answered_by, known};
use super::cluster::Cluster;

#[test]
fn should_check_kube_proxy_urls() {
    let scene = Scene::web();
    let (status, body) = scene.agent.get(Agent::HEALTHZ, "/healthz").unwrap();
    assert_eq!(status, 200);
    assert!(body.contains("lastUpdated"), "{body}");
    let (status, body) = scene.agent.get(Agent::METRICS, "/proxyMode").unwrap();
    assert_eq!((status, body.as_str()), (200, "ebpf"));
}

#[test]
fn should_create_services_and_serve_on_different_service_cidrs() {
    let scene = Scene::new(|_, _| {});
    // One of the first range, one beside it, one of another kind altogether; both families.
    let addresses: [IpAddr; 5] = [
        v4(10),
        [10, 97, 0, 10].into(),
        [192, 168, 200, 1].into(),
        v6(0x10),
        [0xfd00, 0x10, 0x97, 0, 0, 0, 0, 0x10].into(),
    ];
    for (number, ip) in addresses.into_iter().enumerate() {
        let service = Service::new(&format!("range{number}"))
            .at(ip)
            .tcp(80, TARGET)
            .udp(80, TARGET);
        let objects = service.with(&scene.endpoints());
        scene
            .manifests
            .put(&format!("range{number}.yaml"), &objects)
            .unwrap();
    }
    for ip in addresses {
        known(&scene.node, web(ip));
        for kind in KINDS {
            answered_by(&scene.client, kind, web(ip), &["a", "b", "c"]);
        }
    }
}

#[test]
fn should_be_able_to_send_traffic_between_pods_without_snat() {
    let cluster = Cluster::new(2);
    let backend = &cluster[0].backend;
    // They are endpoints as well, which must make no difference to who asks them directly.
    cluster.put(&web_service().with(&[backend.v4().into(), backend.v6().into()]));
    for place in [&cluster[0], &cluster[1]] {
        for kind in KINDS {
            answered_by(&place.client, kind, web(v4(10)), &["a"]);
            for to in [backend.v4_at(TARGET), backend.v6_at(TARGET)] {
                answered_by(&place.client, kind, to, &["a"]);
                assert_eq!(place.seen(kind, to), place.client.ip_like(to.ip()));
            }
        }
    }
}
