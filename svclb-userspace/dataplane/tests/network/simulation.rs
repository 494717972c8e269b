//! Who sends what to whom, and the oracle: it knows what each party sent and may expect, and nothing of
//! how that is done.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use svclb_common::Proto;

use super::node::{Device, Mode, Next, Node, PODS, Trace};
use super::objects::{
    self, NODES, PORT, SERVER_PORT, SERVICES, SOURCE_PORTS, TARGET, View, balanced, cluster_ip,
    node_ip, node_port, outside_ip, pod_ip,
};
use super::packet::{DATA, Label, Packet, Tcp};

const OUTSIDE: usize = 2;
/// How many connections there are at a time, at most.
const CONNECTIONS: usize = 48;
/// For how long UDP without a packet is taken to go on, at most.
const UDP_IDLE: Duration = Duration::from_secs(30);
/// The same for TCP.
const TCP_IDLE: Duration = Duration::from_secs(24 * 3600);

/// Who has sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Party {
    Outside(usize),
    Pod(usize, usize),
    Host(usize),
}

/// Whom a client asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Service(usize),
    /// Itself: as sockets do that were translated as they connected.
    Backend,
    /// Outside the cluster.
    Server,
}

/// A connection of TCP, or what a socket of UDP asks and is answered.
#[derive(Clone, Debug)]
struct Connection {
    proto: Proto,
    client: Party,
    local: SocketAddr,
    remote: SocketAddr,
    target: Target,
    /// The node where the packets of a Service come in.
    entry: usize,
    backend: Option<SocketAddr>,
    /// The next sequence numbers of client and server.
    next: [u32; 2],
    idle: Duration,
    /// Whether its backend did not serve at some time since its last packet.
    was_unserved: bool,
}

/// What became of a packet.
#[derive(Debug)]
enum Fate {
    Delivered(Party, Packet),
    /// A reset, or an ICMP error, went back.
    Refused,
    Dropped,
}

/// Why a series failed, and what was sent before.
pub(crate) type Failure = String;

pub(crate) struct Simulation {
    nodes: Vec<Node>,
    mode: Mode,
    view: View,
    /// Which node gets what is for a balancer's addresses.
    announced: [usize; SERVICES],
    connections: BTreeMap<u32, Connection>,
    clients: HashMap<(Proto, SocketAddr, SocketAddr), u32>,
    servers: HashMap<(Proto, SocketAddr, SocketAddr), u32>,
    /// The sockets of connections that were lost: a node may remember them.
    lost: HashSet<(Proto, SocketAddr, SocketAddr)>,
    last: u32,
    trace: Trace,
    log: Vec<String>,
}

impl Simulation {
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            nodes: (0..NODES).map(|node| Node::new(node, mode)).collect(),
            mode,
            view: View::default(),
            announced: [0; SERVICES],
            connections: BTreeMap::new(),
            clients: HashMap::new(),
            servers: HashMap::new(),
            lost: HashSet::new(),
            last: 0,
            trace: Trace::new(),
            log: Vec::new(),
        }
    }

    /// A series of steps, from nodes that know no flow to nodes that have forgotten all of them.
    pub(crate) fn series(&mut self, steps: usize) -> Result<(), Failure> {
        self.connections.clear();
        self.clients.clear();
        self.servers.clear();
        self.lost.clear();
        self.log.clear();
        for node in &mut self.nodes {
            node.reset();
            node.is_away = false;
        }
        self.change_endpoints();
        for _ in 0..steps {
            self.trace.clear();
            self.step().map_err(|fault| self.told(&fault))?;
        }
        for node in 0..NODES {
            self.come_back(node);
        }
        for node in &self.nodes {
            let entries = node.left_over();
            if entries > 0 {
                return Err(format!("{entries} entries are kept at {:?}", node.number));
            }
        }
        Ok(())
    }

    fn told(&self, fault: &str) -> Failure {
        let sent = self.trace.iter().map(|(node, hook, bytes)| {
            let packet = Packet::read(bytes);
            let packet = packet.map_or_else(String::new, |packet| format!("{packet:?}"));
            format!("  node {node} {hook}: {packet}")
        });
        let before = self.log.iter().rev().take(40);
        let before = before.map(|line| format!("  before: {line}"));
        let open = self.connections.iter();
        let open = open.map(|(id, connection)| format!("  open: {id} {connection:?}"));
        let first = format!("{:?}: {fault}", self.mode);
        let lines: Vec<_> = std::iter::once(first)
            .chain(sent)
            .chain(before)
            .chain(open)
            .collect();
        lines.join("\n")
    }

    fn step(&mut self) -> Result<(), Failure> {
        match fastrand::u8(0..100) {
            0..32 => self.open(),
            32..68 => self.for_any(Self::exchange),
            68..78 => self.for_any(Self::close),
            78..84 => self.for_any(Self::stray),
            84..93 => {
                let seconds = [1, 2, 5, 14, 31, 200, 4000];
                self.age(Duration::from_secs(
                    seconds[fastrand::usize(0..seconds.len())],
                ));
                Ok(())
            }
            93..95 => {
                self.change_endpoints();
                Ok(())
            }
            95..97 => {
                let service = fastrand::usize(0..SERVICES);
                self.announced[service] = fastrand::usize(0..NODES);
                self.log.push(format!("announced {:?}", self.announced));
                Ok(())
            }
            97 => {
                let node = fastrand::usize(0..NODES);
                self.log.push(format!("agent {node} is away"));
                self.nodes[node].is_away = true;
                Ok(())
            }
            _ => {
                self.come_back(fastrand::usize(0..NODES));
                Ok(())
            }
        }
    }

    fn for_any(&mut self, work: fn(&mut Self, u32) -> Result<(), Failure>) -> Result<(), Failure> {
        let count = self.connections.len();
        if count == 0 {
            return Ok(());
        }
        let which = self.connections.keys().nth(fastrand::usize(0..count));
        let id = *which.unwrap();
        work(self, id)
    }

    fn come_back(&mut self, node: usize) {
        if self.nodes[node].is_away {
            self.log.push(format!("agent {node} is back"));
            self.nodes[node].is_away = false;
            self.nodes[node].catch_up(&self.view);
            self.note_unserved();
        }
    }

    fn change_endpoints(&mut self) {
        self.view = View::random();
        self.log
            .push(format!("endpoints {:?}", self.view.endpoints));
        for node in &mut self.nodes {
            node.set_endpoints(&self.view);
        }
        self.note_unserved();
    }

    /// Notes whose backend does not serve now. Of UDP that ends the flow: its client is given another one.
    fn note_unserved(&mut self) {
        let gone: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, connection)| !self.still_serves(connection))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let connection = self.connections.get_mut(&id).unwrap();
            connection.was_unserved = true;
            if connection.proto == Proto::UDP {
                self.servers.retain(|_, known| *known != id);
            }
        }
    }

    fn age(&mut self, by: Duration) {
        self.log.push(format!("{by:?} later"));
        for node in &mut self.nodes {
            node.age(by);
            node.sweep();
        }
        let over: Vec<u32> = self
            .connections
            .iter_mut()
            .filter_map(|(id, connection)| {
                connection.idle += by;
                let most = if connection.proto == Proto::UDP {
                    UDP_IDLE
                } else {
                    TCP_IDLE
                };
                (connection.idle >= most).then_some(*id)
            })
            .collect();
        for id in over {
            self.forget(id);
        }
    }

    /// Neither side has a socket of the connection any more.
    fn forget(&mut self, id: u32) {
        self.connections.remove(&id);
        self.clients.retain(|_, known| *known != id);
        self.servers.retain(|_, known| *known != id);
    }

    /// Gives up a connection whose end one of its nodes does not see.
    fn lose(&mut self, id: u32) {
        if let Some(lost) = self.connections.get(&id) {
            self.lost.insert((lost.proto, lost.local, lost.remote));
        }
        self.forget(id);
    }

    /// A client opens a connection.
    fn open(&mut self) -> Result<(), Failure> {
        if self.connections.len() >= CONNECTIONS {
            return self.for_any(Self::close);
        }
        let Some(connection) = self.random_connection() else {
            return Ok(());
        };
        let socket = (connection.proto, connection.local, connection.remote);
        if self.clients.contains_key(&socket) {
            return Ok(());
        }
        self.last += 1;
        let id = self.last;
        self.log.push(format!(
            "{id} {:?} {} -> {} {:?} at {}",
            connection.proto,
            connection.local,
            connection.remote,
            connection.target,
            connection.entry
        ));
        self.clients.insert(socket, id);
        let wanted = self.eligible(&connection);
        self.connections.insert(id, connection);
        let twice = fastrand::u8(0..4) == 0;
        let opening = self.client_sends(id, |tcp| tcp.syn = true);
        match self.send(self.connections[&id].client, &opening, twice)? {
            Fate::Delivered(party, packet) => self.serve(id, party, &packet, true)?,
            fate if wanted.is_some_and(|wanted| wanted.is_empty()) => {
                self.log.push(format!("{id} {fate:?}"));
                self.forget(id);
                return Ok(());
            }
            fate => return Err(format!("{id} is not opened: {fate:?}")),
        }
        if self.connections[&id].proto == Proto::TCP {
            // The last part of the handshake.
            let client = self.connections[&id].client;
            let last = self.client_sends(id, |tcp| tcp.ack = true);
            match self.send(client, &last, false)? {
                Fate::Delivered(party, packet) => self.take(id, party, &packet)?,
                fate => return Err(format!("{id}: the handshake ends with {fate:?}")),
            }
        }
        Ok(())
    }

    /// A client asks, and is answered.
    fn exchange(&mut self, id: u32) -> Result<(), Failure> {
        let connection = self.connections[&id].clone();
        let request = self.client_sends(id, |tcp| tcp.ack = true);
        match self.send(connection.client, &request, false)? {
            _ if self.is_lost(&connection) => {
                self.log.push(format!("{id} is lost"));
                self.lose(id);
                Ok(())
            }
            Fate::Delivered(party, packet) => self.serve(id, party, &packet, false),
            fate if self.may_be_lost(&connection) => {
                self.log.push(format!("{id} {fate:?}"));
                self.forget(id);
                Ok(())
            }
            fate => Err(format!("{id} asks, and gets {fate:?}")),
        }
    }

    /// Whether another node gets the packets of a connection of TCP: it knows nothing of it, or something
    /// else of its addresses from before.
    fn is_lost(&self, connection: &Connection) -> bool {
        let entry = self.entry(connection.client, connection.remote);
        let is_service = matches!(connection.target, Target::Service(_));
        is_service && connection.proto == Proto::TCP && entry != connection.entry
    }

    /// Whether packets of a connection may be refused: another node gets them now, or no backend is left.
    fn may_be_lost(&self, connection: &Connection) -> bool {
        let Target::Service(_) = connection.target else {
            return false;
        };
        let entry = self.entry(connection.client, connection.remote);
        if entry != connection.entry {
            return self.is_lost(connection) || self.eligible_at(connection, entry).is_empty();
        }
        let is_gone = connection.proto == Proto::UDP && connection.was_unserved;
        is_gone && self.eligible_at(connection, entry).is_empty()
    }

    /// Whether the backend of a Service's connection is one that its node knows.
    fn still_serves(&self, connection: &Connection) -> bool {
        let Target::Service(service) = connection.target else {
            return true;
        };
        let endpoints = &self.nodes[connection.entry].view.endpoints[service];
        connection.backend.is_some_and(|backend| {
            endpoints
                .iter()
                .any(|(node, pod)| pod_ip(*node, *pod, backend.is_ipv6()) == backend.ip())
        })
    }

    /// Both sides end a connection, or one resets it.
    fn close(&mut self, id: u32) -> Result<(), Failure> {
        let connection = self.connections[&id].clone();
        self.log.push(format!("{id} is closed"));
        if connection.proto == Proto::UDP {
            self.forget(id);
            return Ok(());
        }
        let is_by_client = fastrand::bool();
        if fastrand::u8(0..3) == 0 {
            self.half(id, is_by_client, |tcp| tcp.rst = true)?;
        } else if self.half(id, is_by_client, |tcp| (tcp.fin, tcp.ack) = (true, true))?
            && self.half(id, !is_by_client, |tcp| (tcp.fin, tcp.ack) = (true, true))?
        {
            self.half(id, is_by_client, |tcp| tcp.ack = true)?;
        }
        self.forget(id);
        Ok(())
    }

    /// One side sends a segment, which the other one gets. Returns false where the connection may have been
    /// lost before, and is.
    fn half(&mut self, id: u32, is_by_client: bool, set: fn(&mut Tcp)) -> Result<bool, Failure> {
        let connection = self.connections[&id].clone();
        let (sender, segment) = if is_by_client {
            (connection.client, self.client_sends(id, set))
        } else {
            self.server_sends(id, set)
        };
        match self.send(sender, &segment, false)? {
            _ if self.is_lost(&connection) => {
                self.lose(id);
                return Ok(false);
            }
            Fate::Delivered(party, packet) if is_by_client => self.take(id, party, &packet)?,
            Fate::Delivered(party, packet) => self.hear(id, party, &packet)?,
            _ if self.may_be_lost(&connection) => return Ok(false),
            fate => return Err(format!("{id}: {segment:?} ends as {fate:?}")),
        }
        Ok(true)
    }

    /// A stranger sends a reset, or a FIN, with the right addresses, far from what is expected.
    fn stray(&mut self, id: u32) -> Result<(), Failure> {
        let connection = self.connections[&id].clone();
        if connection.proto == Proto::UDP || self.may_be_lost(&connection) {
            return Ok(());
        }
        self.log.push(format!("{id} gets a stray segment"));
        let set: fn(&mut Tcp) = if fastrand::bool() {
            |tcp| tcp.rst = true
        } else {
            |tcp| (tcp.fin, tcp.ack) = (true, true)
        };
        // As far as nothing is that is on its way.
        let by = fastrand::u32(1 << 29..1 << 31);
        if fastrand::bool() {
            let mut segment = self.client_sends(id, set);
            segment.tcp.sequence = segment.tcp.sequence.wrapping_add(by);
            self.undo_sent(id, 0);
            self.send(connection.client, &segment, false)?;
        } else {
            let (sender, mut segment) = self.server_sends(id, set);
            segment.tcp.sequence = segment.tcp.sequence.wrapping_add(by);
            self.undo_sent(id, 1);
            self.send(sender, &segment, false)?;
        }
        Ok(())
    }

    /// What was sent last is none of the sender's data.
    fn undo_sent(&mut self, id: u32, side: usize) {
        let next = &mut self.connections.get_mut(&id).unwrap().next[side];
        *next = next.wrapping_sub(DATA);
    }

    fn client_sends(&mut self, id: u32, set: fn(&mut Tcp)) -> Packet {
        let connection = self.connections.get_mut(&id).unwrap();
        let mut packet = Packet {
            proto: connection.proto,
            from: connection.local,
            to: connection.remote,
            tcp: Tcp::default(),
            label: Label {
                connection: id,
                is_reply: false,
            },
        };
        connection.fill(&mut packet, 0, set);
        packet
    }

    /// What the server sends: from where it was asked, to the address that asked it there.
    fn server_sends(&mut self, id: u32, set: fn(&mut Tcp)) -> (Party, Packet) {
        let asked = self.servers.iter().find(|(_, known)| **known == id);
        let (proto, at, from) = *asked.unwrap().0;
        let connection = self.connections.get_mut(&id).unwrap();
        let mut packet = Packet {
            proto,
            from: at,
            to: from,
            tcp: Tcp::default(),
            label: Label {
                connection: id,
                is_reply: true,
            },
        };
        connection.fill(&mut packet, 1, set);
        (party_of(at), packet)
    }

    /// A server gets the packet of a client, and answers.
    fn serve(
        &mut self,
        id: u32,
        party: Party,
        packet: &Packet,
        opens: bool,
    ) -> Result<(), Failure> {
        self.take(id, party, packet)?;
        let (sender, answer) = self.server_sends(
            id,
            if opens {
                |tcp| (tcp.syn, tcp.ack) = (true, true)
            } else {
                |tcp| tcp.ack = true
            },
        );
        match self.send(sender, &answer, false)? {
            Fate::Delivered(party, packet) => self.hear(id, party, &packet),
            fate => Err(format!("{id} is answered, and gets {fate:?}")),
        }
    }

    /// Whether a client's packet reached whom it may reach.
    fn take(&mut self, id: u32, party: Party, packet: &Packet) -> Result<(), Failure> {
        let connection = self.connections[&id].clone();
        if party != party_of(packet.to) {
            return Err(format!("{id}: {party:?} gets {packet:?}"));
        }
        let opens = packet.tcp.syn || packet.proto == Proto::UDP;
        let socket = (packet.proto, packet.to, packet.from);
        match self.servers.get(&socket) {
            Some(known) if *known != id => {
                return Err(format!("{id} looks like {known} to {}", packet.to));
            }
            None if !opens => return Err(format!("{id}: {packet:?} is of no connection there")),
            _ => {}
        }
        let entry = self.entry(connection.client, connection.remote);
        if connection.backend != Some(packet.to) {
            let may_choose = connection.backend.is_none()
                || connection.proto == Proto::UDP
                    && (entry != connection.entry || connection.was_unserved);
            if !may_choose {
                return Err(format!("{id} moved to {}: {connection:?}", packet.to));
            }
            let socket = (connection.proto, connection.local, connection.remote);
            let is_eligible = self.eligible_at(&connection, entry).contains(&packet.to);
            if !is_eligible && !self.lost.contains(&socket) {
                return Err(format!("{id} is given {}: {connection:?}", packet.to));
            }
        }
        self.servers.retain(|_, known| *known != id);
        self.servers.insert(socket, id);
        let connection = self.connections.get_mut(&id).unwrap();
        connection.backend = Some(packet.to);
        connection.entry = entry;
        connection.idle = Duration::ZERO;
        connection.was_unserved = false;
        Ok(())
    }

    /// Whether a server's packet reached its client, from whom that asked.
    fn hear(&mut self, id: u32, party: Party, packet: &Packet) -> Result<(), Failure> {
        let connection = self.connections.get_mut(&id).unwrap();
        let is_right = party == connection.client
            && packet.from == connection.remote
            && packet.to == connection.local;
        if !is_right {
            return Err(format!(
                "{id}: {party:?} hears {packet:?} of {connection:?}"
            ));
        }
        connection.idle = Duration::ZERO;
        Ok(())
    }

    /// The node where packets of a party to an address come in.
    fn entry(&self, client: Party, remote: SocketAddr) -> usize {
        let is_v6 = remote.is_ipv6();
        if let Some(node) = (0..NODES).find(|node| node_ip(*node, is_v6) == remote.ip()) {
            return node;
        }
        if let Party::Pod(node, _) = client {
            return node;
        }
        let service = (0..SERVICES).find(|service| balanced(*service, is_v6) == remote.ip());
        service.map_or(0, |service| self.announced[service])
    }

    /// Where a connection may lead, if it is a Service's.
    fn eligible(&self, connection: &Connection) -> Option<Vec<SocketAddr>> {
        let is_service = matches!(connection.target, Target::Service(_));
        is_service.then(|| self.eligible_at(connection, connection.entry))
    }

    fn eligible_at(&self, connection: &Connection, entry: usize) -> Vec<SocketAddr> {
        let Target::Service(service) = connection.target else {
            return vec![connection.remote];
        };
        let is_inside = matches!(connection.client, Party::Pod(node, _) if node == entry);
        let is_v6 = connection.remote.is_ipv6();
        self.nodes[entry].view.endpoints[service]
            .iter()
            .filter(|(node, _)| service == 0 || is_inside || *node == entry)
            .map(|(node, pod)| (pod_ip(*node, *pod, is_v6), TARGET).into())
            .collect()
    }

    fn random_connection(&self) -> Option<Connection> {
        let is_v6 = fastrand::bool();
        let (node, pod) = (fastrand::usize(0..NODES), fastrand::usize(0..PODS));
        let service = fastrand::usize(0..SERVICES);
        let other = fastrand::usize(0..NODES);
        let at_pod = (pod_ip(other, fastrand::usize(0..PODS), is_v6), TARGET);
        let outside = fastrand::usize(0..OUTSIDE);
        let server = (outside_ip(outside, is_v6), SERVER_PORT);
        let (client, target, remote) = match fastrand::u8(0..20) {
            0..5 => {
                let to = (balanced(service, is_v6), PORT);
                (Party::Outside(outside), Target::Service(service), to)
            }
            5..8 => {
                let to = (node_ip(node, is_v6), node_port(service));
                (Party::Outside(outside), Target::Service(service), to)
            }
            8..10 => (Party::Outside(outside), Target::Backend, at_pod),
            10..12 => {
                let of = [cluster_ip, balanced][fastrand::usize(0..2)];
                let to = (of(service, is_v6), PORT);
                (Party::Pod(node, pod), Target::Service(service), to)
            }
            12..14 => {
                let to = (node_ip(1 - node, is_v6), node_port(service));
                (Party::Pod(node, pod), Target::Service(service), to)
            }
            14..16 => (Party::Pod(node, pod), Target::Backend, at_pod),
            16 => (Party::Pod(node, pod), Target::Server, server),
            17 => {
                let to = (node_ip(1 - node, is_v6), node_port(service));
                (Party::Host(node), Target::Service(service), to)
            }
            18 => (Party::Host(node), Target::Backend, at_pod),
            _ => (Party::Host(node), Target::Server, server),
        };
        let local = match client {
            Party::Outside(number) => outside_ip(number, is_v6),
            Party::Pod(node, pod) => pod_ip(node, pod, is_v6),
            Party::Host(node) => node_ip(node, is_v6),
        };
        let remote = SocketAddr::from(remote);
        if local == remote.ip() {
            return None;
        }
        let port = match fastrand::u8(0..16) {
            // As they were bound: one of them is kept, and one may be given to others.
            0 => 2000,
            3 | 4 => 700,
            1 => fastrand::u16(SOURCE_PORTS.start..SOURCE_PORTS.start + 4),
            2 if matches!(client, Party::Host(_)) && target == Target::Server => {
                node_port(fastrand::usize(0..SERVICES))
            }
            _ => fastrand::u16(40_001..40_006),
        };
        let proto = if fastrand::bool() {
            Proto::TCP
        } else {
            Proto::UDP
        };
        let local = SocketAddr::new(local, port);
        if let Party::Host(node) = client
            && self.nodes[node].is_masqueraded(proto, remote, local)
        {
            return None;
        }
        Some(Connection {
            proto,
            client,
            local,
            remote,
            target,
            entry: self.entry(client, remote),
            backend: None,
            next: [fastrand::u32(..), fastrand::u32(..)],
            idle: Duration::ZERO,
            was_unserved: false,
        })
    }

    /// A packet goes from hop to hop.
    fn send(&mut self, from: Party, packet: &Packet, twice: bool) -> Result<Fate, Failure> {
        const HOPS: usize = 8;
        let trace = &mut self.trace;
        let (mut at, mut next) = match from {
            Party::Outside(_) => (NODES, Next::Network(packet.bytes())),
            Party::Pod(node, pod) => {
                let device = Device::Pod(pod);
                let next = self.nodes[node].comes_in(device, packet.bytes(), twice, trace);
                (node, next)
            }
            Party::Host(node) => (node, self.nodes[node].sends(packet, trace)),
        };
        for _ in 0..HOPS {
            let (party, bytes) = match next {
                Next::Host(bytes) => (Party::Host(at), bytes),
                Next::Pod(pod, bytes) => (Party::Pod(at, pod), bytes),
                Next::Dropped => return Ok(Fate::Dropped),
                Next::Apart => return Err("two CPUs made two of one packet".into()),
                Next::Network(bytes) => {
                    let Some(packet) = Packet::read(&bytes) else {
                        return Ok(Fate::Refused);
                    };
                    match self.place(packet.to) {
                        Place::Outside(number) => (Party::Outside(number), bytes),
                        Place::Nowhere => return Ok(Fate::Dropped),
                        Place::Node(node) => {
                            at = node;
                            let trace = &mut self.trace;
                            next = self.nodes[node].comes_in(Device::Uplink, bytes, twice, trace);
                            continue;
                        }
                    }
                }
            };
            let Some(packet) = Packet::read(&bytes) else {
                return Ok(Fate::Refused);
            };
            if packet.label.connection == 0 {
                return Ok(Fate::Refused);
            }
            return Ok(Fate::Delivered(party, packet));
        }
        Err("a packet goes round".into())
    }

    /// Where the network leads a packet.
    fn place(&self, to: SocketAddr) -> Place {
        let is_v6 = to.is_ipv6();
        if let Some(number) = (0..OUTSIDE).find(|number| outside_ip(*number, is_v6) == to.ip()) {
            return Place::Outside(number);
        }
        for node in 0..NODES {
            let is_pod = (0..PODS).any(|pod| pod_ip(node, pod, is_v6) == to.ip());
            if is_pod || node_ip(node, is_v6) == to.ip() {
                return Place::Node(node);
            }
        }
        let service = (0..SERVICES).find(|service| balanced(*service, is_v6) == to.ip());
        service.map_or(Place::Nowhere, |service| {
            Place::Node(self.announced[service])
        })
    }
}

/// Where a packet in the network comes next.
enum Place {
    Outside(usize),
    Node(usize),
    Nowhere,
}

/// Whose an address is.
fn party_of(at: SocketAddr) -> Party {
    let is_v6 = at.is_ipv6();
    for node in 0..NODES {
        for pod in 0..PODS {
            if pod_ip(node, pod, is_v6) == at.ip() {
                return Party::Pod(node, pod);
            }
        }
        if node_ip(node, is_v6) == at.ip() {
            return Party::Host(node);
        }
    }
    let outside = (0..OUTSIDE).find(|number| objects::outside_ip(*number, is_v6) == at.ip());
    Party::Outside(outside.unwrap_or(OUTSIDE))
}

impl Connection {
    /// Fills in what a segment of one side has, and counts its data as sent.
    fn fill(&mut self, packet: &mut Packet, side: usize, set: fn(&mut Tcp)) {
        if self.proto == Proto::UDP {
            return;
        }
        set(&mut packet.tcp);
        packet.tcp.sequence = self.next[side];
        if packet.tcp.ack {
            packet.tcp.acknowledged = self.next[1 - side];
        }
        let flags = u32::from(packet.tcp.syn) + u32::from(packet.tcp.fin);
        self.next[side] = self.next[side].wrapping_add(DATA + flags);
    }
}
