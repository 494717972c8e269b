//! A cluster's DNS, as it is: real servers behind a Service, asked by real resolvers, while
//! the servers are replaced one by one.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use svclb_tests::manifests::Service;
use svclb_tests::{Pod, SOON, peer_binary, wait_until};

use super::scene::{Scene, v4};

const NAME: &str = "web.example";
const ADDRESS: &str = "192.0.2.7";

/// A program in a pod.
fn in_pod(pod: &Pod, program: &[&str]) -> Command {
    let mut command = Command::new(peer_binary().unwrap());
    command
        .arg("--netns")
        .arg(pod.netns())
        .arg("--cgroup")
        .arg(pod.cgroup())
        .arg("exec")
        .args(program)
        .stdin(Stdio::null());
    command
}

/// `dnsmasq` in a pod, that knows one name; ends with its owner.
struct Server(Child);

impl Server {
    fn start(pod: &Pod) -> Self {
        let record = format!("--host-record={NAME},{ADDRESS}");
        let mut dnsmasq = in_pod(pod, &["dnsmasq", "--keep-in-foreground"]);
        dnsmasq.args(["--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
        dnsmasq.args(["--pid-file", "--user=root", "--log-facility=-", &record]);
        let child = dnsmasq.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = Self(child.unwrap());
        let itself = format!("@{}", pod.v4());
        let answers = wait_until(SOON, || {
            let mut dig = in_pod(
                pod,
                &["dig", "+short", "+time=1", "+tries=1", &itself, NAME],
            );
            is_right(&dig.output().unwrap())
        });
        assert!(answers, "dnsmasq does not answer");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn is_right(output: &Output) -> bool {
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains(ADDRESS)
}

/// The ways in which a program looks a name up, each as a command.
fn resolvers(resolv_conf: &Path) -> [Vec<String>; 4] {
    let dig = |how: &str| format!("dig +short +time=2 +tries=3 {how} @10.96.0.10 {NAME}");
    // glibc reads this file and no other: it is laid over in a mount namespace of its own.
    let glibc = |options: &str| {
        format!(
            "mount --bind {} /etc/resolv.conf && RES_OPTIONS='{options}' exec getent ahostsv4 {NAME}",
            resolv_conf.display()
        )
    };
    let shell = |script: String| vec!["sh".to_owned(), "-c".to_owned(), script];
    let alone = |script: String| {
        let mut words: Vec<_> = ["unshare", "--mount"].map(str::to_owned).into();
        words.extend(shell(script));
        words
    };
    [
        shell(dig("+notcp")),
        shell(dig("+tcp")),
        alone(glibc("timeout:2 attempts:3")),
        alone(glibc("timeout:2 attempts:3 use-vc")),
    ]
}

#[test]
fn no_lookup_fails_while_dns_servers_are_replaced_one_by_one() {
    let service = Service::new("kube-dns").at(v4(10)).udp(53, 53).tcp(53, 53);
    let scene = Scene::new(|manifests, endpoints| {
        manifests.put("dns.yaml", &service.with(endpoints)).unwrap();
    });
    let resolv_conf = scene.lab.dir().join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 10.96.0.10\n").unwrap();
    let mut servers: Vec<_> = scene.backends.iter().map(Server::start).map(Some).collect();

    let over = AtomicBool::new(false);
    // How many lookups of each resolver were answered.
    let right: [AtomicU32; 4] = Default::default();
    let client = &scene.client;
    thread::scope(|scope| {
        let lookups: Vec<_> = resolvers(&resolv_conf)
            .into_iter()
            .zip(&right)
            .map(|(words, right)| {
                let over = &over;
                scope.spawn(move || {
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    let mut wrong = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let output = in_pod(client, &words).output().unwrap();
                        if is_right(&output) {
                            right.fetch_add(1, Ordering::Relaxed);
                        } else {
                            wrong.push(output);
                        }
                    }
                    (words.join(" "), wrong)
                })
            })
            .collect();
        let enough = || right.iter().all(|right| right.load(Ordering::Relaxed) >= 6);
        // Twice is enough, but for the slowest of emulated kernels.
        for round in (0..10).take_while(|&round| round < 2 || !enough()) {
            for (index, leaving) in ["a", "b", "c"].into_iter().enumerate() {
                let staying: Vec<_> = ["a", "b", "c"]
                    .into_iter()
                    .filter(|name| *name != leaving)
                    .collect();
                let without = service.with(&scene.endpoints_of(&staying));
                scene.manifests.put("dns.yaml", &without).unwrap();
                let gone = scene.backends[index].v4().to_string();
                let reported = wait_until(SOON, || {
                    let backends = scene.agent.dump("services").unwrap().to_string();
                    !backends.contains(&gone)
                });
                assert!(reported, "{:?}", scene.agent.log());
                // A pod that is deleted is given time to end, and less than it wants in
                // the second round.
                thread::sleep(Duration::from_millis(if round == 0 { 500 } else { 20 }));
                servers[index] = None;
                thread::sleep(Duration::from_millis(300));
                servers[index] = Some(Server::start(&scene.backends[index]));
                let all = service.with(&scene.endpoints());
                scene.manifests.put("dns.yaml", &all).unwrap();
                thread::sleep(Duration::from_millis(300));
            }
        }
        over.store(true, Ordering::Relaxed);
        for lookup in lookups {
            let (what, wrong) = lookup.join().unwrap();
            assert!(wrong.is_empty(), "{what}: {wrong:#?}");
        }
        assert!(enough(), "{right:?}");
    });
}
