//! Flows that the kernel's own conntrack translates are left to it. They are real ones here: of sockets in
//! a network of their own, where a rule of the shape of kube-proxy's leads from the Service to its backend.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use svclb_common::Counter;

use super::frames::{Family, Frame, Transport, family_and_transport};
use super::world::{EGRESS, HOOKS, NODE_PORT, PASS, TARGET, World};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One client's connection and datagrams in each family, and the ports that they are from.
struct Clients {
    connections: Vec<(TcpStream, TcpListener)>,
    datagrams: Vec<(UdpSocket, UdpSocket)>,
}

impl Clients {
    /// In a network of the thread's own; none where there is no NAT of nftables.
    fn new() -> Option<Self> {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let ip = |line: &str| {
            let status = Command::new("ip").args(line.split(' ')).status().unwrap();
            assert!(status.success(), "ip {line}");
        };
        ip("link set lo up");
        for family in FAMILIES {
            for at in [family.client(), family.node(), family.backend()] {
                // Bound to at once: not after it is known that nothing else has it.
                let at_once = if at.is_ipv6() { " nodad" } else { "" };
                ip(&format!("address add {at} dev lo{at_once}"));
            }
        }
        if !nft(&rules()) {
            eprintln!("skipped: nftables has no NAT here");
            return None;
        }
        let (mut connections, mut datagrams) = (Vec::new(), Vec::new());
        for family in FAMILIES {
            let frontend = SocketAddr::new(family.node(), NODE_PORT);
            let backend = SocketAddr::new(family.backend(), TARGET);
            let client = SocketAddr::new(family.client(), 0);
            let listener = TcpListener::bind(backend).unwrap();
            let socket = Socket::new(Domain::for_address(client), Type::STREAM, None).unwrap();
            socket.bind(&client.into()).unwrap();
            socket.connect(&frontend.into()).unwrap();
            connections.push((socket.into(), listener));
            let server = UdpSocket::bind(backend).unwrap();
            let socket = UdpSocket::bind(client).unwrap();
            socket.connect(frontend).unwrap();
            socket.send(b"?").unwrap();
            datagrams.push((socket, server));
        }
        Some(Self {
            connections,
            datagrams,
        })
    }

    /// A client's packet, as it comes in.
    fn frame(&self, family: Family, transport: Transport) -> Frame {
        let index = usize::from(family == Family::V6);
        let from = match transport {
            Transport::Tcp => self.connections[index].0.local_addr().unwrap(),
            Transport::Udp => self.datagrams[index].0.local_addr().unwrap(),
        };
        Frame::new(family, transport)
            .by_port(from.port())
            .to(family.node(), NODE_PORT)
    }
}

fn rules() -> String {
    let rule = |family: Family| {
        let (frontend, backend) = (family.node(), SocketAddr::new(family.backend(), TARGET));
        let ip = if frontend.is_ipv4() { "ip" } else { "ip6" };
        format!(
            "table {ip} kube-proxy {{ chain services {{
               type nat hook output priority -100
               {ip} daddr {frontend} tcp dport {NODE_PORT} dnat to {backend}
               {ip} daddr {frontend} udp dport {NODE_PORT} dnat to {backend}
             }}
             }}\n"
        )
    };
    FAMILIES.map(rule).concat()
}

fn nft(rules: &str) -> bool {
    let nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut nft) = nft else {
        return false;
    };
    let written = nft.stdin.take().unwrap().write_all(rules.as_bytes());
    nft.wait().unwrap().success() && written.is_ok()
}

fn is_left_alone(world: &World, hook: &str, frame: Frame) -> bool {
    let run = world.run(hook, &frame.bytes());
    run.verdict == PASS(hook) && run.frame == frame.bytes()
}

#[test]
fn their_packets_are_passed_on_as_they_are_and_so_are_their_replies() {
    let Some(clients) = Clients::new() else {
        return;
    };
    let world = World::new();
    assert_eq!(world.leave_flows_to_kernel().flows, 4);
    family_and_transport(|family, transport| {
        let frame = clients.frame(family, transport).established();
        for _ in 0..2 {
            for hook in HOOKS {
                assert!(is_left_alone(&world, hook, frame), "{hook} {transport:?}");
            }
            assert!(
                is_left_alone(&world, EGRESS, frame.reply()),
                "{transport:?}"
            );
        }
    });
    assert_eq!(world.counted(Counter::FlowsOpened), 0);
    assert_eq!(world.leave_flows_to_kernel().flows, 0, "they are known");
    // One that the kernel does not know is a flow of ours.
    family_and_transport(|family, transport| {
        let other = Frame::new(family, transport).by_port(999);
        let run = world.run("svclb_ingress", &other.to(family.node(), NODE_PORT).bytes());
        let inside = other.to(family.backend(), TARGET).by_port_of(&run.frame);
        assert_eq!(run.frame, inside.bytes());
    });
}

#[test]
fn a_flow_that_its_backend_would_take_for_one_of_them_is_given_another_port() {
    let Some(clients) = Clients::new() else {
        return;
    };
    let world = World::new();
    world.leave_flows_to_kernel();
    family_and_transport(|family, transport| {
        let cluster_ip: IpAddr = match family {
            Family::V4 => [10, 96, 0, 10].into(),
            Family::V6 => "fd00::10".parse().unwrap(),
        };
        let request = clients.frame(family, transport).to(cluster_ip, 80);
        let run = world.run("svclb_ingress", &request.bytes());
        let inside = request.to(family.backend(), TARGET);
        assert_ne!(run.frame, inside.bytes());
        let given = (1024..30_000).find(|port| inside.by_port(*port).bytes() == run.frame);
        assert!(given.is_some(), "{family:?} {transport:?}");
    });
}

#[test]
fn a_connection_that_ended_is_opened_again_by_a_flow_of_ours() {
    let Some(clients) = Clients::new() else {
        return;
    };
    let world = World::new();
    world.leave_flows_to_kernel();
    for family in FAMILIES {
        let request = clients.frame(family, Transport::Tcp);
        // As long as it goes on, it is the kernel's.
        assert!(is_left_alone(&world, "svclb_ingress", request));
        assert!(is_left_alone(&world, "svclb_ingress", request.reset()));
        let run = world.run("svclb_ingress", &request.bytes());
        assert_ne!(run.frame, request.bytes());
        assert!(!is_left_alone(
            &world,
            "svclb_ingress",
            request.established()
        ));
    }
}

#[test]
fn datagrams_to_a_backend_that_is_gone_are_no_such_flow() {
    let Some(clients) = Clients::new() else {
        return;
    };
    let world = World::new();
    world.forget_backends();
    assert_eq!(world.leave_flows_to_kernel().flows, 2, "the connections");
    let datagram = clients.frame(Family::V4, Transport::Udp);
    assert!(!is_left_alone(&world, "svclb_ingress", datagram));
}

#[test]
fn datagrams_are_checked_with_the_others_when_a_service_changed() {
    let Some(_clients) = Clients::new() else {
        return;
    };
    let world = World::new();
    world.leave_flows_to_kernel();
    let flows = world.udp_flows();
    let backends: Vec<_> = flows.iter().map(|flow| flow.backend).collect();
    for family in FAMILIES {
        assert!(backends.contains(&SocketAddr::new(family.backend(), TARGET)));
    }
    assert_eq!(flows.len(), 2);
}

#[test]
fn they_fill_no_more_than_half_of_the_map() {
    let Some(_clients) = Clients::new() else {
        return;
    };
    let world = World::of_few_flows(4);
    // Each takes two entries: no flow of ours is given the port that its client chose.
    let left = world.leave_flows_to_kernel();
    assert_eq!((left.flows, left.without_room), (2, 2));
    assert_eq!(world.flow_entries(), 4);
    let left = world.leave_flows_to_kernel();
    assert_eq!((left.flows, left.without_room), (0, 2));
}

#[test]
fn where_nothing_is_tracked_nothing_is_asked_for() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    assert_eq!(World::new().leave_flows_to_kernel().flows, 0);
    let count = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    assert!(count.map_or(true, |count| count.trim() == "0"));
}
