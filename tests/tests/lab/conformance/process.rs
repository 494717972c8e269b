//! The proxy as a process, and what it leaves alone.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use svclb_tests::bpftool::detach_link;
use svclb_tests::manifests::{Service, node};
use svclb_tests::{Agent, AgentOptions, ApiServer, SOON, Transport, wait_until};

use super::super::scene::{Scene, TARGET, v4, v6, web, web_service};
use super::ask::{KINDS, answered_by, known};
use super::cluster::Cluster;

#[test]
fn should_check_kube_proxy_urls() {
    let scene = Scene::web();
    let (status, body) = scene.agent.get(Agent::HEALTHZ, "/healthz").unwrap();
    assert_eq!(status, 200);
    assert!(body.contains("lastUpdated"), "{body}");
    let (status, body) = scene.agent.get(Agent::METRICS, "/proxyMode").unwrap();
    assert_eq!((status, body.as_str()), (200, "ebpf"));
}

#[test]
fn should_create_services_and_serve_on_different_service_cidrs() {
    let scene = Scene::new(|_, _| {});
    // One of the first range, one beside it, one of another kind altogether; both families.
    let addresses: [IpAddr; 5] = [
        v4(10),
        [10, 97, 0, 10].into(),
        [192, 168, 200, 1].into(),
        v6(0x10),
        [0xfd00, 0x10, 0x97, 0, 0, 0, 0, 0x10].into(),
    ];
    for (number, ip) in addresses.into_iter().enumerate() {
        let service = Service::new(&format!("range{number}"))
            .at(ip)
            .tcp(80, TARGET)
            .udp(80, TARGET);
        let objects = service.with(&scene.endpoints());
        scene
            .manifests
            .put(&format!("range{number}.yaml"), &objects)
            .unwrap();
    }
    for ip in addresses {
        known(&scene.node, web(ip));
        for kind in KINDS {
            answered_by(&scene.client, kind, web(ip), &["a", "b", "c"]);
        }
    }
}

#[test]
fn should_be_able_to_send_traffic_between_pods_without_snat() {
    let cluster = Cluster::new(2);
    let backend = &cluster[0].backend;
    // They are endpoints as well, which must make no difference to who asks them directly.
    cluster.put(&web_service().with(&[backend.v4().into(), backend.v6().into()]));
    for place in [&cluster[0], &cluster[1]] {
        for kind in KINDS {
            answered_by(&place.client, kind, web(v4(10)), &["a"]);
            for to in [backend.v4_at(TARGET), backend.v6_at(TARGET)] {
                answered_by(&place.client, kind, to, &["a"]);
                assert_eq!(place.seen(kind, to), place.client.ip_like(to.ip()));
            }
        }
    }
}

#[test]
fn should_recreate_its_programs_if_they_are_detached() {
    let mut scene = Scene::web();
    scene.agent.cleanup().unwrap();
    let options = AgentOptions {
        args: vec!["--audit-interval=1".to_owned()],
        ..AgentOptions::default()
    };
    scene.agent = Agent::start(&scene.node, scene.manifests.dir(), options).unwrap();
    let links = fs::read_dir(scene.node.pin_dir().join("links")).unwrap();
    for link in links {
        detach_link(&link.unwrap().path()).unwrap();
    }
    let reported = scene.agent.wait_for_line(&["programs were detached"]);
    assert!(reported.is_some(), "{:#?}", scene.agent.log());
    scene.wait_for_answers(web(v4(10)), &["a", "b", "c"]);
    // An audit between two of the detachments has mended the first ones only.
    let named = wait_until(SOON, || {
        let answer = scene.client.ask(Transport::Tcp, web(v4(10)));
        answer.is_ok_and(|answer| answer.peer_name == Some(web(v4(10))))
    });
    assert!(named, "{:#?}", scene.agent.log());
}

#[test]
fn should_work_after_restarting_apiserver() {
    let mut scene = Scene::web();
    scene.agent.cleanup().unwrap();
    let objects = |names: &[&str]| {
        let mut objects = web_service().with(&scene.endpoints_of(names));
        objects.push(node("node1", "west"));
        objects
    };
    let mut server = ApiServer::start(&scene.node, objects(&["a", "b"])).unwrap();
    let kubeconfig = server.kubeconfig(&scene.lab.dir()).unwrap();
    let options = AgentOptions {
        args: vec![format!("--kubeconfig={}", kubeconfig.display())],
        ..AgentOptions::default()
    };
    let agent = Agent::start(&scene.node, scene.manifests.dir(), options).unwrap();
    scene.wait_for_answers(web(v4(10)), &["a", "b"]);

    server.stop();
    let reported = agent.wait_for_line(&["cannot watch"]);
    assert!(reported.is_some(), "{:#?}", agent.log());
    assert_eq!(scene.answering(web(v4(10))), ["a", "b"]);
    // Changes while the API server is away are made up for afterwards.
    server.put(objects(&["b", "c"]));
    server.resume().unwrap();
    // The agent asks again after a delay that grows to half a minute.
    let is_given = |backends: &[&str]| {
        let settled = wait_until(Duration::from_secs(60), || {
            scene.answering(web(v4(10))) == backends
        });
        assert!(settled, "{backends:?}: {:#?}", agent.log());
    };
    is_given(&["b", "c"]);
    server.put(objects(&["a"]));
    is_given(&["a"]);
    assert_eq!(
        agent.warnings().len(),
        3,
        "one for each kind: {:#?}",
        agent.log()
    );
    scene.agent = agent;
}
