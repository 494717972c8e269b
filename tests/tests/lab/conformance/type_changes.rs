//! Services that change their type.

use serde_json::{Value, json};

use super::super::scene::{Scene, v4, web, web_service};
use super::ask::{KINDS, answered_by, known, unreachable};
use super::cluster::both;

/// `web` as an ExternalName; for a moment after the change it may still have its addresses.
pub(super) fn external(keeps_addresses: bool) -> Value {
    let mut object = web_service().object();
    object["spec"]["type"] = json!("ExternalName");
    object["spec"]["externalName"] = json!("example.com");
    if !keeps_addresses {
        let spec = object["spec"].as_object_mut().unwrap();
        for field in ["clusterIP", "clusterIPs", "ipFamilies"] {
            spec.remove(field);
        }
    }
    object
}

fn put(scene: &Scene, service: Value) {
    let mut objects = web_service().with(&scene.endpoints());
    objects[0] = service;
    scene.manifests.put("web.yaml", &objects).unwrap();
}

fn served(scene: &Scene) {
    for to in both() {
        known(&scene.node, to);
        for kind in KINDS {
            answered_by(&scene.client, kind, to, &["a", "b", "c"]);
        }
    }
}

#[test]
fn should_be_able_to_change_the_type_from_external_name_to_cluster_ip() {
    let scene = Scene::new(|manifests, _| {
        manifests.put("web.yaml", &[external(false)]).unwrap();
    });
    unreachable(&scene.node, web(v4(10)));
    put(&scene, web_service().object());
    served(&scene);
}

#[test]
fn should_be_able_to_change_the_type_from_cluster_ip_to_external_name() {
    let scene = Scene::web();
    for keeps_addresses in [true, false] {
        put(&scene, web_service().object());
        served(&scene);
        put(&scene, external(keeps_addresses));
        for to in both() {
            unreachable(&scene.node, to);
        }
        unreachable(&scene.client, web(v4(10)));
    }
}
