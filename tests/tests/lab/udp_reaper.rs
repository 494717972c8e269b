//! Connected UDP sockets, whose backend was chosen once, when that backend goes.

use std::net::SocketAddr;
use std::time::Duration;

use svclb_tests::manifests::Service;
use svclb_tests::{Failure, Kind, Peer, PeerSocket, SOON, Transport, wait_until};

use super::scene::{Scene, TARGET, finds_udp_sockets, v4, v6, web, web_service};

/// A client as resolvers are: it stays connected, and connects again when it gets an error.
struct Client<'a> {
    socket: PeerSocket<'a>,
    to: SocketAddr,
    /// How often it got an error.
    errors: u32,
}

impl<'a> Client<'a> {
    fn connected(peer: &'a Peer, to: SocketAddr) -> Self {
        let socket = peer.socket(Transport::Udp, to.is_ipv6()).unwrap();
        socket.connect(to).unwrap();
        Self {
            socket,
            to,
            errors: 0,
        }
    }

    fn ask_once(&self) -> Result<String, Failure> {
        self.socket.send("still there?")?;
        Ok(self.socket.receive()?.backend)
    }

    /// Who answers; after an error, on a socket connected again. A destroyed socket has two
    /// pending errors: that it has no peer (EDESTADDRREQ), and why (ECONNABORTED).
    fn ask(&mut self) -> Result<String, Failure> {
        let mut answer = self.ask_once();
        for _ in 0..2 {
            if answer.is_err() {
                self.errors += 1;
                self.socket.connect(self.to)?;
                answer = self.ask_once();
            }
        }
        answer
    }

    /// Waits until this backend answers.
    fn wait_for(&mut self, backend: &str) {
        let mut last = None;
        let found = wait_until(SOON, || {
            last = Some(self.ask());
            matches!(&last, Some(Ok(name)) if name == backend)
        });
        assert!(found, "{last:?} and not {backend}");
    }

    /// Waits until there is no answer and the socket returns an error.
    fn wait_for_error(&self) {
        let mut last = None;
        let found = wait_until(SOON, || {
            last = Some(self.ask_once());
            matches!(&last, Some(Err(failure)) if !failure.is_time_out())
        });
        assert!(found, "{last:?}");
    }
}

fn serve(scene: &Scene, backends: &[&str]) {
    let objects = web_service().with(&scene.endpoints_of(backends));
    scene.manifests.put("web.yaml", &objects).unwrap();
    scene.wait_for_answers(web(v4(10)), backends);
}

fn only(backend: &str) -> Scene {
    let scene = Scene::web();
    serve(&scene, &[backend]);
    scene
}

#[test]
fn a_connected_socket_of_a_pod_or_the_host_moves_when_its_backend_is_replaced() {
    if !finds_udp_sockets() {
        return;
    }
    let scene = only("a");
    for peer in [&*scene.client as &Peer, &*scene.node] {
        for ip in [v4(10), v6(0x10)] {
            serve(&scene, &["a"]);
            let mut client = Client::connected(peer, web(ip));
            assert_eq!(client.ask().unwrap(), "a");
            serve(&scene, &["b", "c"]);
            serve(&scene, &["c"]);
            client.wait_for("c");
        }
    }
}

#[test]
fn a_mapped_socket_moves_too() {
    if !finds_udp_sockets() {
        return;
    }
    let scene = only("a");
    let socket = scene
        .client
        .socket(Kind::new(Transport::Udp).mapped(), true);
    let mut client = Client {
        socket: socket.unwrap(),
        to: "[::ffff:10.96.0.10]:80".parse().unwrap(),
        errors: 0,
    };
    client.socket.connect(client.to).unwrap();
    assert_eq!(client.ask().unwrap(), "a");
    serve(&scene, &["b"]);
    client.wait_for("b");
}

#[test]
fn after_the_last_endpoint_a_connected_socket_gets_an_error_and_later_an_answer() {
    if !finds_udp_sockets() {
        return;
    }
    let scene = only("a");
    let mut client = Client::connected(&scene.client, web(v4(10)));
    assert_eq!(client.ask().unwrap(), "a");
    serve(&scene, &[]);
    client.wait_for_error();
    serve(&scene, &["b"]);
    client.wait_for("b");
}

#[test]
fn when_the_target_port_changes_a_connected_socket_is_destroyed() {
    if !finds_udp_sockets() {
        return;
    }
    let scene = only("a");
    scene.backends[0].serve(Transport::Udp, 9090).unwrap();
    let mut client = Client::connected(&scene.client, web(v4(10)));
    assert_eq!(client.ask().unwrap(), "a");
    let moved = Service::new("web").at(v4(10)).udp(80, 9090);
    let objects = moved.with(&scene.endpoints_of(&["a"]));
    scene.manifests.put("web.yaml", &objects).unwrap();
    let reported = wait_until(SOON, || {
        client.ask().unwrap();
        client.errors > 0
    });
    assert!(reported, "it stays with the old port");
    assert_eq!(client.ask().unwrap(), "a");
}

#[test]
fn when_the_service_is_deleted_a_connected_socket_gets_an_error() {
    if !finds_udp_sockets() {
        return;
    }
    let scene = only("a");
    let client = Client::connected(&scene.client, web(v4(10)));
    assert_eq!(client.ask_once().unwrap(), "a");
    scene.manifests.remove("web.yaml").unwrap();
    client.wait_for_error();
}

#[test]
fn sockets_whose_backend_stays_and_sockets_of_the_pod_itself_are_never_touched() {
    if !finds_udp_sockets() {
        return;
    }
    let scene = Scene::web();
    let to_pod = Client::connected(&scene.client, scene.backends[0].v4_at(TARGET));
    let of = |backend: &str| {
        loop {
            let client = Client::connected(&scene.client, web(v4(10)));
            if client.ask_once().unwrap() == backend {
                break client;
            }
        }
    };
    let staying = [of("b"), of("b"), of("b")];
    let mut leaving = of("a");
    serve(&scene, &["b"]);
    leaving.wait_for("b");
    assert!(leaving.errors > 0);
    for client in &staying {
        assert_eq!(client.ask_once().unwrap(), "b");
    }
    assert_eq!(to_pod.ask_once().unwrap(), "a");
}

#[test]
fn a_terminating_endpoint_that_serves_keeps_its_connected_sockets() {
    if !finds_udp_sockets() {
        return;
    }
    let scene = Scene::new(|manifests, endpoints| {
        let web = Service::new("web").at(v4(10)).udp(80, TARGET);
        manifests
            .put("web.yaml", &web.with(&endpoints[..1]))
            .unwrap();
    });
    let client = Client::connected(&scene.client, web(v4(10)));
    assert_eq!(client.ask_once().unwrap(), "a");
    let service = Service::new("web").at(v4(10)).udp(80, TARGET);
    let endpoints = [scene.backends[0].v4().into(), scene.backends[1].v4().into()];
    let mut slice = service.slice(&endpoints);
    slice["endpoints"][0]["conditions"] =
        serde_json::json!({ "ready": false, "serving": true, "terminating": true });
    scene
        .manifests
        .put("web.yaml", &[service.object(), slice])
        .unwrap();
    let moved = wait_until(SOON, || {
        scene
            .client
            .ask(Transport::Udp, web(v4(10)))
            .unwrap()
            .backend
            == "b"
    });
    assert!(moved, "new sockets still go to the terminating endpoint");
    // Longer than it takes to find and destroy a socket.
    for _ in 0..10 {
        assert_eq!(client.ask_once().unwrap(), "a");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_restart_touches_no_socket_and_finds_what_went_meanwhile() {
    if !finds_udp_sockets() {
        return;
    }
    let mut scene = Scene::web();
    let clients: Vec<_> = (0..12)
        .map(|_| Client::connected(&scene.client, web(v4(10))))
        .map(|client| (client.ask_once().unwrap(), client))
        .collect();
    scene.agent.terminate().unwrap();
    scene.agent.run().unwrap();
    for _ in 0..5 {
        for (backend, client) in &clients {
            assert_eq!(client.ask_once().unwrap(), *backend);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    scene.agent.terminate().unwrap();
    let objects = web_service().with(&scene.endpoints_of(&["b"]));
    scene.manifests.put("web.yaml", &objects).unwrap();
    scene.agent.run().unwrap();
    for (backend, mut client) in clients {
        client.wait_for("b");
        assert_eq!(client.errors > 0, backend != "b", "a client of {backend}");
    }
}

#[test]
fn with_internal_policy_local_a_connected_socket_moves_within_its_node() {
    if !finds_udp_sockets() {
        return;
    }
    let scene = Scene::web();
    let put = |here: &str| {
        let mut objects = web_service().with(&scene.endpoints());
        for object in &mut objects {
            if object["kind"] == "Service" {
                object["spec"]["internalTrafficPolicy"] = "Local".into();
            }
            for endpoint in object["endpoints"].as_array_mut().into_iter().flatten() {
                let pod = scene
                    .backends
                    .iter()
                    .find(|pod| pod.name() == here)
                    .unwrap();
                let ours = [pod.v4().to_string(), pod.v6().to_string()];
                let is_local = ours.iter().any(|ip| endpoint["addresses"][0] == **ip);
                if !is_local {
                    endpoint["nodeName"] = "elsewhere".into();
                    // A pod that leaves this node ends: on the other node it is another pod.
                    endpoint["conditions"] =
                        serde_json::json!({ "ready": false, "serving": false });
                }
            }
        }
        scene.manifests.put("web.yaml", &objects).unwrap();
        scene.wait_for_answers(web(v4(10)), &[here]);
    };
    put("a");
    let mut client = Client::connected(&scene.client, web(v4(10)));
    assert_eq!(client.ask().unwrap(), "a");
    put("b");
    client.wait_for("b");
}

#[test]
fn a_socket_that_was_refused_reaches_the_first_endpoint_that_gets_ready() {
    if !finds_udp_sockets() {
        return;
    }
    let scene = only("a");
    for (mapped, to) in [
        (false, web(v4(10))),
        (false, web(v6(0x10))),
        (true, "[::ffff:10.96.0.10]:80".parse().unwrap()),
    ] {
        serve(&scene, &[]);
        let mut kind = Kind::new(Transport::Udp);
        kind.mapped = mapped;
        let refused = || {
            let socket = scene.client.socket(kind, to.is_ipv6()).unwrap();
            let client = Client {
                socket,
                to,
                errors: 0,
            };
            // Refused at once; before Linux 5.18 at the second send.
            let reported = client.socket.connect(client.to).is_err()
                || wait_until(SOON, || client.socket.send("hello?").is_err());
            assert!(reported, "no error says that there is no endpoint");
            client
        };
        // One program tries again and again; the other one only after an error.
        let (mut eager, idle) = (refused(), refused());
        serve(&scene, &["c"]);
        let reached = wait_until(SOON, || {
            eager.socket.connect(to).is_ok() && eager.ask().is_ok_and(|name| name == "c")
        });
        assert!(reached, "{to}");
        let reached = wait_until(SOON, || {
            match idle.socket.send("hello?") {
                Err(failure) if failure.errno == "EDESTADDRREQ" => {
                    idle.socket.connect(to).unwrap();
                }
                _ => {}
            }
            idle.ask_once().is_ok_and(|name| name == "c")
        });
        assert!(reached, "{to}, without trying");
    }
}
