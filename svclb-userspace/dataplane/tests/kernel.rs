//! The data path on this machine's kernel. Needs root; attaches only to a cgroup of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::Read;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, io, panic, process, thread};

use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use svclb_common::contract::CONTRACT;
use svclb_common::maps::{self, Sizes};
use svclb_common::{
    ABI_VERSION, Addr16, BackendId, BackendValue, FlowKey, FlowValue, FrontendKey, FrontendValue,
    Generation, Hook, Label, Meta, PortBe, Proto, Scope, ServiceFamily, ServiceId, ServiceRecord,
    SlotIndex, SlotKey, SlotValue, SourceKey, SourceRange, Tuple,
};
use svclb_core::apply::Maps;
use svclb_core::conntrack::Timeouts;
use svclb_core::op::Op;
use svclb_core::ports::PortBit;
use svclb_core::writer::{Drift, Writer};
use svclb_dataplane::{
    Attached, Attachment, Dataplane, DevicePrograms, Forwarding, Options, PROGRAMS, Pinned,
    PortRange, XdpMode, cleanup, find_bpffs, find_cgroup2,
};

/// The programs that forward past the kernel, with XDP.
const fn direct(xdp: XdpMode) -> DevicePrograms {
    DevicePrograms {
        forwarding: Forwarding::Direct,
        has_ethernet: true,
        xdp,
    }
}

/// A pin directory and a cgroup of this test alone, both gone when it is dropped.
struct Place(Options);

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let root = status.lines().any(|l| l.starts_with("Uid:\t0\t0"));
        assert!(
            root,
            "this test loads eBPF programs and so must run as root"
        );
        let name = format!(
            "svclb-test-{}-{}",
            process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let cgroup = find_cgroup2().unwrap().join(&name);
        fs::create_dir(&cgroup).unwrap();
        Self(Options {
            pin_dir: find_bpffs().unwrap().join(&name),
            cgroup,
            sizes: Sizes {
                slots: 1000,
                peers: 1024,
                ..Sizes::DEFAULT
            },
            source_ports: PortRange::new(50_000, 50_999).unwrap(),
            external_cluster_ips: true,
            pod_devices: true,
            mark: 0x4000,
            conntrack: Timeouts::default(),
            packets: true,
            forwarding: Forwarding::Direct,
        })
    }

    fn open(&self) -> Dataplane {
        Dataplane::open(&self.0).unwrap_or_else(|error| panic!("{error}: {error:?}"))
    }

    fn pin_dir(&self) -> &Path {
        &self.0.pin_dir
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = cleanup(&self.0.pin_dir);
        let gone = fs::remove_dir(&self.0.cgroup);
        if !std::thread::panicking() {
            removed.unwrap();
            gone.unwrap();
            assert!(!self.0.pin_dir.exists(), "the pin directory is still there");
        }
    }
}

fn slot(generation: u32, position: u32) -> (SlotKey, SlotValue) {
    let key = SlotKey {
        service: ServiceId::new(1),
        generation: Generation::new(generation),
        index: SlotIndex::position(position),
    };
    let value = SlotValue {
        addr: Addr16::from_ip([10, 0, 0, 1].into()),
        backend: BackendId::new(position + 1),
        position,
        port: PortBe::new(80),
        locality: svclb_common::Locality::REMOTE,
        reserved: 0,
    };
    (key, value)
}

fn put_slots(generation: u32, count: u32) -> Vec<Op> {
    (0..count)
        .map(|position| slot(generation, position))
        .map(|(key, value)| Op::PutSlot(key, value))
        .collect()
}

#[test]
fn every_program_passes_the_verifier_and_attaches_with_a_pinned_link() {
    let place = Place::new();
    let attached = place.open().attach().unwrap();
    assert_eq!(attached.len(), PROGRAMS.len());
    assert!(attached.iter().all(|how| matches!(how, Attachment::New(_))));
    assert_eq!(
        Pinned::open(place.pin_dir()).unwrap().attached().len(),
        PROGRAMS.len()
    );
    // A second agent takes the links over.
    let attached = place.open().attach().unwrap();
    assert!(
        attached
            .iter()
            .all(|how| matches!(how, Attachment::Replaced(_)))
    );
}

#[test]
fn what_is_written_is_read_back_by_the_next_agent() {
    let place = Place::new();
    let record = ServiceRecord {
        namespace: Label::new("default").unwrap(),
        name: Label::new("web").unwrap(),
        port_name: Label::new("").unwrap(),
        proto: Proto::TCP,
        family: ServiceFamily::V4,
        reserved: [0; 2],
    };
    let backend = BackendValue::new(
        Addr16::from_ip([10, 0, 0, 1].into()),
        PortBe::new(80),
        Proto::TCP,
    );
    let key = FrontendKey {
        addr: Addr16::from_ip([10, 96, 0, 1].into()),
        port: PortBe::new(80),
        proto: Proto::TCP,
        scope: Scope::ANY,
    };
    let value = FrontendValue {
        service: ServiceId::new(1),
        ..FrontendValue::default()
    };
    let mut maps = place.open().maps().unwrap();
    maps.perform(&[Op::PutService(ServiceId::new(1), Box::new(record))])
        .unwrap();
    maps.perform(&[Op::PutBackend(BackendId::new(7), backend)])
        .unwrap();
    maps.perform(&put_slots(1, 900)).unwrap();
    maps.perform(&[Op::PutFrontend(key, value)]).unwrap();
    drop(maps);

    let snapshot = place.open().maps().unwrap().snapshot().unwrap();
    assert_eq!(snapshot.services[&ServiceId::new(1)], record);
    assert_eq!(snapshot.backends[&BackendId::new(7)], backend);
    assert_eq!(snapshot.frontends[&key], value);
    assert_eq!(
        snapshot.slots,
        (0..900).map(|p| slot(1, p)).collect::<Vec<_>>()
    );
}

/// Source ranges of one Service, each of one address.
fn source_ranges(count: u32) -> Vec<SourceKey> {
    let range = |number: u32| SourceRange {
        addr: Addr16::from_ip(Ipv6Addr::from(u128::from(number) + (0xfd00 << 112)).into()),
        bits: 128,
    };
    let key = |number| SourceKey::new(ServiceId::new(1), Generation::new(1), range(number));
    (0..count).map(key).collect()
}

#[test]
fn every_source_range_is_read_back_once_however_many_there_are() {
    let place = Place::new();
    let mut maps = place.open().maps().unwrap();
    for count in [1, 4096, 4097, 6000] {
        let ranges = source_ranges(count);
        let ops: Vec<_> = ranges.iter().copied().map(Op::PutSource).collect();
        maps.perform(&ops).unwrap();
        let read = maps.snapshot().unwrap().sources;
        assert!(
            read == ranges.into_iter().collect(),
            "{count} ranges were written and {} read",
            read.len()
        );
    }
}

#[test]
fn the_error_of_a_full_map_has_how_much_was_written() {
    let place = Place::new();
    let mut maps = place.open().maps().unwrap();
    let failure = maps.perform(&put_slots(1, 1500)).unwrap_err();
    assert!(failure.full, "{failure}");
    assert_eq!(failure.done, 1000);
    assert_eq!(maps.snapshot().unwrap().slots.len(), 1000);
}

#[test]
fn deleting_what_is_not_there_is_a_success() {
    let place = Place::new();
    let mut maps = place.open().maps().unwrap();
    maps.perform(&put_slots(1, 10)).unwrap();
    let deletes: Vec<_> = (0..20).map(|p| Op::DeleteSlot(slot(1, p).0)).collect();
    maps.perform(&deletes).unwrap();
    assert!(maps.snapshot().unwrap().slots.is_empty());
    maps.perform(&deletes).unwrap();
}

/// The words of `PORTS`, as another program has them.
fn port_words(place: &Place) -> Array<MapData, u64> {
    let pinned = MapData::from_pin(place.pin_dir().join("maps/PORTS")).unwrap();
    Array::try_from(Map::Array(pinned)).unwrap()
}

#[test]
fn bits_of_ports_are_set_and_cleared_one_by_one() {
    let place = Place::new();
    let mut maps = place.open().maps().unwrap();
    let [a, b, c] = [80, 81, 8080].map(|port| PortBit::ingress(PortBe::new(port)));
    let d = PortBit::egress(PortBe::new(80));
    maps.perform(&[a, b, c, d, a].map(Op::SetPort)).unwrap();
    maps.perform(&[b, b].map(Op::ClearPort)).unwrap();
    let set: Vec<_> = maps.snapshot().unwrap().ports.iter().collect();
    assert_eq!(set, [a, c, d]);
}

#[test]
fn a_bit_that_another_program_cleared_is_drift_and_is_set_again() {
    let place = Place::new();
    let dataplane = place.open();
    let maps = dataplane.maps().unwrap();
    let mut writer = Writer::adopt(maps, dataplane.port_rules()).unwrap();
    assert_eq!(writer.audit().unwrap(), Drift::default());
    let mut words = port_words(&place);
    let (index, mask) = PortBit::ingress(PortBe::new(50_999)).place();
    let before = words.get(&index, 0).unwrap();
    assert_ne!(before & mask, 0, "a source port has its bit");
    words.set(index, before & !mask, 0).unwrap();
    assert_eq!(writer.audit().unwrap().ports, 1);
    assert_eq!(words.get(&index, 0).unwrap(), before);
    assert_eq!(writer.audit().unwrap(), Drift::default());
}

/// The ports whose bits an agent that starts with this data path leaves set.
fn adopted_bits(dataplane: &Dataplane) -> Vec<u16> {
    let maps = dataplane.maps().unwrap();
    let mut writer = Writer::adopt(maps, dataplane.port_rules()).unwrap();
    let _cleared = writer.clear_ports().unwrap();
    let ports = writer.maps().snapshot().unwrap().ports;
    ports.iter().map(|bit| bit.port.get()).collect()
}

#[test]
fn a_start_sets_the_bits_of_its_source_ports_and_clears_those_of_others() {
    let mut place = Place::new();
    let bits = |place: &Place| adopted_bits(&place.open());
    assert_eq!(bits(&place), (50_000..=50_999).collect::<Vec<_>>());
    // No program was attached that chooses from those.
    place.0.source_ports = PortRange::new(60_000, 60_099).unwrap();
    assert_eq!(bits(&place), (60_000..=60_099).collect::<Vec<_>>());
}

#[test]
fn bits_of_an_earlier_range_are_kept_until_an_agent_starts_after_its_programs_are_replaced() {
    in_namespace(|| {
        let mut place = Place::new();
        let [first, second] =
            [(50_000, 50_999), (60_000, 60_099)].map(|(first, last)| first..=last);
        let both: Vec<u16> = first.clone().chain(second.clone()).collect();
        place.open().give_back_source_ports().unwrap();
        place.0.source_ports = PortRange::new(60_000, 60_099).unwrap();
        // One that ends before it has attached its programs changes nothing.
        for _ in 0..2 {
            assert_eq!(adopted_bits(&place.open()), both);
        }
        let ready = place.open();
        assert_eq!(adopted_bits(&ready), both);
        ready.give_back_source_ports().unwrap();
        drop(ready);
        assert_eq!(adopted_bits(&place.open()), second.collect::<Vec<_>>());
    });
}

#[test]
fn bits_of_ports_that_an_agent_reserved_are_kept_although_it_ended_before_it_was_ready() {
    in_namespace(|| {
        let mut place = Place::new();
        place.open().reserve_source_ports().unwrap();
        place.0.source_ports = PortRange::new(60_000, 60_099).unwrap();
        let both: Vec<u16> = (50_000..=50_999).chain(60_000..=60_099).collect();
        assert_eq!(adopted_bits(&place.open()), both);
    });
}

#[test]
fn a_grace_period_ends() {
    let place = Place::new();
    place.open().maps().unwrap().grace_period().unwrap();
}

#[test]
fn a_pinned_size_is_kept_with_a_warning() {
    let mut place = Place::new();
    drop(place.open());
    place.0.sizes.slots = 2000;
    let warnings = place.open().warnings().join("\n");
    assert!(
        warnings.contains("SLOTS holds 1000 entries and 2000"),
        "{warnings}"
    );
}

/// Makes the pinned maps those of another layout version.
fn set_version(place: &Place, abi_version: u32) {
    let pinned = MapData::from_pin(place.pin_dir().join("maps/META")).unwrap();
    let mut meta = Array::<_, [u32; 3]>::try_from(Map::Array(pinned)).unwrap();
    let other: [u32; 3] = zerocopy::transmute!(Meta {
        abi_version,
        ..Meta::CURRENT
    });
    meta.set(0, other, 0).unwrap();
}

/// The kernel's number of a pinned map.
fn id(place: &Place, map: &str) -> u32 {
    let path = place.pin_dir().join("maps").join(map);
    MapData::from_pin(path).unwrap().info().unwrap().id()
}

fn entries(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.pin_dir()).unwrap();
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn maps_of_another_layout_are_replaced_by_new_ones_that_were_made_beside_them() {
    for (found, keeps_sockets) in [(1, true), (ABI_VERSION + 1, false)] {
        let place = Place::new();
        place.open().attach().unwrap();
        set_version(&place, found);
        let before = ["PEERS", "FRONTENDS", "META"].map(|map| id(&place, map));

        let mut dataplane = place.open();
        let warnings = dataplane.warnings().join("\n");
        assert!(
            warnings.contains(&format!("layout version {found}")),
            "{warnings}"
        );
        assert_eq!(warnings.contains("newer"), !keeps_sockets, "{warnings}");
        // Until it has everything, the old ones stand.
        assert_eq!(
            entries(&place),
            ["links", "maps", "maps-new", "reserved_ports"]
        );
        assert_eq!(before[1], id(&place, "FRONTENDS"));
        let error = Pinned::open(place.pin_dir()).err().unwrap().to_string();
        assert!(error.contains("layout"), "{error}");

        let attached = dataplane.attach().unwrap();
        let replaced = |how: &Attachment| matches!(how, Attachment::Replaced(_));
        assert!(attached.iter().all(replaced), "{attached:?}");
        dataplane.migrate().unwrap();
        assert_eq!(entries(&place), ["links", "maps", "reserved_ports"]);
        assert!(Pinned::open(place.pin_dir()).is_ok());
        let after = ["PEERS", "FRONTENDS", "META"].map(|map| id(&place, map));
        assert_eq!(before[0] == after[0], keeps_sockets);
        assert!(before[1] != after[1] && before[2] != after[2]);
        assert_eq!(dataplane.pin_again().unwrap(), 0);
        drop(dataplane);
        assert!(place.open().warnings().is_empty());
    }
}

/// Pins a map under the name that an earlier agent gave it.
fn rename_pin(place: &Place, name: &str, former: &str) {
    let maps = place.pin_dir().join("maps");
    fs::rename(maps.join(name), maps.join(former)).unwrap();
}

#[test]
fn a_map_with_a_former_name_is_adopted_and_shared_and_removed() {
    let place = Place::new();
    drop(place.open());
    let map = id(&place, "UDP_TRANSLATIONS");
    let former = place.pin_dir().join("maps/PEER_RINGS");

    // The same layout: the pin gets the new name.
    rename_pin(&place, "UDP_TRANSLATIONS", "PEER_RINGS");
    drop(place.open());
    assert_eq!(id(&place, "UDP_TRANSLATIONS"), map);
    assert!(!former.exists());

    // After a downgrade the earlier agent has made a map of its own, and uses that.
    drop(place.open());
    rename_pin(&place, "UDP_TRANSLATIONS", "PEER_RINGS");
    rename_pin(&place, "FRAGMENTS", "UDP_TRANSLATIONS");
    drop(place.open());
    assert_eq!(id(&place, "UDP_TRANSLATIONS"), map);
    assert!(!former.exists());

    // Another layout, in which this map is the same: both agents have it until the end.
    rename_pin(&place, "UDP_TRANSLATIONS", "PEER_RINGS");
    set_version(&place, 1);
    let mut dataplane = place.open();
    assert!(former.exists());
    dataplane.migrate().unwrap();
    drop(dataplane);
    assert_eq!(id(&place, "UDP_TRANSLATIONS"), map);
    assert!(!former.exists());

    // A cleanup removes it under either name.
    rename_pin(&place, "UDP_TRANSLATIONS", "PEER_RINGS");
    let removed = cleanup(place.pin_dir()).unwrap();
    assert!(removed.contains(&former), "{removed:?}");
    assert!(!place.pin_dir().exists());
}

#[test]
fn an_agent_that_dies_while_it_replaces_maps_is_followed_by_one_that_does() {
    let place = Place::new();
    place.open().attach().unwrap();
    set_version(&place, 1);
    drop(place.open());
    assert_eq!(
        entries(&place),
        ["links", "maps", "maps-new", "reserved_ports"]
    );
    assert_eq!(place.open().warnings().len(), 1);
    // Or between its last two steps.
    let pins = place.pin_dir();
    fs::rename(pins.join("maps"), pins.join("maps-old")).unwrap();
    let new = place.open();
    assert!(new.warnings().is_empty(), "{:?}", new.warnings());
    assert_eq!(entries(&place), ["links", "maps", "reserved_ports"]);
    drop(new);
    // And a cleanup takes all of it.
    set_version(&place, 1);
    drop(place.open());
    cleanup(pins).unwrap();
    assert!(!pins.exists());
}

#[test]
fn after_a_death_between_the_last_two_steps_a_cleanup_detaches_from_devices_too() {
    in_namespace(|| {
        fs::write(RESERVED, "50990-51005").unwrap();
        let place = Place::new();
        let mut earlier = place.open();
        earlier.reserve_source_ports().unwrap();
        let loopback = if_nametoindex("lo").unwrap();
        earlier
            .attach_device("lo", loopback, direct(XdpMode::Generic))
            .unwrap();
        drop(earlier);
        set_version(&place, 1);
        drop(place.open());
        let pins = place.pin_dir();
        fs::rename(pins.join("maps"), pins.join("maps-old")).unwrap();
        cleanup(pins).unwrap();
        assert_eq!(shown_xdp("lo"), None);
        assert_eq!(reserved(), "50990-51005");
        assert!(!pins.exists());
    });
}

/// Runs on a thread with a network namespace of its own, whose sysctls are its own too.
fn in_namespace(work: impl FnOnce() + Send) {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        work();
    };
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|reason| panic::resume_unwind(reason));
}

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The reserved ports. (The kernel gives the list to the first read alone.)
fn reserved() -> String {
    let mut buffer = [0; 1 << 16];
    let length = File::open(RESERVED).unwrap().read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
}

#[test]
fn a_changed_range_of_source_ports_gives_back_the_earlier_one_and_no_port_of_others() {
    in_namespace(|| {
        fs::write(RESERVED, "8080,50990-51005").unwrap();
        let mut place = Place::new();
        let start = |place: &Place| place.open().reserve_source_ports().unwrap();
        // And has attached its programs.
        let is_ready = |place: &Place| place.open().give_back_source_ports().unwrap();
        start(&place);
        is_ready(&place);
        assert_eq!(reserved(), "8080,50000-51005");
        // A restart changes nothing.
        start(&place);
        is_ready(&place);
        assert_eq!(reserved(), "8080,50000-51005");

        place.0.source_ports = PortRange::new(50_500, 52_000).unwrap();
        start(&place);
        assert_eq!(reserved(), "8080,50000-52000");
        is_ready(&place);
        assert_eq!(reserved(), "8080,50500-52000");
        // Others reserve a port next to the range.
        fs::write(RESERVED, "8080,50500-52001").unwrap();
        place.0.source_ports = PortRange::new(40_000, 40_999).unwrap();
        start(&place);
        is_ready(&place);
        assert_eq!(reserved(), "8080,40000-40999,50990-51005,52001");

        cleanup(place.pin_dir()).unwrap();
        assert_eq!(reserved(), "8080,50990-51005,52001");
    });
}

#[test]
fn a_long_list_of_reserved_ports_is_kept_whole() {
    in_namespace(|| {
        let others: Vec<_> = (0..2000).map(|n| (2000 + 2 * n).to_string()).collect();
        let others = others.join(",");
        fs::write(RESERVED, &others).unwrap();
        let place = Place::new();
        place.open().reserve_source_ports().unwrap();
        assert_eq!(reserved(), format!("{others},50000-50999"));
        cleanup(place.pin_dir()).unwrap();
        assert_eq!(reserved(), others);
    });
}

#[test]
fn ports_of_others_are_kept_after_an_agent_that_ended_before_it_reserved() {
    in_namespace(|| {
        fs::write(RESERVED, "8080,50100").unwrap();
        let place = Place::new();
        drop(place.open());
        place.open().reserve_source_ports().unwrap();
        assert_eq!(reserved(), "8080,50000-50999");
        cleanup(place.pin_dir()).unwrap();
        assert_eq!(reserved(), "8080,50100");
    });
}

#[test]
fn the_record_of_reserved_ports_is_pinned_again() {
    let place = Place::new();
    let mut dataplane = place.open();
    let record = place.pin_dir().join("reserved_ports");
    fs::remove_file(&record).unwrap();
    assert_eq!(dataplane.pin_again().unwrap(), 1);
    assert!(record.exists());
}

#[test]
fn a_range_that_an_earlier_version_reserved_is_given_back() {
    in_namespace(|| {
        let mut place = Place::new();
        // It wrote the range into META, and nothing else.
        place.open().give_back_source_ports().unwrap();
        fs::remove_file(place.pin_dir().join("reserved_ports")).unwrap();
        fs::write(RESERVED, "8080,50000-50999").unwrap();
        place.0.source_ports = PortRange::new(40_000, 40_999).unwrap();
        let dataplane = place.open();
        dataplane.reserve_source_ports().unwrap();
        dataplane.give_back_source_ports().unwrap();
        assert_eq!(reserved(), "8080,40000-40999");
    });
}

#[test]
fn pins_attached_to_another_cgroup_are_refused() {
    let place = Place::new();
    place.open().attach().unwrap();
    let other = Place::new();
    let options = Options {
        cgroup: other.0.cgroup.clone(),
        ..place.0.clone()
    };
    let error = Dataplane::open(&options)
        .unwrap()
        .attach()
        .unwrap_err()
        .to_string();
    assert!(error.contains("another cgroup"), "{error}");
}

#[test]
fn the_reason_why_a_device_has_no_native_xdp_is_reported() {
    in_namespace(|| {
        let place = Place::new();
        let mut dataplane = place.open();
        let loopback = if_nametoindex("lo").unwrap();
        let mut attach = |mode| {
            dataplane
                .attach_device("lo", loopback, direct(mode))
                .unwrap()
        };
        let attached = attach(XdpMode::Auto);
        assert_eq!(attached.by, Attached::Tc);
        let error = attached.native_xdp_error.unwrap();
        assert_eq!(error.raw_os_error(), Some(Errno::EOPNOTSUPP as i32));
        for mode in [XdpMode::Off, XdpMode::Generic] {
            assert!(attach(mode).native_xdp_error.is_none());
        }
    });
}

#[test]
fn a_port_of_an_earlier_range_stays_reserved_while_a_flow_uses_it() {
    in_namespace(|| {
        let mut place = Place::new();
        let start = |place: &Place| {
            let dataplane = place.open();
            dataplane.reserve_source_ports().unwrap();
            dataplane.give_back_source_ports().unwrap();
        };
        start(&place);
        let pinned = MapData::from_pin(place.pin_dir().join("maps/FLOWS")).unwrap();
        let mut flows: HashMap<_, [u8; size_of::<FlowKey>()], [u8; size_of::<FlowValue>()]> =
            HashMap::try_from(Map::HashMap(pinned)).unwrap();
        let reply = Tuple {
            src: Addr16::from_ip([10, 0, 0, 1].into()),
            dst: Addr16::from_ip([192, 0, 2, 1].into()),
            src_port: PortBe::new(80),
            dst_port: PortBe::new(50_100),
        };
        let key = FlowKey::new(reply, Proto::TCP, Hook::INGRESS);
        let key = zerocopy::transmute!(key);
        flows.insert(key, [0; size_of::<FlowValue>()], 0).unwrap();

        place.0.source_ports = PortRange::new(40_000, 40_999).unwrap();
        start(&place);
        assert_eq!(reserved(), "40000-40999,50100");
        flows.remove(&key).unwrap();
        start(&place);
        assert_eq!(reserved(), "40000-40999");
    });
}

/// Runs `ip` in the network namespace of this thread.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// How `ip` shows the XDP program of a device.
fn shown_xdp(device: &str) -> Option<&'static str> {
    let shown = ip(&format!("-o link show {device}"));
    let words: Vec<_> = shown.split_whitespace().collect();
    ["xdpgeneric", "xdp"].into_iter().find(|word| {
        words
            .iter()
            .any(|shown| shown.split('/').next() == Some(word))
    })
}

#[test]
fn a_device_without_native_xdp_loses_the_generic_one_of_an_earlier_agent() {
    in_namespace(|| {
        let place = Place::new();
        let loopback = if_nametoindex("lo").unwrap();
        let attach = |mode| place.open().attach_device("lo", loopback, direct(mode));
        assert_eq!(attach(XdpMode::Generic).unwrap().by, Attached::GenericXdp);
        assert_eq!(shown_xdp("lo"), Some("xdpgeneric"));
        let attached = attach(XdpMode::Auto).unwrap();
        assert_eq!(attached.by, Attached::Tc);
        let error = attached.native_xdp_error.unwrap();
        assert_eq!(error.raw_os_error(), Some(Errno::EOPNOTSUPP as i32));
        assert_eq!(shown_xdp("lo"), None);
    });
}

#[test]
fn another_way_to_forward_takes_the_place_of_an_earlier_agents_without_a_gap() {
    in_namespace(|| {
        let place = Place::new();
        ip("link add veth0 type veth peer name veth1");
        let index = if_nametoindex("veth0").unwrap();
        let attach = |programs| {
            let mut dataplane = place.open();
            dataplane.attach_device("veth0", index, programs).unwrap()
        };
        let kernel = DevicePrograms {
            forwarding: Forwarding::Kernel,
            ..direct(XdpMode::Auto)
        };
        let first = attach(direct(XdpMode::Auto));
        assert_eq!((first.by, first.new), (Attached::NativeXdp, 3));
        // The programs of tc are replaced where they are, and XDP goes.
        let second = attach(kernel);
        assert_eq!((second.by, second.new), (Attached::Tc, 0));
        assert_eq!(shown_xdp("veth0"), None);
        let third = attach(direct(XdpMode::Auto));
        assert_eq!((third.by, third.new), (Attached::NativeXdp, 1));
    });
}

#[test]
fn another_xdp_mode_takes_the_place_of_an_earlier_agents() {
    in_namespace(|| {
        let place = Place::new();
        ip("link add veth0 type veth peer name veth1");
        let index = if_nametoindex("veth0").unwrap();
        for (mode, by, shown) in [
            (XdpMode::Generic, Attached::GenericXdp, "xdpgeneric"),
            (XdpMode::Auto, Attached::NativeXdp, "xdp"),
            (XdpMode::Generic, Attached::GenericXdp, "xdpgeneric"),
            (XdpMode::Native, Attached::NativeXdp, "xdp"),
        ] {
            let attached = place
                .open()
                .attach_device("veth0", index, direct(mode))
                .unwrap();
            assert_eq!(attached.by, by, "{mode:?}");
            assert_eq!(shown_xdp("veth0"), Some(shown), "{mode:?}");
            // The same again replaces the program.
            let again = place
                .open()
                .attach_device("veth0", index, direct(mode))
                .unwrap();
            assert_eq!((again.by, again.new), (by, 0), "{mode:?}");
        }
    });
}

#[test]
fn a_path_outside_a_bpffs_or_cgroup2_is_refused_with_what_to_do() {
    let place = Place::new();
    let error = |options: Options| Dataplane::open(&options).err().unwrap().to_string();
    let outside = error(Options {
        pin_dir: PathBuf::from("/proc/svclb"),
        ..place.0.clone()
    });
    assert!(outside.contains("--pin-dir"), "{outside}");
    let outside = error(Options {
        cgroup: PathBuf::from("/proc"),
        ..place.0.clone()
    });
    assert!(outside.contains("--cgroup"), "{outside}");
}

#[test]
fn cleaning_up_twice_is_cleaning_up_once() {
    let place = Place::new();
    place.open().attach().unwrap();
    let removed = cleanup(place.pin_dir()).unwrap();
    assert_eq!(removed.len(), PROGRAMS.len() + maps::all().count() + 4);
    assert!(cleanup(place.pin_dir()).unwrap().is_empty());
}

#[test]
fn the_kernels_maps_are_of_the_kinds_and_sizes_of_the_contract() {
    let place = Place::new();
    drop(place.open());
    for map in CONTRACT {
        let pin = place.pin_dir().join("maps").join(map.name);
        let info = MapInfo::from_pin(pin).unwrap();
        let layout = (
            info.map_type().unwrap() as u32,
            info.key_size() as usize,
            info.value_size() as usize,
        );
        let agreed = (map.kind as u32, map.key.size, map.value.size);
        assert_eq!(layout, agreed, "{}", map.name);
    }
}
