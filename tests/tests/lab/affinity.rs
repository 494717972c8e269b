//! `sessionAffinity: ClientIP`.

use std::thread::sleep;
use std::time::Duration;

use svclb_tests::{Kind, SOON, Transport, wait_until};

use super::scene::{Scene, v4, v6, web, web_service};

fn sticky(seconds: u32) -> Scene {
    Scene::new(|manifests, endpoints| {
        manifests
            .put("web.yaml", &web_service().sticky(seconds).with(endpoints))
            .unwrap();
    })
}

#[test]
fn a_client_stays_with_the_backend_of_its_first_connection() {
    let scene = sticky(100);
    let second = scene.node.pod("second").unwrap();
    for peer in [&*scene.client, &*second, &*scene.node] {
        for ip in [v4(10), v6(0x10)] {
            for kind in [
                Kind::new(Transport::Tcp),
                Kind::new(Transport::Udp),
                Kind::new(Transport::Udp).unconnected(),
            ] {
                let tally = peer.repeat(kind, web(ip), 60).unwrap();
                assert_eq!(tally.failed(), 0, "{tally:?}");
                assert_eq!(tally.answers.len(), 1, "{tally:?}");
            }
        }
    }
}

#[test]
fn clients_are_spread_over_the_backends() {
    let scene = sticky(100);
    let mut answering = Vec::new();
    // With three backends, 16 clients that all get the same are one in 14 million.
    for client in 0..16 {
        let pod = scene.node.pod(&format!("client{client}")).unwrap();
        answering.push(pod.ask(Transport::Tcp, web(v4(10))).unwrap().backend);
    }
    answering.sort();
    answering.dedup();
    assert!(answering.len() > 1, "{answering:?}");
}

#[test]
fn a_client_that_was_away_for_longer_than_the_timeout_is_given_any_backend() {
    let scene = sticky(1);
    let ask = || {
        scene
            .client
            .ask(Transport::Tcp, web(v4(10)))
            .unwrap()
            .backend
    };
    let first = ask();
    // A time-out that never ends passes with 3^-12.
    let moved = (0..12).any(|_| {
        sleep(Duration::from_millis(1_050));
        ask() != first
    });
    assert!(moved, "still {first}");
}

#[test]
fn connections_within_the_timeout_prolong_it() {
    let scene = sticky(10);
    let ask = || {
        scene
            .client
            .ask(Transport::Tcp, web(v4(10)))
            .unwrap()
            .backend
    };
    let first = ask();
    // 12 s in all, of which no 10 s pass without a connection, on a machine that stalls neither.
    for _ in 0..6 {
        sleep(Duration::from_secs(2));
        assert_eq!(ask(), first);
    }
}

#[test]
fn a_client_whose_backend_is_gone_is_given_another_and_stays_there() {
    let scene = sticky(100);
    let first = scene.answering(web(v4(10))).remove(0);
    let rest: Vec<&str> = ["a", "b", "c"]
        .into_iter()
        .filter(|name| *name != first)
        .collect();
    let objects = web_service().sticky(100).with(&scene.endpoints_of(&rest));
    scene.manifests.put("web.yaml", &objects).unwrap();
    let moved = wait_until(SOON, || scene.answering(web(v4(10))) != [first.clone()]);
    assert!(moved, "still {first}");
    let second = scene.answering(web(v4(10)));
    assert_eq!(second.len(), 1, "{second:?}");
    assert!(rest.contains(&second[0].as_str()), "{second:?}");
}

#[test]
fn a_restart_of_the_agent_keeps_every_clients_backend() {
    let mut scene = sticky(100);
    let pods: Vec<_> = (0..6)
        .map(|number| scene.node.pod(&format!("client{number}")).unwrap())
        .collect();
    let answers = || -> Vec<String> {
        let ask = |pod: &svclb_tests::Pod| pod.ask(Transport::Tcp, web(v4(10))).unwrap().backend;
        pods.iter().map(ask).collect()
    };
    let before = answers();
    scene.agent.kill().unwrap();
    assert_eq!(answers(), before);
    scene.agent.run().unwrap();
    assert_eq!(answers(), before);
}

#[test]
fn a_client_never_stays_with_an_endpoint_that_the_policy_excludes() {
    let scene = sticky(100);
    let first = scene.client.ask(Transport::Tcp, web(v4(10))).unwrap();
    // Only one other endpoint is on this node from now on.
    let local = scene
        .backends
        .iter()
        .find(|pod| pod.name() != first.backend)
        .unwrap();
    let mut objects = web_service().sticky(100).with(&scene.endpoints());
    for object in &mut objects {
        if object["kind"] == "Service" {
            object["spec"]["internalTrafficPolicy"] = "Local".into();
        }
        for endpoint in object["endpoints"].as_array_mut().into_iter().flatten() {
            let here = endpoint["addresses"][0] == local.v4().to_string();
            endpoint["nodeName"] = if here { "node1" } else { "elsewhere" }.into();
        }
    }
    scene.manifests.put("web.yaml", &objects).unwrap();
    scene.wait_for_answers(web(v4(10)), &[local.name()]);
}

#[test]
fn affinity_is_switched_on_and_off_at_run_time() {
    let scene = sticky(100);
    let put = |service: &svclb_tests::manifests::Service| {
        let objects = service.with(&scene.endpoints());
        scene.manifests.put("web.yaml", &objects).unwrap();
    };
    let answering = || scene.answering(web(v4(10))).len();
    assert_eq!(answering(), 1);
    put(&web_service());
    scene.wait_for_answers(web(v4(10)), &["a", "b", "c"]);
    put(&web_service().sticky(100));
    let stays = wait_until(SOON, || answering() == 1);
    assert!(stays, "clients do not stay with a backend again");
}
