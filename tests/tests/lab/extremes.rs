//! Odd Services: thousands of ports, flapping, slices without a Service, unknown zones.

use serde_json::{Value, json};
use svclb_tests::manifests::Service;
use svclb_tests::{SOON, Transport, wait_until};

use super::scene::{Scene, TARGET, v4, web, web_service};

#[test]
fn a_service_of_thousands_of_ports_is_served_at_each() {
    let scene = Scene::web();
    let many = Service::new("many").at(v4(20));
    let mut objects = many.tcp(80, TARGET).with(&scene.endpoints_of(&["a"])[..1]);
    let ports: Vec<Value> = (1..=3000)
        .map(|port| json!({ "name": format!("p{port}"), "port": port, "protocol": "TCP" }))
        .collect();
    objects[0]["spec"]["ports"] = json!(ports);
    objects[1]["ports"] = (1..=3000)
        .map(|port| json!({ "name": format!("p{port}"), "port": TARGET, "protocol": "TCP" }))
        .collect();
    scene.manifests.put("many.yaml", &objects).unwrap();
    scene.wait_for_answers((v4(20), 3000).into(), &["a"]);
    for port in [1, 1500, 2999] {
        let answer = scene.client.ask(Transport::Tcp, (v4(20), port).into());
        assert_eq!(answer.unwrap().backend, "a");
    }
    let beyond = scene.client.ask(Transport::Tcp, (v4(20), 3001).into());
    assert_eq!(beyond.unwrap_err().errno, "ECONNREFUSED");
    scene.manifests.remove("many.yaml").unwrap();
    let gone = wait_until(SOON, || {
        let dump = scene.agent.dump("services").unwrap().to_string();
        !dump.contains("\"many\"")
    });
    assert!(gone);
    assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
}

#[test]
fn a_service_that_flaps_ten_times_a_second_answers_or_not_and_is_logged_once() {
    let scene = Scene::web();
    // It claims the address of `web`, which is older, and has a port of its own.
    let flapping = Service::new("flapping")
        .at(v4(10))
        .created("2030-01-01T00:00:00Z")
        .tcp(80, TARGET)
        .tcp(81, TARGET);
    let objects = flapping.with(&scene.endpoints_of(&["c"]));
    let other = (v4(10), 81).into();
    for _ in 0..20 {
        scene.manifests.put("flapping.yaml", &objects).unwrap();
        scene.wait_for_answers(other, &["c"]);
        scene.manifests.remove("flapping.yaml").unwrap();
        scene.wait_for_answers(other, &[]);
        let failure = scene.client.ask(Transport::Tcp, other).unwrap_err();
        assert_eq!(failure.errno, "ECONNREFUSED");
        assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
    }
    let log = scene.agent.log();
    assert_eq!(scene.agent.warnings().len(), 1, "{log:#?}");
    assert!(log.len() < 12, "{log:#?}");
}

#[test]
fn a_slice_without_its_service_waits_for_it_in_silence() {
    let scene = Scene::web();
    let early = Service::new("early").at(v4(21)).tcp(80, TARGET);
    let objects = early.with(&scene.endpoints_of(&["b"])[..1]);
    scene.manifests.put("early.yaml", &objects[1..]).unwrap();
    scene.manifests.put("web2.yaml", &[]).unwrap();
    scene.manifests.put("late.yaml", &objects[..1]).unwrap();
    scene.wait_for_answers(web(v4(21)), &["b"]);
    scene.manifests.remove("late.yaml").unwrap();
    let gone = wait_until(SOON, || {
        scene.client.ask(Transport::Tcp, web(v4(21))).is_err()
    });
    assert!(gone);
    let warnings = scene.agent.warnings();
    assert!(warnings.is_empty(), "{warnings:#?}");
}

#[test]
fn hints_for_an_unknown_zone_are_ignored() {
    let scene = Scene::web();
    let mut objects = web_service().with(&scene.endpoints());
    for object in &mut objects {
        for endpoint in object["endpoints"].as_array_mut().into_iter().flatten() {
            endpoint["hints"] = json!({ "forZones": [{ "name": "atlantis" }] });
        }
    }
    scene.manifests.put("web.yaml", &objects).unwrap();
    for _ in 0..5 {
        scene.wait_for_answers(web(v4(10)), &["a", "b", "c"]);
    }
}
