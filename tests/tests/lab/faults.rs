//! What makes the agent fail: it logs one sentence with what to do, and nothing is lost.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;
use svclb_dataplane::find_cgroup2;
use svclb_tests::bpftool::PinnedMap;
use svclb_tests::manifests::Service;
use svclb_tests::{
    Agent, AgentOptions, ApiServer, PeerSocket, SOON, Transport, lacks, svclb_binary, wait_until,
};

use super::scene::{Scene, TARGET, assert_even, v4, web, web_service};

const ROOT: u32 = 0;
const NOBODY: u32 = 65534;

/// `svclb run` with these flags ends, unsuccessfully, with a sentence that has these words;
/// and what was served before is served after.
fn refused(scene: &Scene, args: &[&str], uid: u32, words: &[&str]) {
    refused_under(scene, &[], args, uid, words);
}

/// The same, run by another program.
fn refused_under(scene: &Scene, wrapper: &[&str], args: &[&str], uid: u32, words: &[&str]) {
    let output = scene.agent.run_once_under(wrapper, args, uid).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{stderr}");
    let sentence = stderr.lines().last().unwrap_or_default();
    assert!(sentence.starts_with("svclb: "), "{stderr}");
    for word in words {
        assert!(sentence.contains(word), "no {word:?} in {stderr}");
    }
    for panic in ["panicked", "backtrace"] {
        assert!(!stderr.contains(panic), "{stderr}");
    }
    assert_even(&scene.client, Transport::Tcp, web(v4(10)));
}

/// Whether `/healthz` soon names these Services, and no others, as failing. It stays 200: the
/// node can serve all others.
fn health_names(agent: &Agent, names: &[&str]) -> bool {
    wait_until(SOON, || {
        let (status, body) = agent.get(Agent::HEALTHZ, "/healthz").unwrap();
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let failed = body["failedServices"].as_array().unwrap().iter();
        failed.map(|service| &service["name"]).eq(names)
    })
}

/// How many file descriptors a process has.
fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Clients that connect to the agent's metrics, and ask nothing.
fn idle_clients(scene: &Scene, count: usize) -> Vec<PeerSocket<'_>> {
    let connected = || {
        let socket = scene.node.socket(Transport::Tcp, false).unwrap();
        socket.connect(Agent::METRICS.parse().unwrap()).unwrap();
        socket
    };
    (0..count).map(|_| connected()).collect()
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

/// Runs a program in a mount namespace of its own, after a command of the shell.
fn mounted(script: &str) -> [&str; 6] {
    ["unshare", "--mount", "sh", "-c", script, "sh"]
}

#[test]
fn a_bpffs_that_cannot_be_written_or_is_not_there_is_named_with_what_to_do() {
    let scene = abandoned();
    let bpffs = scene.node.pin_dir().parent().unwrap().parent().unwrap();
    let pins = bpffs.join("svclb");
    let args = ["--pin-dir", pins.to_str().unwrap()];
    let script = format!("mount -t bpf -o ro bpf {} && exec \"$@\"", bpffs.display());
    let words = [args[1], "Read-only", "--pin-dir"];
    refused_under(&scene, &mounted(&script), &args, ROOT, &words);
    let script = format!("umount {} && exec \"$@\"", bpffs.display());
    let words = [args[1], "mount -t bpf"];
    refused_under(&scene, &mounted(&script), &args, ROOT, &words);
}

#[test]
fn without_enough_file_descriptors_it_says_so() {
    let scene = abandoned();
    for limit in ["--nofile=8", "--nofile=20", "--nofile=40"] {
        let words = ["file descriptors"];
        refused_under(&scene, &["prlimit", limit], &[], ROOT, &words);
    }
}

#[test]
fn without_memory_it_ends_and_what_was_served_goes_on() {
    let scene = abandoned();
    let wrapper = ["prlimit", "--as=8388608"];
    let output = scene.agent.run_once_under(&wrapper, &[], ROOT).unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert_even(&scene.client, Transport::Tcp, web(v4(10)));
}

#[test]
fn an_agent_that_outgrows_its_container_loses_nothing_and_is_back_in_a_larger_one() {
    let mut scene = abandoned();
    let Some(limit) = scene.lab.memory_limit(&scene.node).unwrap() else {
        lacks("a memory controller");
        return;
    };
    scene.agent.set_wrapper(limit.wrapper());
    let mut kibibytes: u64 = 2 << 10;
    limit.set(Some(kibibytes << 10)).unwrap();
    assert!(scene.agent.run().is_err(), "{:?}", scene.agent.log());
    assert_even(&scene.client, Transport::Tcp, web(v4(10)));
    limit.set(None).unwrap();
    scene.agent.run().unwrap();
    // Smaller and smaller: cgroup v1 refuses what would not be enough, and v2 kills for it.
    kibibytes = 64 << 10;
    while kibibytes > 256 && limit.set(Some(kibibytes << 10)).is_ok() {
        kibibytes -= 256;
    }
    let endpoints: Vec<IpAddr> = (0..1_000_u16)
        .map(|number| number.to_be_bytes())
        .map(|[high, low]| [10, 245, high, low].into())
        .collect();
    let mut more = 0;
    while scene.agent.exit_status().is_none() {
        more += 1;
        assert!(more < 250, "they all fit into {kibibytes} KiB");
        let service = Service::new(&format!("more-{more}")).at([10, 96, 1, more]);
        let objects = service.tcp(80, TARGET).with(&endpoints);
        let file = format!("more-{more}.yaml");
        scene.manifests.put(&file, &objects).unwrap();
        sleep(Duration::from_millis(20));
    }
    assert_even(&scene.client, Transport::Tcp, web(v4(10)));
    limit.set(None).unwrap();
    scene.agent.run().unwrap();
    assert_even(&scene.client, Transport::Tcp, web(v4(10)));
    let knows_them = wait_until(SOON, || {
        scene.agent.metric("svclb_services").unwrap() == f64::from(more) + 1.0
    });
    assert!(knows_them, "{:?}", scene.agent.log());
}

#[test]
fn an_agent_whose_descriptors_run_out_keeps_what_serves_and_goes_on_when_there_are_some() {
    let scene = Scene::web();
    let pid = scene.agent.pid().unwrap();
    let open = open_files(pid);
    let limited = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={}", open + 1)])
        .status();
    assert!(limited.unwrap().success());
    // Who asks for its metrics takes what is left, and what the agent had open for a moment only.
    let sockets = idle_clients(&scene, 16);
    // The kernel connects them; the agent takes them when it comes to it.
    let mut looks = 0;
    let are_taken = wait_until(SOON, || {
        looks = if open_files(pid) > open { looks + 1 } else { 0 };
        looks == 50
    });
    assert!(are_taken, "{open} and {}", open_files(pid));
    // That may have taken as long as a silent client is borne with: these wait for what becomes free.
    let more = idle_clients(&scene, 16);
    let fewer = web_service().with(&scene.endpoints_of(&["b", "c"]));
    scene.manifests.put("web.yaml", &fewer).unwrap();
    let reported = scene.agent.wait_for_line(&["os error 24", "stays"]);
    assert!(reported.is_some(), "{:?}", scene.agent.log());
    assert_even(&scene.client, Transport::Tcp, web(v4(10)));
    drop((sockets, more));
    let settled = wait_until(Duration::from_secs(30), || {
        scene.answering(web(v4(10))) == ["b", "c"]
    });
    assert!(settled, "{:?}", scene.agent.log());
    assert_eq!(scene.agent.get(Agent::HEALTHZ, "/livez").unwrap().0, 200);
}

#[test]
fn clients_that_hold_its_ports_open_take_no_more_than_their_share() {
    const SHARE: usize = 64;
    let scene = Scene::web();
    let pid = scene.agent.pid().unwrap();
    let files = || open_files(pid);
    let before = files();
    let sockets = idle_clients(&scene, 2 * SHARE);
    // A few of those that were open before may have been closed.
    let are_taken = wait_until(SOON, || files() + 4 >= before + SHARE);
    assert!(are_taken, "{} of {before}", files());
    sleep(Duration::from_millis(200));
    assert!(files() <= before + SHARE + 4, "{} of {before}", files());
    // The health port is not theirs.
    assert_eq!(scene.agent.get(Agent::HEALTHZ, "/livez").unwrap().0, 200);
    drop(sockets);
    let answers = wait_until(SOON, || scene.agent.get(Agent::METRICS, "/metrics").is_ok());
    assert!(answers, "{:?}", scene.agent.log());
}

#[test]
fn clients_that_occupy_the_public_health_port_do_not_delay_the_probes() {
    const SHARE: usize = 64;
    let scene = Scene::web();
    let at: SocketAddr = Agent::HEALTHZ.parse().unwrap();
    let connect = || scene.node.run(|| Ok(TcpStream::connect(at)?)).unwrap();
    // Silent ones, and ones that never end a line of their request.
    let _silent: Vec<_> = (0..SHARE / 2).map(|_| connect()).collect();
    let mut trickling: Vec<_> = (0..SHARE / 2 + 2).map(|_| connect()).collect();
    for stream in &mut trickling {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: ")
            .unwrap();
    }
    let trickle = thread::spawn(move || {
        let begun = Instant::now();
        while !trickling.is_empty() && begun.elapsed() < SOON {
            trickling.retain_mut(|stream| stream.write_all(b"x").is_ok());
            sleep(Duration::from_millis(100));
        }
        trickling.len()
    });
    sleep(Duration::from_millis(300));
    for path in ["/livez", "/readyz"] {
        let begun = Instant::now();
        let (status, body) = scene.agent.get(Agent::PROBES, path).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{path}");
    }
    // Those on the public port are cut off, and another client has its turn.
    assert_eq!(
        trickle.join().unwrap(),
        0,
        "clients that trickle are not cut off"
    );
    assert_eq!(scene.agent.get(Agent::HEALTHZ, "/healthz").unwrap().0, 200);
}

#[test]
fn an_agent_that_is_never_ready_forgets_flows_by_time() {
    let mut scene = abandoned();
    let mut server = ApiServer::start(&scene.node, Vec::new()).unwrap();
    let kubeconfig = server.kubeconfig(&scene.lab.dir()).unwrap();
    server.stop();
    let flag = format!("--kubeconfig={}", kubeconfig.display());
    scene.agent.set_args(&[&flag]);
    let flows = PinnedMap::at(scene.node.pin_dir().join("maps/FLOWS"));
    // One whose last packet was seen as the machine started.
    let (key, value) = flows.zeros().unwrap();
    flows.update(&key, &value).unwrap();
    scene.agent.spawn().unwrap();
    let is_swept = wait_until(SOON, || flows.elements().unwrap().is_empty());
    assert!(is_swept, "{:?}", scene.agent.log());
    assert!(!scene.agent.is_ready(), "{:?}", scene.agent.log());
    let (status, body) = scene.agent.get(Agent::PROBES, "/readyz").unwrap();
    assert_eq!(status, 503, "{body}");
    assert_eq!(scene.agent.get(Agent::PROBES, "/livez").unwrap().0, 200);
    assert_even(&scene.client, Transport::Tcp, web(v4(10)));
}

#[test]
fn with_hardly_any_memory_of_sockets_names_are_right_nevertheless() {
    let mut scene = Scene::web();
    scene.agent.cleanup().unwrap();
    let options = AgentOptions {
        args: ["--max-peers=1", "--max-overflow=1", "--max-affinity=1"]
            .map(str::to_owned)
            .to_vec(),
        ..AgentOptions::default()
    };
    scene.agent = Agent::start(&scene.node, scene.manifests.dir(), options).unwrap();
    for transport in [Transport::Tcp, Transport::Udp] {
        assert_even(&scene.client, transport, web(v4(10)));
    }
    // Connections at one time share the one place that there is.
    let sockets: Vec<_> = (0..10)
        .map(|_| {
            let socket = scene.client.socket(Transport::Tcp, false).unwrap();
            socket.connect(web(v4(10))).unwrap();
            socket
        })
        .collect();
    for socket in &sockets {
        assert_eq!(socket.peer_name().unwrap(), web(v4(10)));
    }
}

#[test]
fn every_planned_map_may_be_full_and_what_is_in_it_is_served() {
    let ranged = || {
        web_service()
            .balanced_at(v4(200))
            .allows("192.0.2.0/24")
            .allows("10.0.0.0/8")
    };
    let mut scene = Scene::new(|manifests, endpoints| {
        manifests
            .put("web.yaml", &ranged().with(endpoints))
            .unwrap();
    });
    let dump = scene.agent.dump("all").unwrap();
    for (map, flag) in [
        ("FRONTENDS", "--max-frontends"),
        ("SLOTS", "--max-slots"),
        ("SOURCES", "--max-sources"),
        ("BACKENDS", "--max-backends"),
        ("SERVICES", "--max-services"),
    ] {
        let entries = &dump["node"]["maps"][map]["entries"];
        assert!(entries.as_u64().unwrap() > 0, "{map}: {dump}");
        scene.agent.cleanup().unwrap();
        scene.manifests.remove("z.yaml").ok();
        let options = AgentOptions {
            args: vec![format!("{flag}={entries}")],
            ..AgentOptions::default()
        };
        scene.agent = Agent::start(&scene.node, scene.manifests.dir(), options).unwrap();
        let healthy = scene.agent.get(Agent::HEALTHZ, "/healthz").unwrap();
        assert_eq!(healthy.0, 200, "{map}: {:?}", scene.agent.log());
        let other = Service::new("other")
            .at(v4(11))
            .tcp(80, 9)
            .balanced_at(v4(201))
            .allows("10.0.0.0/8");
        let endpoints = [scene.backends[0].v4().into()];
        scene
            .manifests
            .put("z.yaml", &other.with(&endpoints))
            .unwrap();
        let line = scene.agent.wait_for_line(&["default/other", map, "--max-"]);
        assert!(line.is_some(), "{map}: {:?}", scene.agent.log());
        assert!(health_names(&scene.agent, &["other"]), "{map}");
        assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);
        assert!(scene.client.ask(Transport::Tcp, web(v4(11))).is_err());
    }
}

#[test]
fn a_full_map_keeps_out_one_service_and_is_reported_until_there_is_room() {
    let mut scene = Scene::web();
    // As many frontends as `web` has, and no more: two ports of two addresses, and what
    // refuses the other ports of each.
    scene.agent.cleanup().unwrap();
    let options = AgentOptions {
        args: vec!["--max-frontends=6".to_owned()],
        ..AgentOptions::default()
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
    assert!(health_names(&scene.agent, &["other"]));
    assert_eq!(scene.agent.get(Agent::HEALTHZ, "/livez").unwrap().0, 200);
    assert_eq!(scene.answering(web(v4(10))), ["a", "b", "c"]);

    // Room is made: the next try, five seconds later, finds it.
    scene.manifests.remove("web.yaml").unwrap();
    let served = wait_until(SOON, || {
        scene.client.ask(Transport::Tcp, web(v4(11))).is_ok()
    });
    assert!(served, "{:?}", scene.agent.log());
    assert!(health_names(&scene.agent, &[]), "{:?}", scene.agent.log());
}

#[test]
fn the_cgroup_of_a_container_is_not_taken_for_that_of_the_machine() {
    let scene = Scene::web();
    let node = &scene.node;
    // As Docker starts a container: a cgroup namespace, with cgroups mounted in it.
    let script = "echo $$ > $1/host/cgroup.procs && exec unshare --cgroup --mount sh -c '\
                  umount -l $0 && mount -t cgroup2 none $0 && exec \"$@\"' \"$2\" \"$3\" run \
                  --node-name node --manifests \"$4\" --pin-dir \"$5\"";
    let mut output = None;
    node.run(|| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        command.args([node.cgroup(), &find_cgroup2()?, &svclb_binary()?]);
        command.args([
            scene.manifests.dir(),
            &node.pin_dir().with_extension("other"),
        ]);
        output = Some(command.env("NO_COLOR", "1").output()?);
        Ok(())
    })
    .unwrap();
    let stderr = String::from_utf8(output.unwrap().stderr).unwrap();
    let sentence = stderr.lines().last().unwrap_or_default();
    assert!(sentence.contains("--cgroupns=host"), "{stderr}");
    assert_even(&scene.client, Transport::Tcp, web(v4(10)));
}
