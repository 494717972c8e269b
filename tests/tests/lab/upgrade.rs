//! Another version takes over. What it finds is made to look like another's: the layout version
//! that the pinned maps carry is changed.

use std::time::Duration;

use svclb_tests::bpftool::PinnedMap;
use svclb_tests::{Agent, Kind, Transport};

use super::scene::{Scene, v4, v6, web};

/// The second word of `META`, in memory order: its upper bytes are zero.
fn set_version(scene: &Scene, version: u8) {
    let meta = PinnedMap::at(scene.node.pin_dir().join("maps/META"));
    let (key, mut value) = meta.elements().unwrap().remove(0);
    value[4] = format!("{version:#04x}");
    meta.update(&key, &value).unwrap();
}

/// Restarts the agent on maps of another version under load, and returns what it says of them.
fn takes_over(scene: &mut Scene, version: u8) -> String {
    let clients = [
        (&scene.client, Kind::new(Transport::Tcp), web(v4(10))),
        (&scene.backends[0], Kind::new(Transport::Udp), web(v6(0x10))),
    ];
    for (client, kind, to) in clients {
        client.start_load(kind, to, Duration::ZERO).unwrap();
    }
    scene.agent.kill().unwrap();
    set_version(scene, version);
    scene.agent.run().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    for client in [&scene.client, &scene.backends[0]] {
        let tally = client.stop_load().unwrap();
        assert_eq!(tally.failed(), 0, "{tally:?}");
        assert!(tally.answered() > 100, "{tally:?}");
        // Where the memory of sockets is begun anew, a socket that was just connected by the old
        // program is named by the new one.
        if version == 1 {
            assert_eq!(tally.wrong_names, 0, "{tally:?}");
        }
    }
    let told = scene
        .agent
        .wait_for_line(&[&format!("layout version {version}")]);
    told.unwrap_or_else(|| panic!("{:?}", scene.agent.log()))
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
    let held = scene.node.pod("patient").unwrap();
    let socket = held.socket(Transport::Tcp, false).unwrap();
    socket.connect(web(v4(10))).unwrap();
    let told = takes_over(&mut scene, 1);
    assert!(told.contains("session affinity"), "{told}");
    is_served(&scene);
    socket.send("still there?").unwrap();
    assert_eq!(socket.receive().unwrap().heard, "still there?");
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
    let told = takes_over(&mut scene, 9);
    for words in [
        "of a newer svclb",
        "forgotten",
        "sockets",
        "flows from outside",
    ] {
        assert!(told.contains(words), "{told}");
    }
    is_served(&scene);
    assert_eq!(scene.agent.get(Agent::HEALTHZ, "/healthz").unwrap().0, 200);
}
