//! Finding and destroying connected UDP sockets, on this machine's kernel. Needs root;
//! attaches only to a cgroup of its own, and sends only on the loopback interface of network
//! namespaces of its own, which end with the test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{SocketAddr, UdpSocket as Socket};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io, panic, process, thread};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Type};
use svclb_common::maps::Sizes;
use svclb_common::{
    Addr16, BackendId, FrontendKey, FrontendValue, Generation, PortBe, Proto, Scope, ServiceId,
    SlotIndex, SlotKey, SlotRange, SlotValue,
};
use svclb_core::apply::Maps;
use svclb_core::conntrack::Timeouts;
use svclb_core::op::Op;
use svclb_dataplane::{
    Dataplane, Forwarding, Options, PortRange, UdpSockets, can_destroy, cleanup, find_bpffs,
    find_cgroup2,
};

const SERVICE4: &str = "10.96.0.1:53";
const SERVICE4_MAPPED: &str = "[::ffff:10.96.0.1]:53";
const SERVICE6: &str = "[fd00:96::1]:53";
const ANY4: &str = "127.0.0.1:0";
const ANY6: &str = "[::1]:0";

/// A pin directory and a cgroup with the programs, both gone when it is dropped. One at a
/// time, because the whole test process moves into the cgroup to make its sockets.
struct Place {
    options: Options,
    outside: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test loads eBPF programs and so must run as root"
        );
        let name = format!("svclb-test-sockets-{}", process::id());
        let root = find_cgroup2().unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap();
        let options = Options {
            pin_dir: find_bpffs().unwrap().join(&name),
            cgroup: root.join(&name),
            sizes: Sizes {
                peers: 1024,
                ..Sizes::DEFAULT
            },
            source_ports: PortRange::new(50_000, 50_999).unwrap(),
            external_cluster_ips: true,
            pod_devices: true,
            mark: 0x4000,
            conntrack: Timeouts::default(),
            packets: false,
            forwarding: Forwarding::Direct,
        };
        fs::create_dir(&options.cgroup).unwrap();
        let place = Self {
            options,
            outside: root.join(own),
            _alone: alone,
        };
        place.open().attach().unwrap();
        place
    }

    fn open(&self) -> Dataplane {
        Dataplane::open(&self.options).unwrap_or_else(|error| panic!("{error}: {error:?}"))
    }

    /// A Service of one backend.
    fn serve(&self, id: u32, service: &str, backend: SocketAddr) {
        let frontend = address(service);
        let (service, generation) = (ServiceId::new(id), Generation::new(1));
        let slot = SlotKey {
            service,
            generation,
            index: SlotIndex::position(0),
        };
        let slot_value = SlotValue {
            addr: Addr16::from_ip(backend.ip()),
            backend: BackendId::new(id),
            position: 0,
            port: PortBe::new(backend.port()),
            locality: svclb_common::Locality::REMOTE,
            reserved: 0,
        };
        let key = FrontendKey {
            addr: Addr16::from_ip(frontend.ip()),
            port: PortBe::new(frontend.port()),
            proto: Proto::UDP,
            scope: Scope::ANY,
        };
        let value = FrontendValue {
            service,
            generation,
            internal: SlotRange { first: 0, count: 1 },
            ..FrontendValue::default()
        };
        let mut maps = self.open().maps().unwrap();
        maps.perform(&[Op::PutSlot(slot, slot_value)]).unwrap();
        maps.perform(&[Op::PutFrontend(key, value)]).unwrap();
    }

    /// What is made inside the cgroup: a socket stays in the one that it was made in.
    fn inside<T>(&self, make: impl FnOnce() -> T) -> T {
        let pid = process::id().to_string();
        fs::write(self.options.cgroup.join("cgroup.procs"), &pid).unwrap();
        let made = panic::catch_unwind(panic::AssertUnwindSafe(make));
        fs::write(self.outside.join("cgroup.procs"), &pid).unwrap();
        made.unwrap_or_else(|reason| panic::resume_unwind(reason))
    }

    fn sockets(&self) -> UdpSockets {
        UdpSockets::open(&self.options.pin_dir).unwrap()
    }

    fn connected(&self, local: &str, peer: impl Into<SocketAddr>) -> Socket {
        self.inside(|| connect(Socket::bind(local).unwrap(), peer.into()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = cleanup(&self.options.pin_dir);
        let gone = fs::remove_dir(&self.options.cgroup);
        if !thread::panicking() {
            removed.unwrap();
            gone.unwrap();
            assert!(!self.options.pin_dir.exists());
        }
    }
}

/// A process that does nothing, to keep a namespace findable.
struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs in a network namespace of its own with the loopback interface up.
fn in_namespace<T: Send>(flags: CloneFlags, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET | flags).unwrap();
        let mut up = Command::new("ip");
        up.args(["link", "set", "lo", "up"]);
        assert!(up.status().unwrap().success());
        work()
    };
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|reason| panic::resume_unwind(reason))
}

/// As [`in_namespace`], and a process is in it.
fn in_kept_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    in_namespace(CloneFlags::empty(), || {
        let _keeper = Keeper(Command::new("sleep").arg("120").spawn().unwrap());
        work()
    })
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn connect(socket: Socket, peer: SocketAddr) -> Socket {
    socket.connect(peer).unwrap();
    socket
}

fn bound(address: &str) -> (Socket, SocketAddr) {
    let socket = Socket::bind(address).unwrap();
    let local = socket.local_addr().unwrap();
    (socket, local)
}

/// A destroyed socket has no peer to send to, and an error for the process that reads.
fn is_destroyed(socket: &Socket) -> bool {
    const EDESTADDRREQ: i32 = 89;
    let Err(error) = socket.send(b"?") else {
        return false;
    };
    assert_eq!(error.raw_os_error(), Some(EDESTADDRREQ), "{error}");
    let error = socket.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
    true
}

#[test]
fn a_socket_connected_to_a_service_is_found_and_destroyed_and_no_other_one() {
    let place = Place::new();
    in_kept_namespace(|| {
        let (backend4, at4) = bound(ANY4);
        let (_backend6, at6) = bound(ANY6);
        place.serve(1, SERVICE4, at4);
        place.serve(2, SERVICE6, at6);
        let direct = place.connected(ANY4, at4);
        let mapped = format!("[::ffff:127.0.0.1]:{}", at4.port());
        let direct_mapped = place.connected("[::]:0", address(&mapped));
        for (local, service, shown, at) in [
            (ANY4, SERVICE4, SERVICE4, at4),
            ("[::]:0", SERVICE6, SERVICE6, at6),
            ("[::]:0", SERVICE4_MAPPED, SERVICE4, at4),
        ] {
            let client = place.connected(local, address(service));
            client.send(b"alive").unwrap();
            let found = place.sockets().scan().unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].frontend, address(shown));
            assert_eq!(found[0].backend, Some(at));

            let result = place.sockets().destroy(&found);
            assert_eq!(result.destroyed, 1, "{result:?}");
            assert!(result.gone == 0 && result.failed.is_empty(), "{result:?}");
            assert!(is_destroyed(&client), "{service}");
            assert!(place.sockets().scan().unwrap().is_empty());
        }
        assert!(!is_destroyed(&direct) && !is_destroyed(&direct_mapped));
        let received = (0..4).map(|_| backend4.recv(&mut [0; 8]).unwrap());
        assert_eq!(received.collect::<Vec<_>>(), [5, 5, 1, 1]);
    });
}

#[test]
fn a_socket_without_a_peer_or_connected_to_the_backend_itself_is_not_reported() {
    let place = Place::new();
    in_kept_namespace(|| {
        let (_backend, at) = bound(ANY4);
        place.serve(1, SERVICE4, at);
        let (_other, other_address) = bound(ANY4);
        let _unconnected = place.inside(|| {
            let socket = Socket::bind(ANY4).unwrap();
            socket.send_to(b"hello", SERVICE4).unwrap();
            socket
        });
        let _itself = connect(place.connected(ANY4, address(SERVICE4)), at);
        let moved = connect(place.connected(ANY4, address(SERVICE4)), other_address);
        let found = place.sockets().scan().unwrap();
        assert!(found.is_empty(), "{found:?}");
        // The storage was there all the time.
        let moved = connect(moved, address(SERVICE4));
        assert_eq!(place.sockets().scan().unwrap().len(), 1);
        drop(moved);
    });
}

#[test]
fn a_socket_keeps_its_translation_over_an_update_from_an_agent_with_the_maps_former_name() {
    let place = Place::new();
    in_kept_namespace(|| {
        let (_backend, at) = bound(ANY4);
        place.serve(1, SERVICE4, at);
        let client = place.connected(ANY4, address(SERVICE4));
        let maps = place.options.pin_dir.join("maps");
        fs::rename(maps.join("UDP_TRANSLATIONS"), maps.join("PEER_RINGS")).unwrap();

        place.open().attach().unwrap();
        let peer = client.peer_addr().unwrap();
        assert_eq!(peer, address(SERVICE4));
        assert_eq!(place.sockets().scan().unwrap().len(), 1);
        assert!(!maps.join("PEER_RINGS").exists());
    });
}

#[test]
fn sockets_with_the_same_addresses_in_two_namespaces_are_two() {
    let place = Place::new();
    let client = || {
        in_namespace(CloneFlags::empty(), || {
            let client = place.connected("127.0.0.1:4001", address(SERVICE4));
            // Outside the closure they are still in that namespace.
            (
                client,
                Keeper(Command::new("sleep").arg("120").spawn().unwrap()),
            )
        })
    };
    place.serve(1, SERVICE4, address("127.0.0.1:4000"));
    let (first, second) = (client(), client());
    let before = fs::metadata("/proc/thread-self/ns/net").unwrap();
    let found = place.sockets().scan().unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_ne!(found[0].cookie(), found[1].cookie());
    assert_eq!(place.sockets().destroy(&found[..1]).destroyed, 1);
    let left = place.sockets().scan().unwrap();
    assert_eq!(left, &found[1..]);
    let errors = [&first, &second].map(|(socket, _)| socket.take_error().unwrap().is_some());
    assert_ne!(errors[0], errors[1]);
    // This thread did not move.
    let after = fs::metadata("/proc/thread-self/ns/net").unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::ino(&before),
        std::os::unix::fs::MetadataExt::ino(&after)
    );
}

#[test]
fn a_namespace_with_a_name_and_no_process_is_searched() {
    let place = Place::new();
    // Its own mounts too: nothing that is mounted here is seen outside.
    in_namespace(CloneFlags::CLONE_NEWNS, || {
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        mount(none, "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        fs::create_dir("/run/netns").unwrap();
        fs::write("/run/netns/stale", "").unwrap();
        fs::write("/run/netns/named", "").unwrap();

        place.serve(1, SERVICE4, address("127.0.0.1:4000"));
        let client = place.connected(ANY4, address(SERVICE4));
        assert!(place.sockets().scan().unwrap().is_empty());
        let (from, to) = ("/proc/thread-self/ns/net", "/run/netns/named");
        mount(Some(from), to, none, MsFlags::MS_BIND, none).unwrap();
        let found = place.sockets().scan().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(place.sockets().destroy(&found).destroyed, 1);
        assert!(is_destroyed(&client));
    });
}

/// A socket that shares its address and port, and is connected to the Service.
fn sharing(place: &Place, local: SocketAddr) -> Socket {
    place.inside(|| {
        let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&local.into()).unwrap();
        connect(Socket::from(socket), address(SERVICE4))
    })
}

#[test]
fn sockets_that_share_all_addresses_are_all_destroyed() {
    let place = Place::new();
    in_kept_namespace(|| {
        let (_backend, at) = bound(ANY4);
        place.serve(1, SERVICE4, at);
        let local = address("127.0.0.1:4001");
        let clients = [(); 3].map(|()| sharing(&place, local));
        let mut found = place.sockets().scan().unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        // Whichever the kernel finds first, one of the two orders needs another one.
        found.reverse();
        let result = place.sockets().destroy(&found);
        assert_eq!(result.destroyed, 3, "{result:?}");
        assert!(clients.iter().all(is_destroyed));
    });
}

#[test]
fn a_socket_that_is_gone_is_counted_and_its_successor_is_not_touched() {
    let place = Place::new();
    in_kept_namespace(|| {
        let (_backend, at) = bound(ANY4);
        place.serve(1, SERVICE4, at);
        let client = place.connected("127.0.0.1:4001", address(SERVICE4));
        let found = place.sockets().scan().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        drop(client);
        let result = place.sockets().destroy(&found);
        assert!(result.destroyed == 0 && result.gone == 1, "{result:?}");

        let successor = place.connected("127.0.0.1:4001", address(SERVICE4));
        let result = place.sockets().destroy(&found);
        assert!(result.destroyed == 0 && result.gone == 1, "{result:?}");
        assert!(!is_destroyed(&successor));
    });
}

#[test]
fn a_socket_whose_namespace_is_gone_is_counted_as_gone() {
    let place = Place::new();
    let found = in_kept_namespace(|| {
        place.serve(1, SERVICE4, address("127.0.0.1:4000"));
        let _client = place.connected(ANY4, address(SERVICE4));
        place.sockets().scan().unwrap()
    });
    assert_eq!(found.len(), 1, "{found:?}");
    let result = place.sockets().destroy(&found);
    assert!(result.gone == 1 && result.failed.is_empty(), "{result:?}");
}

#[test]
fn more_sockets_than_one_reply_holds_are_all_found() {
    let place = Place::new();
    in_kept_namespace(|| {
        place.serve(1, SERVICE4, address("127.0.0.1:4000"));
        let clients: Vec<_> = place.inside(|| {
            let client = |_| connect(Socket::bind(ANY4).unwrap(), address(SERVICE4));
            (0..300).map(client).collect()
        });
        let found = place.sockets().scan().unwrap();
        assert_eq!(found.len(), clients.len());
        assert_eq!(place.sockets().destroy(&found).destroyed, clients.len());
        assert!(clients.iter().all(is_destroyed));
    });
}

#[test]
fn this_kernel_can_destroy_sockets() {
    in_namespace(CloneFlags::empty(), || assert!(can_destroy()));
}

#[test]
fn without_pins_there_is_nothing_to_open_and_the_error_says_what_to_do() {
    let pin_dir = find_bpffs().unwrap().join("svclb-test-none");
    let error = UdpSockets::open(&pin_dir).unwrap_err().to_string();
    assert!(error.contains("--pin-dir"), "{error}");
}
