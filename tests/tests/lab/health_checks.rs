//! What load balancers outside the cluster ask a node: whether it has an endpoint of a
//! Service (`healthCheckNodePort`), and whether it is to be given traffic at all (/healthz).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};
use svclb_tests::manifests::{Endpoint, Service, node};
use svclb_tests::{Agent, AgentOptions, ApiServer, SOON, Transport, wait_until};

use super::scene::{Scene, TARGET, v4, web, web_service};

const PORT: u16 = 32_000;
const CLOSED: &str = "ECONNREFUSED";

/// `web`, IPv4 only, as a load balancer's Service with this policy and health check port.
fn balanced(name: &str, host: u8, policy: &str, port: u16) -> (Service, Value) {
    let service = Service::new(name)
        .at(v4(host))
        .tcp(80, TARGET)
        .tcp(81, TARGET);
    let mut object = service.object();
    object["spec"]["type"] = json!("LoadBalancer");
    object["spec"]["externalTrafficPolicy"] = json!(policy);
    if policy == "Local" {
        object["spec"]["healthCheckNodePort"] = json!(port);
    }
    (service, object)
}

/// Puts `web` with these endpoints in place of what it was.
fn put(scene: &Scene, policy: &str, port: u16, endpoints: &[Endpoint]) {
    let (service, object) = balanced("web", 10, policy, port);
    let objects = [object, service.slice_of(endpoints)];
    scene.manifests.put("web.yaml", &objects).unwrap();
}

/// A scene with `web` and its three backends on the node.
fn local() -> Scene {
    let scene = Scene::new(|_, _| {});
    put(&scene, "Local", PORT, &backends(&scene));
    scene
}

fn backends(scene: &Scene) -> Vec<Endpoint> {
    let backends = scene.backends.iter();
    backends.map(|pod| Endpoint::new(pod.v4())).collect()
}

/// An address of the node with the health check's port.
fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// What the node's host gets at a port: a status, or the error.
fn asked(scene: &Scene, port: u16) -> String {
    match scene.node.get(at(scene.node.v4(), port), "/") {
        Ok((status, _)) => status.to_string(),
        Err(failure) => failure.errno,
    }
}

fn wait_for(scene: &Scene, port: u16, wanted: &str) {
    let mut seen = Vec::new();
    let settled = wait_until(SOON, || {
        seen.push(asked(scene, port));
        seen.last().is_some_and(|last| last == wanted)
    });
    seen.dedup();
    let log = scene.agent.log();
    assert!(settled, "{seen:?} and not {wanted} at {port}: {log:#?}");
    // A request that arrives just as the port closes is cut off, and that is all.
    let answers = ["200", "503"];
    let is_status = |one: &&String| one.parse::<u16>().is_ok();
    let mut statuses = seen.iter().filter(is_status);
    assert!(
        statuses.all(|one| answers.contains(&one.as_str())),
        "{seen:?}"
    );
}

/// The head and the body of an answer, as they are sent.
fn raw(scene: &Scene, at: SocketAddr) -> (String, String) {
    let request = format!("GET /any/path HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    let text = scene.node.run(|| {
        let mut stream = TcpStream::connect_timeout(&at, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = text.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn a_node_with_an_endpoint_says_so_at_all_its_addresses_in_kube_proxys_words() {
    let scene = local();
    wait_for(&scene, PORT, "200");
    for ip in [
        scene.node.v4().into(),
        scene.node.v6().into(),
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        let (head, body) = raw(&scene, at(ip, PORT));
        for line in [
            "http/1.1 200 ok",
            "content-type: application/json",
            "x-content-type-options: nosniff",
            // Two ports of three endpoints are three endpoints.
            "x-load-balancing-endpoint-weight: 3",
        ] {
            assert!(head.lines().any(|found| found == line), "{line}: {head}");
        }
        let body: Value = serde_json::from_str(&body).unwrap();
        let wanted = json!({
            "service": {"namespace": "default", "name": "web"},
            "localEndpoints": 3,
            "serviceProxyHealthy": true,
        });
        assert_eq!(body, wanted);
    }
}

#[test]
fn a_node_without_an_endpoint_of_its_own_answers_503() {
    let scene = local();
    wait_for(&scene, PORT, "200");
    let elsewhere: Vec<_> = backends(&scene)
        .into_iter()
        .map(|endpoint| endpoint.on("node2"))
        .collect();
    put(&scene, "Local", PORT, &elsewhere);
    wait_for(&scene, PORT, "503");
    let (head, body) = raw(&scene, at(scene.node.v4(), PORT));
    assert!(head.contains("endpoint-weight: 0"), "{head}");
    assert!(body.contains("\"localEndpoints\":0"), "{body}");
}

#[test]
fn a_node_whose_only_endpoint_terminates_answers_503_while_the_endpoint_serves() {
    let scene = local();
    wait_for(&scene, PORT, "200");
    let ip = scene.backends[0].v4();
    put(
        &scene,
        "Local",
        PORT,
        &[Endpoint::new(ip).terminating(true)],
    );
    wait_for(&scene, PORT, "503");
    scene.wait_for_answers(web(v4(10)), &["a"]);
}

#[test]
fn the_port_closes_with_the_policy_and_opens_again_at_the_same_number() {
    let scene = local();
    for _ in 0..3 {
        wait_for(&scene, PORT, "200");
        // An open connection must not go on getting 200.
        let to = at(scene.node.v4(), PORT);
        let idle = scene.node.run(|| Ok(TcpStream::connect(to)?)).unwrap();
        put(&scene, "Cluster", PORT, &backends(&scene));
        wait_for(&scene, PORT, CLOSED);
        idle.set_read_timeout(Some(SOON)).unwrap();
        let read = (&idle).read(&mut [0; 16]);
        let ended = match &read {
            Ok(bytes) => *bytes == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        };
        assert!(ended, "the connection is still open: {read:?}");
        put(&scene, "Local", PORT, &backends(&scene));
    }
    wait_for(&scene, PORT, "200");
    let warnings = scene.agent.warnings();
    assert!(warnings.is_empty(), "{warnings:#?}");
}

#[test]
fn the_port_moves_and_goes_with_its_service() {
    let scene = local();
    wait_for(&scene, PORT, "200");
    put(&scene, "Local", PORT + 1, &backends(&scene));
    wait_for(&scene, PORT + 1, "200");
    wait_for(&scene, PORT, CLOSED);
    scene.manifests.remove("web.yaml").unwrap();
    wait_for(&scene, PORT + 1, CLOSED);
}

#[test]
fn a_port_in_use_is_logged_once_and_opened_when_it_is_free() {
    let scene = Scene::new(|_, _| {});
    let taken = scene
        .node
        .run(|| Ok(TcpListener::bind(("0.0.0.0", PORT))?))
        .unwrap();
    put(&scene, "Local", PORT, &backends(&scene));
    let reported = scene
        .agent
        .wait_for_line(&["WARN", "default/web", "0.0.0.0:32000", "ss -ltnp"]);
    assert!(reported.is_some(), "{:#?}", scene.agent.log());
    // What the agent was here for goes on, at the other family's address as well.
    scene.wait_for_answers(web(v4(10)), &["a", "b", "c"]);
    let to = at(scene.node.v6(), PORT);
    assert_eq!(scene.node.get(to, "/").unwrap().0, 200);
    drop(taken);
    let open = wait_until(SOON, || asked(&scene, PORT) == "200");
    let log = scene.agent.log();
    assert!(open, "{log:#?}");
    assert_eq!(scene.agent.warnings().len(), 1, "{log:#?}");
}

#[test]
fn of_two_services_with_one_port_the_older_has_it_until_it_goes() {
    let scene = Scene::new(|_, _| {});
    // The older one has no endpoint here: who answers shows by the status.
    for (name, host, year, endpoints) in [
        ("old", 11, 2020, vec![]),
        ("new", 12, 2021, backends(&scene)),
    ] {
        let (service, mut object) = balanced(name, host, "Local", PORT);
        object["metadata"]["creationTimestamp"] = json!(format!("{year}-01-01T00:00:00Z"));
        let objects = [object, service.slice_of(&endpoints)];
        let file = format!("{name}.yaml");
        scene.manifests.put(&file, &objects).unwrap();
    }
    let words = ["WARN", "default/new waits", "32000", "default/old has"];
    let reported = scene.agent.wait_for_line(&words);
    assert!(reported.is_some(), "{:#?}", scene.agent.log());
    wait_for(&scene, PORT, "503");
    scene.manifests.remove("old.yaml").unwrap();
    wait_for(&scene, PORT, "200");
    let log = scene.agent.log();
    assert_eq!(scene.agent.warnings().len(), 1, "{log:#?}");
}

#[test]
fn a_service_that_cannot_be_written_turns_only_its_own_port_away() {
    let mut scene = local();
    wait_for(&scene, PORT, "200");
    let dump = scene.agent.dump("all").unwrap();
    let entries = &dump["node"]["maps"]["FRONTENDS"]["entries"];
    scene.agent.cleanup().unwrap();
    // As many frontends as `web` has, and no more.
    let options = AgentOptions {
        args: vec![format!("--max-frontends={entries}")],
        ..AgentOptions::default()
    };
    scene.agent = Agent::start(&scene.node, scene.manifests.dir(), options).unwrap();
    let (service, object) = balanced("other", 11, "Local", PORT + 1);
    let objects = [object, service.slice_of(&backends(&scene))];
    scene.manifests.put("z.yaml", &objects).unwrap();
    wait_for(&scene, PORT + 1, "503");
    let (head, body) = raw(&scene, at(scene.node.v4(), PORT + 1));
    assert!(head.contains("endpoint-weight: 3"), "{head}");
    assert!(body.contains("\"serviceProxyHealthy\":false"), "{body}");
    // Load balancers go on using the node, and `web` at it.
    assert_eq!(asked(&scene, PORT), "200");
    let [(status, body), (live, _)] = healthz(&scene.agent);
    assert_eq!((status, live), (200, 200), "{body:#}");
    assert_eq!(body["healthy"], true, "{body:#}");
    let failed = &body["failedServices"][0];
    assert_eq!(
        (&failed["namespace"], &failed["name"]),
        (&json!("default"), &json!("other"))
    );
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("FRONTENDS"), "{body:#}");
    let (_, metrics) = scene.agent.get(Agent::METRICS, "/metrics").unwrap();
    let labels = "svclb_service_failing{namespace=\"default\",name=\"other\"} 1";
    assert!(metrics.contains(labels), "{metrics}");
    // Room is made: the next try, five seconds later, finds it.
    scene.manifests.remove("web.yaml").unwrap();
    wait_for(&scene, PORT + 1, "200");
    let [(_, body), _] = healthz(&scene.agent);
    assert_eq!(body["failedServices"], json!([]), "{body:#}");
}

/// What /healthz and /livez answer.
fn healthz(agent: &Agent) -> [(u16, Value); 2] {
    ["/healthz", "/livez"].map(|path| {
        let (status, body) = agent.get(Agent::HEALTHZ, path).unwrap();
        (status, serde_json::from_str(&body).unwrap())
    })
}

/// Waits until /healthz says of the node what is wanted, and of the proxy that it is healthy.
fn wait_for_eligible(agent: &Agent, wanted: bool, reason: &str) {
    let mut last = None;
    let settled = wait_until(SOON, || {
        let [(status, body), (live, of_proxy)] = healthz(agent);
        let right = status == if wanted { 200 } else { 503 }
            && body["nodeEligible"] == wanted
            && body["healthy"] == true
            && body["status"]["IPv4"]["healthy"] == true
            && body["reason"].as_str().unwrap_or_default().contains(reason)
            && live == 200
            && of_proxy["nodeEligible"].is_null();
        last = Some(body);
        right
    });
    assert!(settled, "not {wanted} with {reason:?}: {last:#?}");
}

#[test]
fn healthz_names_an_ineligible_node_and_livez_does_not() {
    let scene = Scene::web();
    let put = |object: Value| scene.manifests.put("node.yaml", &[object]).unwrap();
    let with_taint = |key: &str| {
        let mut node = node("node1", "west");
        node["spec"]["taints"] = json!([{"key": key, "effect": "NoSchedule"}]);
        node
    };
    wait_for_eligible(&scene.agent, true, "");
    put(with_taint("ToBeDeletedByClusterAutoscaler"));
    wait_for_eligible(&scene.agent, false, "autoscaler");
    // A cordoned node goes on serving what it has.
    put(with_taint("node.kubernetes.io/unschedulable"));
    wait_for_eligible(&scene.agent, true, "");
    let mut deleted = node("node1", "west");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    put(deleted);
    wait_for_eligible(&scene.agent, false, "being deleted");
    let reported = scene.agent.wait_for_line(&["WARN", "/healthz", "deleted"]);
    assert!(reported.is_some(), "{:#?}", scene.agent.log());
    // A folder need not have a Node.
    scene.manifests.remove("node.yaml").unwrap();
    wait_for_eligible(&scene.agent, true, "");
}

#[test]
fn in_a_cluster_a_node_without_its_object_is_ineligible() {
    let mut scene = Scene::web();
    scene.agent.cleanup().unwrap();
    let mut objects = web_service().with(&scene.endpoints());
    let mut server = ApiServer::start(&scene.node, objects.clone()).unwrap();
    let kubeconfig = server.kubeconfig(&scene.lab.dir()).unwrap();
    let options = AgentOptions {
        args: vec![format!("--kubeconfig={}", kubeconfig.display())],
        ..AgentOptions::default()
    };
    scene.agent = Agent::start(&scene.node, scene.manifests.dir(), options).unwrap();
    wait_for_eligible(&scene.agent, false, "--node-name");
    // It serves all the same.
    let answer = scene.client.ask(Transport::Tcp, web(v4(10)));
    assert!(answer.is_ok(), "{answer:?}");
    objects.push(node("node1", "west"));
    server.put(objects);
    wait_for_eligible(&scene.agent, true, "");
}
