//! Labels that keep a Service away from the proxy, and rejection.

use serde_json::json;

use super::super::scene::{Scene, v4, v6, web, web_service};
use super::ask::{TCP, answered_by, known, publish, refused, unreachable};
use super::cluster::both;

/// A Service is dead while it carries the label, and alive without it.
fn is_kept_away_by(label: &str) {
    let scene = Scene::web();
    let all = ["a", "b", "c"];
    let other = svclb_tests::manifests::Service::new("other")
        .at(v4(20))
        .tcp(80, super::super::scene::TARGET);
    let objects = other.with(&scene.endpoints_of(&["a"]));
    scene.manifests.put("other.yaml", &objects).unwrap();
    // Any value counts, the empty one too.
    known(&scene.node, web(v4(20)));
    for value in ["foo-bar", ""] {
        answered_by(&scene.client, TCP, web(v4(10)), &all);
        let mut objects = web_service().with(&scene.endpoints());
        // The slices' controller copies the Service's labels.
        for object in &mut objects {
            object["metadata"]["labels"][label] = json!(value);
        }
        scene.manifests.put("web.yaml", &objects).unwrap();
        for to in both() {
            unreachable(&scene.node, to);
        }
        unreachable(&scene.client, web(v4(10)));
        answered_by(&scene.client, TCP, web(v4(20)), &["a"]);
        publish(&scene, &all);
        for to in both() {
            known(&scene.node, to);
            answered_by(&scene.client, TCP, to, &all);
        }
    }
}

#[test]
fn should_implement_service_proxy_name() {
    is_kept_away_by("service.kubernetes.io/service-proxy-name");
}

#[test]
fn should_implement_headless() {
    is_kept_away_by("service.kubernetes.io/headless");
}

#[test]
fn should_be_rejected_for_evicted_pods_where_no_endpoints_exist() {
    let scene = Scene::new(|manifests, _| {
        // A slice there is, and nothing in it.
        let service = web_service();
        let objects = [service.object(), service.slice(&[])];
        manifests.put("web.yaml", &objects).unwrap();
    });
    for ip in [v4(10), v6(0x10)] {
        refused(&scene.client, web(ip));
        refused(&scene.node, web(ip));
    }
}
