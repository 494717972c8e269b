//! Another version takes over: one that was built with other layouts; or what it finds is made to
//! look like another's, by the layout version that the pinned maps carry.

use std::time::Duration;

use svclb_common::ABI_VERSION;
use svclb_tests::bpftool::PinnedMap;
use svclb_tests::{Agent, Kind, SOON, Transport, next_binary, svclb_binary, wait_until};

use super::scene::{Scene, v4, v6, web, web_service};

/// The second word of `META`, in memory order: its upper bytes are zero.
fn set_version(scene: &Scene, version: u8) {
    let meta = PinnedMap::at(scene.node.pin_dir().join("maps/META"));
    let (key, mut value) = meta.elements().unwrap().remove(0);
    value[4] = format!("{version:#04x}");
    meta.update(&key, &value).unwrap();
}

/// Restarts the agent on maps of another version under load, and returns its log line about them.
fn takes_over(scene: &mut Scene, version: u8) -> String {
    replaced_under_load(scene, version.into(), |scene| set_version(scene, version))
}

/// Replaces the agent under load, and returns the next one's log line about a layout version.
fn replaced_under_load(
    scene: &mut Scene,
    version: u32,
    replace: impl FnOnce(&mut Scene),
) -> String {
    let clients = [
        (&scene.client, Kind::new(Transport::Tcp), web(v4(10))),
        (&scene.backends[0], Kind::new(Transport::Udp), web(v6(0x10))),
    ];
    for (client, kind, to) in clients {
        client.start_load(kind, to, Duration::ZERO).unwrap();
    }
    scene.agent.kill().unwrap();
    replace(scene);
    scene.agent.run().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    for client in [&scene.client, &scene.backends[0]] {
        let tally = client.stop_load().unwrap();
        assert_eq!(tally.failed(), 0, "{tally:?}");
        assert!(tally.answered() > 100, "{tally:?}");
        // Where the memory of sockets is begun anew, a socket that was just connected by the old
        // program is named by the new one.
        if version <= ABI_VERSION {
            assert_eq!(tally.wrong_names, 0, "{tally:?}");
        }
    }
    let reported = scene
        .agent
        .wait_for_line(&[&format!("layout version {version}")]);
    reported.unwrap_or_else(|| panic!("{:?}", scene.agent.log()))
}

fn is_served(scene: &Scene) {
    let ready = scene.agent.wait_for_line(&["ready", "replaced=9"]);
    assert!(ready.is_some(), "{:?}", scene.agent.log());
    assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
    let dump = scene.agent.dump("services").unwrap().to_string();
    assert!(dump.contains("10.96.0.10:80"), "{dump}");
}

#[test]
fn maps_of_an_older_layout_are_replaced_and_no_connect_fails_meanwhile() {
    let mut scene = Scene::web();
    let held = scene.node.pod("holder").unwrap();
    let socket = held.socket(Transport::Tcp, false).unwrap();
    socket.connect(web(v4(10))).unwrap();
    let reported = takes_over(&mut scene, 1);
    assert!(reported.contains("session affinity"), "{reported}");
    is_served(&scene);
    socket.send("still there?").unwrap();
    assert_eq!(socket.receive().unwrap().echoed, "still there?");
    // Its memory has the same layout, and is shared.
    assert_eq!(socket.peer_name().unwrap(), web(v4(10)));
    // From then on it is like any other.
    scene.agent.kill().unwrap();
    scene.agent.run().unwrap();
    assert!(!scene.agent.log().join("\n").contains("layout version"));
    is_served(&scene);
}

#[test]
fn a_downgrade_says_what_it_forgets_and_no_connect_fails_meanwhile() {
    let mut scene = Scene::web();
    let reported = takes_over(&mut scene, 9);
    for words in [
        "of a newer svclb",
        "lost are",
        "sockets",
        "flows from outside",
    ] {
        assert!(reported.contains(words), "{reported}");
    }
    is_served(&scene);
    assert_eq!(scene.agent.get(Agent::HEALTHZ, "/healthz").unwrap().0, 200);
}

/// How many bytes a frontend has in the pinned maps.
fn size_of_frontends(scene: &Scene) -> usize {
    let map = PinnedMap::at(scene.node.pin_dir().join("maps/FRONTENDS"));
    let (_, value) = map.elements().unwrap().remove(0);
    value.len()
}

#[test]
fn a_binary_with_other_layouts_takes_over_and_gives_back_and_no_connect_fails_meanwhile() {
    let mut scene = Scene::web();
    let sticky = web_service().sticky(600).with(&scene.endpoints());
    scene.manifests.put("web.yaml", &sticky).unwrap();
    let faithful = scene.node.pod("faithful").unwrap();
    // As soon as affinity is known: twenty questions and one backend.
    let mut chosen = None;
    let is_sticky = wait_until(SOON, || {
        let tally = faithful.repeat(Transport::Tcp, web(v4(10)), 20).unwrap();
        chosen = tally.answers.keys().next().cloned();
        tally.answers.len() == 1
    });
    assert!(is_sticky);
    let held = faithful.socket(Transport::Tcp, false).unwrap();
    held.connect(web(v4(10))).unwrap();
    let ours = size_of_frontends(&scene);

    let reported = replaced_under_load(&mut scene, ABI_VERSION, |scene| {
        scene.agent.set_binary(next_binary().unwrap());
    });
    assert!(reported.contains("nothing is lost"), "{reported}");
    assert_eq!(size_of_frontends(&scene), ours + 16);
    held.send("still there?").unwrap();
    assert_eq!(held.receive().unwrap().echoed, "still there?");
    assert_eq!(held.peer_name().unwrap(), web(v4(10)));
    // The ids that affinity is remembered by are the same.
    let tally = faithful.repeat(Transport::Tcp, web(v4(10)), 20).unwrap();
    assert_eq!(tally.answers.keys().next().cloned(), chosen, "{tally:?}");
    assert_eq!((tally.answers.len(), tally.failed()), (1, 0), "{tally:?}");
    // And it makes changes.
    let one = web_service().with(&scene.endpoints_of(&["b"]));
    scene.manifests.put("web.yaml", &one).unwrap();
    scene.wait_for_answers(web(v4(10)), &["b"]);
    let all = web_service().with(&scene.endpoints());
    scene.manifests.put("web.yaml", &all).unwrap();
    scene.wait_for_answers(web(v4(10)), &["a", "b", "c"]);

    let reported = replaced_under_load(&mut scene, ABI_VERSION + 1, |scene| {
        scene.agent.set_binary(svclb_binary().unwrap());
    });
    assert!(reported.contains("of a newer svclb"), "{reported}");
    assert_eq!(size_of_frontends(&scene), ours);
    is_served(&scene);
    held.send("and now?").unwrap();
    assert_eq!(held.receive().unwrap().echoed, "and now?");
}
