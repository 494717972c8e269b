//! Drift: what other programs do to maps, programs and pins is found by an audit and repaired.
//! What was served is served meanwhile, unless its own element was deleted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use svclb_tests::bpftool::{Bytes, PinnedMap, detach_link};
use svclb_tests::manifests::Service;
use svclb_tests::{Agent, AgentOptions, SOON, Transport, wait_until};

use super::scene::{Scene, TARGET, v4, v6, web, web_service};

const PROGRAMS: usize = 9;

fn pinned(scene: &Scene, map: &str) -> PinnedMap {
    PinnedMap::at(scene.node.pin_dir().join("maps").join(map))
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// Asks for an audit, and waits until it has counted repairs and for the line of the log
/// about them: how many.
fn is_repaired(scene: &Scene, words: &[&str]) -> f64 {
    let repaired = scene.agent.repairs_of_an_audit().unwrap();
    let line = scene.agent.wait_for_line(words);
    assert!(line.is_some(), "{:?}", scene.agent.log());
    repaired
}

/// All backends answer at both addresses over both transports, and no question fails.
fn is_served(scene: &Scene) {
    for ip in [v4(10), v6(0x10)] {
        for transport in [Transport::Tcp, Transport::Udp] {
            let tally = scene.client.repeat(transport, web(ip), 60).unwrap();
            assert_eq!((tally.failed(), tally.wrong_names), (0, 0), "{tally:?}");
            assert_eq!(tally.answers.len(), 3, "{tally:?}");
        }
    }
}

/// The elements of a map once the agent has deleted what it wrote anew since the last repair.
fn at_rest(map: &PinnedMap) -> Vec<(Bytes, Bytes)> {
    let mut elements = map.elements().unwrap();
    let rests = wait_until(SOON, || {
        sleep(Duration::from_millis(300));
        let before = std::mem::replace(&mut elements, map.elements().unwrap());
        before == elements
    });
    assert!(rests, "{map:?}");
    elements
}

#[test]
fn elements_that_were_deleted_are_written_again() {
    let scene = Scene::web();
    for map in ["FRONTENDS", "SLOTS", "BACKENDS", "SERVICES"] {
        let map = pinned(&scene, map);
        let elements = at_rest(&map);
        assert!(!elements.is_empty(), "{map:?}");
        for (key, _) in &elements {
            map.delete(key).unwrap();
        }
        is_repaired(&scene, &["the maps were not as svclb left them"]);
        let settled = wait_until(SOON, || map.elements().unwrap().len() >= elements.len());
        assert!(settled, "{map:?}: {:?}", scene.agent.log());
        scene.wait_for_answers(web(v4(10)), &["a", "b", "c"]);
        is_served(&scene);
    }
}

#[test]
fn bits_that_were_cleared_are_set_again() {
    let scene = Scene::web();
    let map = pinned(&scene, "PORTS");
    let elements = at_rest(&map);
    let zero = vec!["0x00".to_owned(); size_of::<u64>()];
    let set = elements.iter().filter(|(_, word)| *word != zero);
    assert!(set.clone().count() > 1, "source ports and a backend's");
    for (key, _) in set {
        map.update(key, &zero).unwrap();
    }
    is_repaired(&scene, &["the maps were not as svclb left them", "ports="]);
    assert_eq!(map.elements().unwrap(), elements);
}

#[test]
fn what_a_second_writer_wrote_is_undone() {
    let scene = Scene::new(|manifests, endpoints| {
        let objects = web_service().with(endpoints);
        manifests.put("web.yaml", &objects).unwrap();
        let other = Service::new("other").at(v4(11)).tcp(80, TARGET);
        let objects = other.with(&endpoints[..1]);
        manifests.put("other.yaml", &objects).unwrap();
    });
    assert_eq!(scene.answering(web(v4(11))), ["a"]);
    // Each frontend leads to where another did.
    let map = pinned(&scene, "FRONTENDS");
    let elements = at_rest(&map);
    let values = elements.iter().map(|(_, value)| value);
    for ((key, _), value) in elements.iter().zip(values.cycle().skip(1)) {
        map.update(key, value).unwrap();
    }
    is_repaired(&scene, &["the maps were not as svclb left them"]);
    scene.wait_for_answers(web(v4(11)), &["a"]);
    scene.wait_for_answers(web(v4(10)), &["a", "b", "c"]);
    is_served(&scene);
}

#[test]
fn entries_of_devices_that_were_changed_deleted_or_added_are_repaired_and_counted() {
    let scene = Scene::web();
    let map = pinned(&scene, "DEVICES");
    let mut before = at_rest(&map);
    // The node itself, and the device of each pod.
    assert!(before.len() >= 3, "{before:?}");
    let (_, zeros) = map.zeros().unwrap();
    map.delete(&before[0].0).unwrap();
    map.update(&before[1].0, &zeros).unwrap();
    let absent = ["0xfe", "0xff", "0xff", "0x00"].map(str::to_owned);
    map.update(&absent.to_vec(), &zeros).unwrap();
    let repaired = is_repaired(&scene, &["DEVICES", "changed by others"]);
    assert!((repaired - 3.0).abs() < 0.5, "{repaired}");
    let mut after = map.elements().unwrap();
    before.sort();
    after.sort();
    assert_eq!(before, after);
    is_served(&scene);
}

#[test]
fn programs_that_were_detached_are_attached_again() {
    let scene = Scene::web();
    let links = names(&scene.node.pin_dir().join("links"));
    assert_eq!(links.len(), PROGRAMS);
    for link in &links {
        detach_link(link).unwrap();
    }
    assert!(scene.client.ask(Transport::Tcp, web(v4(10))).is_err());
    let repaired = is_repaired(&scene, &["programs were detached"]);
    assert!((repaired - PROGRAMS as f64).abs() < 0.5, "{repaired}");
    is_served(&scene);
}

#[test]
fn pins_that_were_removed_under_a_running_agent_detach_nothing() {
    let mut scene = Scene::web();
    let pause = Duration::from_micros(100);
    let to = web(v4(10));
    scene.client.start_load(Transport::Tcp, to, pause).unwrap();
    let at_top = names(scene.node.pin_dir());
    let before = names(&scene.node.pin_dir().join("maps"));
    for dir in ["maps", "links"] {
        for pin in names(&scene.node.pin_dir().join(dir)) {
            fs::remove_file(pin).unwrap();
        }
        fs::remove_dir(scene.node.pin_dir().join(dir)).unwrap();
    }
    // What is left is the record of reserved ports.
    for pin in names(scene.node.pin_dir()) {
        fs::remove_file(pin).unwrap();
    }
    fs::remove_dir(scene.node.pin_dir()).unwrap();

    // Changes are still made, in maps that have no names.
    let fewer = web_service().with(&scene.endpoints_of(&["b", "c"]));
    scene.manifests.put("web.yaml", &fewer).unwrap();
    scene.wait_for_answers(to, &["b", "c"]);
    let all = web_service().with(&scene.endpoints());
    scene.manifests.put("web.yaml", &all).unwrap();
    scene.wait_for_answers(to, &["a", "b", "c"]);

    is_repaired(&scene, &["pins were removed"]);
    assert_eq!(names(scene.node.pin_dir()), at_top);
    assert_eq!(names(&scene.node.pin_dir().join("maps")), before);
    assert_eq!(names(&scene.node.pin_dir().join("links")).len(), PROGRAMS);
    // And by the new names the next start finds what serves.
    scene.agent.kill().unwrap();
    scene.agent.run().unwrap();
    let line = scene.agent.wait_for_line(&["ready", "replaced=9"]);
    assert!(line.is_some(), "{:?}", scene.agent.log());
    let tally = scene.client.stop_load().unwrap();
    assert_eq!((tally.failed(), tally.wrong_names), (0, 0), "{tally:?}");
    is_served(&scene);
}

#[test]
fn a_second_agent_with_the_same_pins_is_refused_and_so_is_a_cleanup() {
    let mut scene = Scene::web();
    let output = scene.agent.run_once(&[], 0).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{stderr}");
    for words in ["another svclb runs", "--pin-dir"] {
        assert!(stderr.lines().last().unwrap().contains(words), "{stderr}");
    }
    let output = scene.agent.svclb("cleanup", &[]).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{stderr}");
    assert!(stderr.contains("another svclb runs"), "{stderr}");
    is_served(&scene);
    // A reader is no second agent.
    assert!(scene.agent.dump("services").is_ok());
    // Where the first one lost its directory to another, it says so and ends.
    let dir = scene.node.pin_dir().to_owned();
    assert!(
        Command::new("rm")
            .arg("-r")
            .arg(&dir)
            .status()
            .unwrap()
            .success()
    );
    let other = Agent::start(&scene.node, scene.manifests.dir(), AgentOptions::default());
    assert!(other.is_ok(), "{other:?}");
    scene.agent.ask_for_audit().unwrap();
    let mut status = None;
    let ended = wait_until(SOON, || {
        status = scene.agent.exit_status();
        status.is_some()
    });
    assert!(ended, "{:?}", scene.agent.log());
    assert!(!status.unwrap().success());
    is_served(&scene);
}
