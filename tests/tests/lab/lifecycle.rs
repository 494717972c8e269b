//! Starting, stopping, crashing, cleaning up.

use std::fs;
use std::time::Duration;

use svclb_tests::{Agent, Transport};

use super::scene::{Scene, lasting, v4, v6, web, web_service};

#[test]
fn sigterm_ends_the_agent_within_a_second_and_traffic_goes_on() {
    let mut scene = Scene::web_alone();
    let open = scene.node.pod("holder").unwrap();
    let socket = open.socket(Transport::Tcp, false).unwrap();
    socket.connect(web(v4(10))).unwrap();
    // The quickest of three, as a busy machine lets any one of them wait.
    let terminates = |agent: &mut Agent| {
        let (status, after) = agent.terminate().unwrap();
        assert!(status.success(), "{status}");
        after < Duration::from_secs(1)
    };
    let in_time = terminates(&mut scene.agent)
        || (0..2).any(|_| {
            scene.agent.run().unwrap();
            terminates(&mut scene.agent)
        });
    assert!(in_time);
    for ip in [v4(10), v6(0x10)] {
        for transport in [Transport::Tcp, Transport::Udp] {
            let tally = scene.client.repeat(transport, web(ip), 300).unwrap();
            assert_eq!((tally.failed(), tally.wrong_names), (0, 0), "{tally:?}");
            assert_eq!(tally.answers.len(), 3, "{tally:?}");
        }
    }
    socket.send("still there?").unwrap();
    assert_eq!(socket.receive().unwrap().echoed, "still there?");
    assert_eq!(socket.peer_name().unwrap(), web(v4(10)));
}

#[test]
fn after_a_crash_the_next_start_flushes_nothing_and_keeps_every_id() {
    let mut scene = Scene::web();
    let before = [
        lasting(scene.agent.dump("services").unwrap()),
        lasting(scene.agent.dump("backends").unwrap()),
    ];
    let pause = Duration::from_micros(100);
    scene
        .client
        .start_load(Transport::Tcp, web(v4(10)), pause)
        .unwrap();
    for _ in 0..3 {
        scene.agent.kill().unwrap();
        scene.agent.run().unwrap();
    }
    let tally = scene.client.stop_load().unwrap();
    assert_eq!((tally.failed(), tally.wrong_names), (0, 0), "{tally:?}");
    assert!(tally.answered() > 100, "{tally:?}");
    let after = [
        lasting(scene.agent.dump("services").unwrap()),
        lasting(scene.agent.dump("backends").unwrap()),
    ];
    assert_eq!(before, after);
}

#[test]
fn what_changed_while_the_agent_was_away_is_applied_at_its_start() {
    let mut scene = Scene::web();
    scene.agent.terminate().unwrap();
    let objects = web_service().with(&scene.endpoints_of(&["b", "c"]));
    scene.manifests.put("web.yaml", &objects).unwrap();
    assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
    scene.agent.run().unwrap();
    scene.wait_for_answers(web(v4(10)), &["b", "c"]);
}

#[test]
fn cleanup_removes_everything_of_ours_and_nothing_else() {
    let mut scene = Scene::web();
    let neighbour = scene.node.pin_dir().with_file_name("neighbour");
    fs::create_dir(&neighbour).unwrap();
    assert!(scene.client.ask(Transport::Tcp, web(v4(10))).is_ok());
    scene.agent.cleanup().unwrap();
    assert!(!scene.node.pin_dir().exists());
    assert!(neighbour.exists(), "cleanup removed what is not ours");
    // No program is left on the cgroup: the address is unreachable again.
    let failure = scene.client.ask(Transport::Tcp, web(v4(10))).unwrap_err();
    assert_eq!(failure.to_string(), "connect: EHOSTUNREACH");
    // Nor is a second clean-up a fault.
    scene.agent.cleanup().unwrap();
    fs::remove_dir(&neighbour).unwrap();
}

#[test]
fn it_runs_again_after_a_cleanup() {
    let mut scene = Scene::web();
    for _ in 0..2 {
        scene.agent.cleanup().unwrap();
        scene.agent.run().unwrap();
        assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
    }
}

#[test]
fn livez_readyz_healthz_and_metrics_are_served() {
    let scene = Scene::web();
    let get = |at: &str, path: &str| scene.agent.get(at, path).unwrap();
    assert_eq!(get(Agent::HEALTHZ, "/livez").0, 200);
    assert_eq!(get(Agent::HEALTHZ, "/healthz").0, 200);
    assert_eq!(get(Agent::HEALTHZ, "/nonsense").0, 404);
    assert_eq!(get(Agent::PROBES, "/livez").0, 200);
    assert_eq!(get(Agent::PROBES, "/readyz").0, 200);
    scene
        .client
        .repeat(Transport::Tcp, web(v4(10)), 10)
        .unwrap();
    let (status, body) = get(Agent::METRICS, "/metrics");
    assert_eq!(status, 200);
    assert!(body.contains("svclb_"), "{body}");
}

#[test]
fn the_dump_names_the_service_its_address_and_its_backends() {
    let scene = Scene::web();
    let dump = scene.agent.dump("all").unwrap().to_string();
    for part in ["web", "10.96.0.10", "fd00:10:96::10"] {
        assert!(dump.contains(part), "no {part} in {dump}");
    }
    for ip in scene.endpoints() {
        assert!(dump.contains(&ip.to_string()), "no {ip} in {dump}");
    }
    let table = scene.agent.svclb("dump", &["services"]).unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("10.96.0.10:80"), "{table}");
}
