//! Changes to the manifests while they are served.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use svclb_tests::manifests::{Manifests, Service, documents};
use svclb_tests::{Agent, AgentOptions, Kind, Peer, SOON, Transport, wait_until};

use super::scene::{CHANGE_LIMIT, Scene, TARGET, v4, web, web_service};

#[test]
fn endpoints_come_and_go_and_no_connect_fails_meanwhile() {
    let scene = Scene::web();
    let pause = Duration::from_micros(100);
    scene
        .client
        .start_load(Transport::Tcp, web(v4(10)), pause)
        .unwrap();
    for names in [&["a", "b"][..], &["b"], &["a", "b", "c"], &["c"]] {
        let objects = web_service().with(&scene.endpoints_of(names));
        scene.manifests.put("web.yaml", &objects).unwrap();
        let mut settled = false;
        for _ in 0..100 {
            scene.client.take_load().unwrap();
            sleep(Duration::from_millis(30));
            let tally = scene.client.take_load().unwrap();
            assert_eq!((tally.failed(), tally.wrong_names), (0, 0), "{tally:?}");
            if tally.answers.keys().eq(names.iter()) {
                settled = true;
                break;
            }
        }
        assert!(settled, "the change to {names:?} took no effect");
    }
    let tally = scene.client.stop_load().unwrap();
    assert_eq!(tally.failed(), 0, "{tally:?}");
}

#[test]
fn a_hundred_changes_in_a_row_fail_no_connect_and_reach_no_other_backend() {
    let scene = Scene::web();
    let udp = Kind::new(Transport::Udp);
    scene
        .client
        .start_load(Transport::Tcp, web(v4(10)), Duration::ZERO)
        .unwrap();
    scene
        .node
        .start_load(udp, web(v4(10)), Duration::ZERO)
        .unwrap();
    let peers = [&*scene.client as &Peer, &*scene.node];
    let mut answered = [(0, BTreeSet::new()), (0, BTreeSet::new())];
    // Thousands of answers on a real machine, hundreds on an emulated one: there more than once.
    for _ in 0..4 {
        for round in 0..100 {
            let names = [&["a"][..], &["a", "b", "c"], &["b", "c"], &["a", "c"]][round % 4];
            let objects = web_service().with(&scene.endpoints_of(names));
            scene.manifests.put("web.yaml", &objects).unwrap();
            sleep(Duration::from_millis(10));
        }
        for (peer, (number, names)) in peers.iter().zip(&mut answered) {
            let tally = peer.take_load().unwrap();
            assert_eq!((tally.failed(), tally.wrong_names), (0, 0), "{tally:?}");
            *number += tally.answered();
            names.extend(tally.answers.into_keys());
        }
        if answered.iter().all(|(number, _)| *number > 100) {
            break;
        }
    }
    for (peer, (number, names)) in peers.iter().zip(answered) {
        assert!(number > 100, "{number}");
        assert_eq!(names.len(), 3, "{names:?}");
        let tally = peer.stop_load().unwrap();
        assert_eq!((tally.failed(), tally.wrong_names), (0, 0), "{tally:?}");
    }
}

#[test]
fn a_service_in_a_new_file_is_served_and_in_a_removed_one_no_more() {
    let scene = Scene::web();
    let other = Service::new("other").at(v4(30)).tcp(80, TARGET);
    let objects = other.with(&scene.endpoints_of(&["c"]));
    scene.manifests.put("other.yaml", &objects).unwrap();
    scene.wait_for_answers(web(v4(30)), &["c"]);
    scene.manifests.remove("other.yaml").unwrap();
    let gone = wait_until(CHANGE_LIMIT, || {
        let result = scene.client.ask(Transport::Tcp, web(v4(30)));
        result.is_err_and(|failure| failure.errno == "EHOSTUNREACH")
    });
    assert!(gone, "{}", scene.agent.log().join("\n"));
    assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
}

#[test]
fn the_symlink_switch_of_a_configmap_volume_is_noticed() {
    let mut scene = Scene::web();
    let volume = Manifests::new(scene.lab.dir().join("volume")).unwrap();
    let file = |names: &[&str]| {
        let objects = web_service().with(&scene.endpoints_of(names));
        [("web.yaml", documents(&objects))]
    };
    let revisions = [file(&["a"]), file(&["b"]), file(&["b", "c"])];
    volume.project(1, &revisions[0]).unwrap();
    scene.agent.terminate().unwrap();
    scene.agent.cleanup().unwrap();
    let options = AgentOptions::default();
    scene.agent = Agent::start(&scene.node, volume.dir(), options).unwrap();
    scene.wait_for_answers(web(v4(10)), &["a"]);
    volume.project(2, &revisions[1]).unwrap();
    scene.wait_for_answers(web(v4(10)), &["b"]);
    volume.project(3, &revisions[2]).unwrap();
    scene.wait_for_answers(web(v4(10)), &["b", "c"]);
}

#[test]
fn a_folder_that_is_deleted_takes_nothing_away_and_is_read_again_when_it_is_back() {
    let scene = Scene::web();
    let to = web(v4(10));
    scene
        .client
        .start_load(Transport::Tcp, to, Duration::from_micros(500))
        .unwrap();
    fs::remove_dir_all(scene.manifests.dir()).unwrap();
    let reported = scene.agent.wait_for_line(&["what was read before stays"]);
    assert!(reported.is_some(), "{:?}", scene.agent.log());
    sleep(Duration::from_secs(1));
    assert_eq!(scene.answering(to), ["a", "b", "c"]);
    let fewer = web_service().with(&scene.endpoints_of(&["a", "c"]));
    let back = Manifests::new(scene.manifests.dir()).unwrap();
    back.put("web.yaml", &fewer).unwrap();
    let settled = wait_until(SOON, || scene.answering(to) == ["a", "c"]);
    assert!(settled, "{:?}", scene.agent.log());
    let all = web_service().with(&scene.endpoints());
    back.put("web.yaml", &all).unwrap();
    scene.wait_for_answers(to, &["a", "b", "c"]);
    let tally = scene.client.stop_load().unwrap();
    assert_eq!((tally.failed(), tally.wrong_names), (0, 0), "{tally:?}");
}

#[test]
fn an_empty_folder_at_the_start_takes_nothing_from_what_is_served() {
    let mut scene = Scene::web();
    let to = web(v4(10));
    scene.agent.kill().unwrap();
    scene.manifests.remove("web.yaml").unwrap();
    scene.agent.spawn().unwrap();
    let words = ["the folder is empty", "60 seconds"];
    let reported = scene.agent.wait_for_line_in(Agent::STARTS_IN, &words);
    assert!(reported.is_some(), "{:?}", scene.agent.log());
    assert_eq!(scene.answering(to), ["a", "b", "c"]);
    // As when a volume is mounted after all.
    let fewer = web_service().with(&scene.endpoints_of(&["b"]));
    scene.manifests.put("web.yaml", &fewer).unwrap();
    let ready = scene.agent.wait_for_line_in(Agent::STARTS_IN, &["ready"]);
    assert!(ready.is_some(), "{:?}", scene.agent.log());
    scene.wait_for_answers(to, &["b"]);
}

#[test]
fn of_two_services_at_one_address_the_older_is_served_and_the_other_takes_over() {
    let claim =
        |name: &str, time: &str| Service::new(name).at(v4(40)).tcp(80, TARGET).created(time);
    let (old, young) = (
        claim("zz-old", "2024-01-01T00:00:00Z"),
        claim("aa-young", "2025-01-01T00:00:00Z"),
    );
    let scene = Scene::new(|manifests, endpoints| {
        manifests
            .put("old.yaml", &old.with(&endpoints[..1]))
            .unwrap();
        manifests
            .put("young.yaml", &young.with(&endpoints[2..3]))
            .unwrap();
    });
    assert_eq!(scene.answering(web(v4(40))), ["a"]);
    let log = scene.agent.wait_for_line(&["aa-young", "zz-old"]);
    assert!(log.is_some(), "{}", scene.agent.log().join("\n"));
    scene.manifests.remove("old.yaml").unwrap();
    scene.wait_for_answers(web(v4(40)), &["b"]);
    let objects = old.with(&scene.endpoints_of(&["a"]));
    scene.manifests.put("old.yaml", &objects).unwrap();
    scene.wait_for_answers(web(v4(40)), &["a"]);
}

#[test]
fn a_broken_file_keeps_what_it_served_and_is_named_with_the_reason() {
    let scene = Scene::web();
    let half = documents(&web_service().with(&scene.endpoints_of(&["c"])));
    let half = &half[..half.len() / 2];
    for (text, round) in [("kind: Service\n  broken: [", 1), (half, 2), ("\t{", 3)] {
        scene.manifests.write("web.yaml", text).unwrap();
        // Another file is still taken in, and shows that the round is over.
        let other = Service::new("other").at(v4(50 + round)).tcp(80, TARGET);
        let objects = other.with(&scene.endpoints_of(&["b"]));
        scene.manifests.put("other.yaml", &objects).unwrap();
        scene.wait_for_answers(web(v4(50 + round)), &["b"]);
        assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
    }
    let line = scene.agent.wait_for_line(&["web.yaml"]);
    assert!(line.is_some(), "{}", scene.agent.log().join("\n"));
    let objects = web_service().with(&scene.endpoints_of(&["c"]));
    scene.manifests.put("web.yaml", &objects).unwrap();
    scene.wait_for_answers(web(v4(10)), &["c"]);
}

#[test]
fn a_bad_object_is_left_out_and_named_and_the_rest_of_its_file_is_served() {
    let scene = Scene::new(|manifests, endpoints| {
        let mut bad = Service::new("bad-port").at(v4(60)).tcp(80, TARGET).object();
        bad["spec"]["ports"][0]["port"] = serde_json::json!(70_000);
        let mut objects = vec![bad];
        objects.extend(web_service().with(endpoints));
        manifests.put("mixed.yaml", &objects).unwrap();
    });
    assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
    let line = scene
        .agent
        .wait_for_line(&["mixed.yaml", "bad-port", "port"]);
    assert!(line.is_some(), "{}", scene.agent.log().join("\n"));
}

#[test]
fn a_file_written_in_place_in_two_halves_is_served_when_it_is_whole() {
    let scene = Scene::web();
    let text = documents(&web_service().with(&scene.endpoints_of(&["a"])));
    let (first, second) = text.split_at(text.len() / 2);
    let path = scene.manifests.dir().join("web.yaml");
    fs::write(&path, first).unwrap();
    sleep(Duration::from_millis(200));
    assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
    fs::write(&path, format!("{first}{second}")).unwrap();
    scene.wait_for_answers(web(v4(10)), &["a"]);
}
