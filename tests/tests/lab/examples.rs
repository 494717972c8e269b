//! deploy/examples, as its README says.

use std::net::SocketAddr;

use svclb_tests::manifests::Manifests;
use svclb_tests::{Failure, Transport, repository};

use super::scene::Scene;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn examples() -> Scene {
    let source = repository().join("deploy/examples");
    let scene = Scene::new(|manifests, _| {
        Manifests::copy_of(&source, manifests.dir()).unwrap();
    });
    for backend in &scene.backends {
        for port in [80, 5000, 5432, 53] {
            backend.serve(Transport::Tcp, port).unwrap();
        }
        backend.serve(Transport::Udp, 53).unwrap();
    }
    scene
}

#[test]
fn the_examples_are_served_as_their_readme_says() {
    let scene = examples();
    for (to, backends) in [
        ("10.96.1.1:8080", &["a", "b", "c"][..]),
        ("10.96.2.50:5000", &["a", "b"]),
        ("10.96.0.10:53", &["a", "b"]),
        ("10.96.3.1:80", &["a", "b", "c"]),
        ("[fd00:10:96::301]:80", &["a", "b"]),
        ("10.96.4.1:5432", &["c"]),
        ("10.96.6.1:80", &["a", "b"]),
        ("10.96.6.2:80", &["b", "c"]),
        ("10.96.6.3:80", &["c"]),
    ] {
        assert_eq!(scene.answering(at(to)), backends, "at {to}");
    }
    let dns = scene
        .client
        .ask(Transport::Udp, at("10.96.0.10:53"))
        .unwrap();
    assert_eq!(dns.from, Some(at("10.96.0.10:53")));
    // Sticky, so one answers; which one is chance.
    assert_eq!(scene.answering(at("10.96.0.80:80")).len(), 1);
    let refused = scene.client.ask(Transport::Tcp, at("10.96.5.1:80"));
    assert_eq!(
        refused
            .map_err(|failure: Failure| failure.errno)
            .unwrap_err(),
        "ECONNREFUSED"
    );
}

#[test]
fn headless_and_external_name_services_are_in_no_dump() {
    let scene = examples();
    let dump = scene.agent.dump("all").unwrap().to_string();
    for name in ["headless", "docs"] {
        assert!(!dump.contains(&format!("\"{name}\"")), "{dump}");
    }
}

#[test]
fn the_examples_raise_no_warning() {
    let scene = examples();
    let warnings = scene.agent.warnings();
    assert!(warnings.is_empty(), "{warnings:#?}");
    let log = scene.agent.log();
    assert!(!log.iter().any(|line| line.contains("ERROR")), "{log:#?}");
}
