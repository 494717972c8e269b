//! The lab without an agent.

mod networks;
mod outside;
mod tap;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use svclb_tests::{Kind, Lab, SOON, Transport, wait_until};

use super::scene::{alone, turn};

/// Whether a name is a lab's prefix, or begins with it: another lab's may go on with a digit.
fn belongs_to(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether a folder has something of a lab.
fn carries(place: &str, prefix: &str) -> bool {
    fs::read_dir(place).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| belongs_to(&entry.file_name().to_string_lossy(), prefix))
    })
}

#[test]
fn pods_and_the_host_reach_each_other_in_both_families_over_tcp_and_udp() {
    let _turn = turn();
    let lab = Lab::new("reach").unwrap();
    let node = lab.node("node1").unwrap();
    let (web, client) = (node.pod("web").unwrap(), node.pod("client").unwrap());
    for transport in [Transport::Tcp, Transport::Udp] {
        web.serve(transport, 80).unwrap();
        for to in [web.v4_at(80), web.v6_at(80)] {
            let answer = client.ask(transport, to).unwrap();
            assert_eq!(answer.backend, "web");
            assert_eq!(answer.client.ip(), client.ip_like(to.ip()));
            assert_eq!(answer.peer_name, Some(to));
            assert_eq!(node.ask(transport, to).unwrap().backend, "web");
        }
        let mapped = client.ask(Kind::new(transport).mapped(), web.v4_at(80));
        assert_eq!(
            mapped.unwrap().peer_name.unwrap().to_string(),
            "[::ffff:10.244.1.10]:80"
        );
    }
    let kind = Kind::new(Transport::Tcp).nonblocking();
    assert_eq!(client.ask(kind, web.v4_at(80)).unwrap().backend, "web");
    let kind = Kind::new(Transport::Udp).unconnected();
    let answer = client.ask(kind, web.v4_at(80)).unwrap();
    assert_eq!(answer.from, Some(web.v4_at(80)));
}

#[test]
fn nodes_reach_each_others_pods_in_both_families_and_are_seen_by_their_own_addresses() {
    let _turn = turn();
    let lab = Lab::new("nodes").unwrap();
    let [first, second, third] = ["node1", "node2", "node3"].map(|name| lab.node(name).unwrap());
    let (web, client) = (first.pod("web").unwrap(), third.pod("client").unwrap());
    for transport in [Transport::Tcp, Transport::Udp] {
        web.serve(transport, 80).unwrap();
        for (to, host) in [
            (web.v4_at(80), "10.244.2.1"),
            (web.v6_at(80), "fd00:10:244:2::1"),
        ] {
            let seen = client.ask(transport, to).unwrap().client.ip();
            assert_eq!(seen, client.ip_like(to.ip()));
            let seen = second.ask(transport, to).unwrap().client.ip();
            assert_eq!(seen.to_string(), host);
        }
    }
}

#[test]
fn hosts_and_pods_of_two_nodes_reach_each_other_by_their_own_addresses() {
    let _turn = turn();
    let lab = Lab::new("two").unwrap();
    let [one, two] = ["node1", "node2"].map(|name| lab.node(name).unwrap());
    let (web, client) = (two.pod("web").unwrap(), one.pod("client").unwrap());
    for transport in [Transport::Tcp, Transport::Udp] {
        web.serve(transport, 80).unwrap();
        two.serve(transport, 81).unwrap();
        for (to, name) in [
            (web.v4_at(80), "web"),
            (web.v6_at(80), "web"),
            ((two.v4(), 81).into(), "node2"),
            ((two.v6(), 81).into(), "node2"),
        ] {
            let answer = client.ask(transport, to).unwrap();
            assert_eq!(answer.backend, name);
            assert_eq!(answer.client.ip(), client.ip_like(to.ip()));
            let answer = one.ask(transport, to).unwrap();
            assert_eq!(answer.backend, name);
            let [v4, v6] = [one.v4().to_string(), one.v6().to_string()];
            assert!([v4, v6].contains(&answer.client.ip().to_string()));
        }
    }
}

#[test]
fn without_an_agent_a_service_address_is_unreachable_and_not_refused() {
    let _turn = turn();
    let lab = Lab::new("unreachable").unwrap();
    let node = lab.node("node1").unwrap();
    let client = node.pod("client").unwrap();
    for to in ["10.96.0.10:80", "[fd00:10:96::10]:80"] {
        for peer in [&*client, &*node] {
            let failure = peer.ask(Transport::Tcp, to.parse().unwrap()).unwrap_err();
            assert!(
                ["EHOSTUNREACH", "ENETUNREACH"].contains(&failure.errno.as_str()),
                "{failure:?}"
            );
        }
    }
}

#[test]
fn a_port_without_a_server_is_refused_and_the_load_counts_it() {
    let _turn = turn();
    let lab = Lab::new("refused").unwrap();
    let node = lab.node("node1").unwrap();
    let (web, client) = (node.pod("web").unwrap(), node.pod("client").unwrap());
    let failure = client.ask(Transport::Tcp, web.v4_at(81)).unwrap_err();
    assert_eq!(failure.to_string(), "connect: ECONNREFUSED");
    web.serve(Transport::Tcp, 80).unwrap();
    let pause = Duration::from_micros(100);
    client
        .start_load(Transport::Tcp, web.v4_at(81), pause)
        .unwrap();
    let mut refused = 0;
    let counted = wait_until(SOON, || {
        let tally = client.take_load().unwrap();
        assert_eq!(tally.answered(), 0);
        refused += tally.failures.get("connect: ECONNREFUSED").unwrap_or(&0);
        refused > 10
    });
    assert!(counted, "{refused}");
    client.stop_load().unwrap();
    let tally = client.repeat(Transport::Tcp, web.v4_at(80), 100).unwrap();
    assert_eq!(tally.answers["web"], 100);
    assert_eq!((tally.failed(), tally.wrong_names), (0, 0));
}

#[test]
fn nothing_is_left_of_a_lab_also_after_a_panic() {
    let _turn = turn();
    let mut prefix = String::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new("panic").unwrap();
        prefix = lab.prefix().to_owned();
        let node = lab.node("node1").unwrap();
        let _pod = node.pod("pod").unwrap();
        assert!(node.cgroup().is_dir());
        assert!(carries("/run/netns", &prefix));
        fs::create_dir_all(node.pin_dir()).unwrap();
        panic!("on purpose");
    }));
    assert!(result.is_err());
    for place in ["/run/netns", "/run/svclb-lab", "/sys/fs/bpf"] {
        assert!(!carries(place, &prefix), "{place}");
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mut points = mounts.split_whitespace().flat_map(|word| word.split('/'));
    assert!(!points.any(|name| belongs_to(name, &prefix)), "{mounts}");
    for root in mounts.lines().filter(|line| line.contains(" cgroup2 ")) {
        let point = root.split(' ').nth(1).unwrap();
        assert!(!Path::new(point).join(&prefix).exists());
    }
}

#[test]
fn a_lab_whose_process_was_killed_is_swept_by_the_next() {
    let _turn = alone();
    // No process has this id: it is above the largest that Linux gives out.
    let stale = "svclb-lab-4999999-0";
    let lab = Lab::new("stale").unwrap();
    let root = lab.node("node1").unwrap();
    let cgroup = root.cgroup().parent().unwrap().with_file_name(stale);
    fs::create_dir_all(cgroup.join("node1/client")).unwrap();
    fs::create_dir_all(format!("/run/svclb-lab/{stale}")).unwrap();
    fs::write(format!("/run/netns/{stale}-node1"), "").unwrap();
    let _next = Lab::new("next").unwrap();
    assert!(!cgroup.exists());
    assert!(!carries("/run/svclb-lab", stale));
    assert!(!carries("/run/netns", stale));
    assert!(root.cgroup().exists(), "a living process's lab was swept");
}
