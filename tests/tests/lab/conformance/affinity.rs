//! Session affinity.

mod outside;

use svclb_tests::{SOON, wait_until};

use super::super::scene::{Scene, v4, web, web_service};
use super::ask::{KINDS, answered_by, publish};

#[test]
fn should_be_able_to_switch_session_affinity_for_service_with_type_cluster_ip() {
    let scene = Scene::web();
    let all = ["a", "b", "c"];
    let sticky = || {
        let objects = web_service().sticky(100).with(&scene.endpoints());
        scene.manifests.put("web.yaml", &objects).unwrap();
        for kind in KINDS {
            let mut backends = Vec::new();
            let settled = wait_until(SOON, || {
                let tally = scene.client.repeat(kind, web(v4(10)), 15).unwrap();
                assert_eq!(tally.failed(), 0, "{tally:?}");
                backends = tally.answers.into_keys().collect();
                backends.len() == 1
            });
            assert!(settled, "{kind:?}: {backends:?}");
            // From here on it is tied, so that not even one may go elsewhere.
            let tally = scene.client.repeat(kind, web(v4(10)), 40).unwrap();
            assert!(tally.answers.keys().eq(&backends), "{backends:?} {tally:?}");
        }
    };
    sticky();
    publish(&scene, &all);
    for kind in KINDS {
        answered_by(&scene.client, kind, web(v4(10)), &all);
    }
    sticky();
}
