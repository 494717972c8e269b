//! What keeps the agent from its job: one sentence that says what to do, and nothing lost.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use svclb_tests::manifests::Service;
use svclb_tests::{Agent, AgentOptions, wait_until};

use super::scene::{Scene, TARGET, assert_even, v4, web};

const ROOT: u32 = 0;
const NOBODY: u32 = 65534;

/// `svclb run` with these flags ends, unsuccessfully, with a sentence that has these words;
/// and what was served before is served after.
fn refused(scene: &Scene, args: &[&str], uid: u32, words: &[&str]) {
    let output = scene.agent.run_once(args, uid).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    let sentence = said.lines().last().unwrap_or_default();
    assert!(sentence.starts_with("svclb: "), "{said}");
    for word in words {
        assert!(sentence.contains(word), "no {word:?} in {said}");
    }
    for panic in ["panicked", "backtrace"] {
        assert!(!said.contains(panic), "{said}");
    }
    let tally = scene
        .client
        .repeat(svclb_tests::Transport::Tcp, web(v4(10)), 600)
        .unwrap();
    assert_even(&tally);
}

/// A scene whose agent has ended: its pins stay, and serve.
fn abandoned() -> Scene {
    let mut scene = Scene::web();
    scene.agent.terminate().unwrap();
    scene
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let scene = abandoned();
    refused(&scene, &["--manifests", "/nowhere"], ROOT, &["/nowhere"]);
}

#[test]
fn a_cgroup_that_is_none_is_named_with_what_to_do() {
    let scene = abandoned();
    let words = ["/proc", "--cgroup", "mount -t cgroup2"];
    refused(&scene, &["--cgroup", "/proc"], ROOT, &words);
}

#[test]
fn a_pin_directory_outside_a_bpffs_is_named_with_what_to_do() {
    let scene = abandoned();
    let words = ["/proc/svclb", "--pin-dir", "mount -t bpf"];
    refused(&scene, &["--pin-dir", "/proc/svclb"], ROOT, &words);
}

#[test]
fn without_root_it_says_so() {
    let scene = abandoned();
    let everyone = fs::Permissions::from_mode(0o755);
    fs::set_permissions(scene.lab.dir(), everyone).unwrap();
    refused(&scene, &[], NOBODY, &["must be root"]);
}

#[test]
fn a_log_level_that_is_none_is_named() {
    let scene = abandoned();
    refused(&scene, &["--log", "web=loud"], ROOT, &["web=loud", "debug"]);
}

#[test]
fn a_full_map_keeps_out_one_service_and_is_told_until_there_is_room() {
    let mut scene = Scene::web();
    // As many frontends as `web` has, and no more: two ports of two addresses, and what
    // refuses the other ports of each.
    scene.agent.cleanup().unwrap();
    let options = AgentOptions {
        args: vec!["--max-frontends=6".to_owned()],
    };
    scene.agent = Agent::start(&scene.node, scene.manifests.dir(), options).unwrap();
    assert_eq!(scene.agent.get(Agent::HEALTHZ, "/healthz").unwrap().0, 200);
    let other = Service::new("other").at(v4(11)).tcp(80, TARGET);
    let endpoints = [scene.backends[0].v4().into()];
    scene
        .manifests
        .put("z.yaml", &other.with(&endpoints))
        .unwrap();
    let line = scene
        .agent
        .wait_for_line(&["default/other", "FRONTENDS", "--max-"]);
    assert!(line.is_some(), "{:?}", scene.agent.log());
    let (status, body) = scene.agent.get(Agent::HEALTHZ, "/healthz").unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("default/other"), "{body}");
    assert_eq!(scene.agent.get(Agent::HEALTHZ, "/livez").unwrap().0, 200);
    assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);

    // Room is made: the next try, five seconds later, finds it.
    scene.manifests.remove("web.yaml").unwrap();
    let served = wait_until(Duration::from_secs(20), || {
        scene
            .client
            .ask(svclb_tests::Transport::Tcp, web(v4(11)))
            .is_ok()
    });
    assert!(served, "{:?}", scene.agent.log());
    let healthy = wait_until(Duration::from_secs(3), || {
        scene.agent.get(Agent::HEALTHZ, "/healthz").unwrap().0 == 200
    });
    assert!(healthy, "{:?}", scene.agent.log());
}
