//! What kube-proxy's rules translated before svclb came goes on as they began it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use svclb_tests::manifests::Service;
use svclb_tests::{
    Peer, PeerSocket, Pod, PodNetwork, SOON, Transport, kube_proxy_rules, lacks, wait_until,
};

use super::{BALANCED, MODES, TRANSPORTS, World, asks_all, asks_on, hidden_pods, kinds, service};
use crate::lab::scene::{TARGET, v4, v6, web};

/// A socket that kube-proxy's rules gave a backend.
struct Opened<'a> {
    to: SocketAddr,
    transport: Transport,
    backend: String,
    socket: PeerSocket<'a>,
}

impl Opened<'_> {
    /// Whether it goes on with its backend.
    fn goes_on(&self, text: &str) -> Result<(), String> {
        let Self { to, transport, .. } = self;
        match asks_on(&self.socket, text) {
            Ok(backend) if backend == self.backend => Ok(()),
            other => Err(format!(
                "{text}: {transport:?} at {to}, from {:?}, was with {} and got {other:?}",
                self.socket.local_name(),
                self.backend
            )),
        }
    }
}

/// All sockets go on with their backends, twice: the first answer may be to what the second one was for.
fn all_go_on(opened: &[Opened<'_>], when: &str) {
    let faults: Vec<_> = ["first", "second"]
        .into_iter()
        .flat_map(|turn| {
            let text = format!("{when}, {turn}");
            opened
                .iter()
                .filter_map(move |opened| opened.goes_on(&text).err())
        })
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Sockets to an address, until each of these backends has one.
fn open<'a>(
    peer: &'a Peer,
    transport: Transport,
    to: SocketAddr,
    names: &[&str],
) -> Vec<Opened<'a>> {
    let mut opened: Vec<Opened<'_>> = Vec::new();
    // Of two, each is chosen in 40 questions but for once in a trillion.
    for _ in 0..40 {
        let socket = peer.socket(transport, to.is_ipv6()).unwrap();
        socket.connect(to).unwrap();
        let backend = asks_on(&socket, "before").unwrap_or_else(|failure| {
            panic!("{transport:?} at {to} before svclb: {failure}");
        });
        if opened.iter().all(|known| known.backend != backend) {
            opened.push(Opened {
                to,
                transport,
                backend,
                socket,
            });
        }
        if opened.len() == names.len() {
            return opened;
        }
    }
    panic!("{transport:?} at {to}: not all of {names:?} answered");
}

/// Port 80 of the cluster IPs.
fn cluster_ips() -> [SocketAddr; 2] {
    [web(v4(10)), web(v6(0x10))]
}

/// Two nodes without agents, a pod that asks, and kube-proxy's rules on the first node, which lead to these
/// backends.
fn world(names: &[&str], shape: fn(String) -> String) -> Option<(World, Pod)> {
    let world = World::new(PodNetwork::Vxlan, hidden_pods());
    let node = &world.nodes[0];
    let frontends = [world.balanced(), world.node_ports(0), cluster_ips()].concat();
    let backends: Vec<SocketAddr> = world
        .backends
        .iter()
        .filter(|pod| names.contains(&pod.name()))
        .flat_map(|pod| [pod.v4_at(TARGET), pod.v6_at(TARGET)])
        .collect();
    let rules = shape(kube_proxy_rules(&frontends, &backends).unwrap());
    if let Err(error) = node.nft(&rules) {
        println!("{error:#}");
        lacks("nftables NAT");
        return None;
    }
    // An emulated kernel takes longer over a start than conntrack remembers a datagram.
    for time in ["udp_timeout", "udp_timeout_stream"] {
        let name = format!("net/netfilter/nf_conntrack_{time}");
        node.sysctl(&name, "600").unwrap();
    }
    for ip in cluster_ips().map(|at| at.ip()) {
        world.outside.route(ip, node).unwrap();
    }
    let caller = node.pod("caller").unwrap();
    Some((world, caller))
}

/// As kube-proxy is taken away.
fn take_rules_away(world: &World) {
    for family in ["ip", "ip6"] {
        world.nodes[0]
            .nft(&format!("delete table {family} kube-proxy"))
            .unwrap();
    }
}

/// With cluster IPs for clients outside, as kube-proxy has them. The agent of the second node may take longer
/// to start, where the kernel is emulated, than the first one's remembers a datagram.
fn args<'a>(mode: &[&'a str]) -> Vec<&'a str> {
    let others = [
        "--external-cluster-ips",
        "on",
        "--conntrack-udp-timeout",
        "600",
        "--conntrack-udp-timeout-stream",
        "600",
    ];
    [mode, &others].concat()
}

/// New connections from outside are served without kube-proxy's rules.
fn is_served_anew(world: &World, names: &[&str]) {
    for to in [world.balanced(), world.node_ports(0), cluster_ips()].concat() {
        for kind in kinds() {
            asks_all(&world.client, kind, to, names, |_| {}).unwrap();
        }
    }
}

#[test]
fn connections_and_datagrams_stay_with_the_backends_that_kube_proxy_gave_them() {
    for mode in MODES {
        let names = ["a", "b"];
        let Some((mut world, caller)) = world(&names, |rules| rules) else {
            return;
        };
        world.put(&service(), &names);
        let client = world.outside.client("before").unwrap();
        let mut opened = Vec::new();
        for transport in TRANSPORTS {
            for to in [world.balanced(), world.node_ports(0), cluster_ips()].concat() {
                opened.extend(open(&client, transport, to, &names));
            }
            for to in [world.balanced(), cluster_ips()].concat() {
                opened.extend(open(&caller, transport, to, &names));
            }
        }
        world.start(&args(mode));
        all_go_on(&opened, "after the start");
        take_rules_away(&world);
        all_go_on(&opened, "without the rules");
        is_served_anew(&world, &names);
        let (_, _) = world.agents[0].terminate().unwrap();
        world.agents[0].run().unwrap();
        all_go_on(&opened, "after another start");
    }
}

/// As kube-proxy's rules for `externalTrafficPolicy: Local`, and for pods at cluster IPs.
fn keeping_clients(rules: String) -> String {
    rules.replace("jump mark-for-masquerade; goto", "goto")
}

#[test]
fn so_do_those_whose_backend_sees_the_client() {
    for mode in MODES {
        let names = ["a"];
        let Some((mut world, _caller)) = world(&names, keeping_clients) else {
            return;
        };
        world.put(&service(), &names);
        let client = world.outside.client("before").unwrap();
        let mut opened = Vec::new();
        for transport in TRANSPORTS {
            for to in [world.balanced(), world.node_ports(0), cluster_ips()].concat() {
                opened.extend(open(&client, transport, to, &names));
            }
        }
        world.start(&args(mode));
        all_go_on(&opened, "after the start");
        take_rules_away(&world);
        all_go_on(&opened, "without the rules");
        is_served_anew(&world, &names);
    }
}

#[test]
fn so_do_those_of_a_pod_that_its_backend_on_another_node_sees() {
    for mode in MODES {
        // The replies of one on its own node would pass the bridge, and not the rules.
        let names = ["b"];
        let Some((mut world, caller)) = world(&names, keeping_clients) else {
            return;
        };
        world.put(&service(), &names);
        let mut opened = Vec::new();
        for transport in TRANSPORTS {
            for to in [world.balanced(), cluster_ips()].concat() {
                opened.extend(open(&caller, transport, to, &names));
            }
        }
        world.start(&args(mode));
        all_go_on(&opened, "after the start");
        take_rules_away(&world);
        all_go_on(&opened, "without the rules");
        is_served_anew(&world, &names);
    }
}

#[test]
fn so_do_those_at_a_service_that_svclb_learns_of_later() {
    for mode in MODES {
        let names = ["a", "b"];
        let Some((mut world, _caller)) = world(&names, |rules| rules) else {
            return;
        };
        // The backends are known, as where a Service of theirs gets another address.
        let other = Service::new("other")
            .at(v4(11))
            .at(v6(0x11))
            .tcp(81, TARGET)
            .udp(81, TARGET);
        world.put(&other, &names);
        world.start(&args(mode));
        let client = world.outside.client("before").unwrap();
        let mut opened = Vec::new();
        for transport in TRANSPORTS {
            for to in [world.balanced(), world.node_ports(0)].concat() {
                opened.extend(open(&client, transport, to, &names));
            }
        }
        world.put(&service(), &names);
        let line = world.agents[0].wait_for_line(&["translates go on with it"]);
        assert!(line.is_some(), "{mode:?}: nothing is left to the kernel");
        all_go_on(&opened, "after the Service came");
        take_rules_away(&world);
        all_go_on(&opened, "without the rules");
        for to in world.balanced() {
            world.wait_for_answers(to, &names);
        }
    }
}

#[test]
fn datagrams_whose_backend_is_gone_are_given_another() {
    for mode in MODES {
        let names = ["a", "b"];
        let Some((mut world, _caller)) = world(&names, |rules| rules) else {
            return;
        };
        world.put(&service(), &names);
        let client = world.outside.client("before").unwrap();
        let opened: Vec<_> = BALANCED
            .map(web)
            .into_iter()
            .flat_map(|to| open(&client, Transport::Udp, to, &names))
            .collect();
        world.start(&args(mode));
        take_rules_away(&world);
        all_go_on(&opened, "after the start");
        world.put(&service(), &["a"]);
        for opened in &opened {
            let is_moved = wait_until(SOON, || {
                std::thread::sleep(Duration::from_millis(50));
                asks_on(&opened.socket, "moved?") == Ok("a".to_owned())
            });
            let ip: IpAddr = opened.to.ip();
            assert!(is_moved, "{mode:?} {ip}: it stays with {}", opened.backend);
        }
    }
}
