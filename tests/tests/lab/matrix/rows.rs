//! A row: one client's socket, one Service, what is to be expected and what came.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use svclb_tests::{Failure, Kind, Peer, Tally, Transport};

use super::oracle::Verdict;

const TCP: Kind = Kind::new(Transport::Tcp);
const UDP: Kind = Kind::new(Transport::Udp);

/// The kinds of sockets: what the table calls them, whether they go to the IPv6 address,
/// and how the peer makes them.
pub(crate) const SOCKETS: [(&str, bool, Kind); 9] = [
    ("tcp", false, TCP),
    ("tcp", true, TCP),
    ("mapped tcp", false, TCP.mapped()),
    ("udp", false, UDP),
    ("udp", true, UDP),
    ("mapped udp", false, UDP.mapped()),
    ("unconnected udp", false, UDP.unconnected()),
    ("unconnected udp", true, UDP.unconnected()),
    ("mapped unconnected udp", false, UDP.unconnected().mapped()),
];

/// What is asked at a time. One of four backends stays out of all of them three times in a
/// hundred: one that is missed is waited for, and one too many is met by other sockets.
const BATCH: u32 = 12;
/// Until a backend is given up. One of four is missed by chance once in 10¹⁷ rows.
const BATCHES: u32 = 12;

/// What came of it.
#[derive(Debug)]
pub(crate) enum Got {
    /// Of one kind.
    Plain(Verdict),
    /// Anything that no verdict allows.
    Mixed(String),
}

/// A row of the matrix, as its table shows it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) client: String,
    pub(crate) frontend: String,
    pub(crate) policy: String,
    pub(crate) endpoints: String,
    pub(crate) socket: &'static str,
    pub(crate) expected: Verdict,
    pub(crate) got: Got,
}

impl Row {
    pub(crate) const HEAD: &str =
        "client | frontend | policy | endpoints | socket | expected | got";

    pub(crate) fn is_right(&self) -> bool {
        matches!(&self.got, Got::Plain(verdict) if *verdict == self.expected)
    }
}

/// What a client meets at an address. `known` is one that answers.
pub(crate) fn meet(
    peer: &Peer,
    kind: Kind,
    to: SocketAddr,
    expected: &Verdict,
    known: SocketAddr,
) -> Got {
    let met = match expected {
        Verdict::NoAnswer if kind.transport == Transport::Tcp => loss(peer, kind, to),
        Verdict::NoAnswer => silence(peer, kind, to, known).map_err(|failure| failure.to_string()),
        Verdict::Answers(names) => many(peer, kind, to, names),
        Verdict::Refused if kind.transport == Transport::Udp && kind.connected => {
            first_word(peer, kind, to).map_err(|failure| failure.to_string())
        }
        Verdict::Refused => many(peer, kind, to, &BTreeSet::new()),
    };
    met.map_or_else(Got::Mixed, Got::Plain)
}

/// Asks until all of these have answered.
fn many(
    peer: &Peer,
    kind: Kind,
    to: SocketAddr,
    wanted: &BTreeSet<String>,
) -> Result<Verdict, String> {
    let mut seen = BTreeSet::new();
    let mut refused = false;
    for _ in 0..BATCHES {
        let tally = peer
            .repeat(kind, to, BATCH)
            .map_err(|failure| failure.to_string())?;
        // No server of the lab is at a closed port: who is refused, is refused by svclb.
        let refusals: u64 = tally
            .failures
            .iter()
            .filter(|(failure, _)| failure.ends_with(": ECONNREFUSED"))
            .map(|(_, count)| count)
            .sum();
        refused |= refusals > 0;
        seen.extend(tally.answers.keys().cloned());
        let strange = refusals != tally.failed() || tally.wrong_names > 0;
        if strange || refused && !seen.is_empty() {
            return Err(described(&tally));
        }
        if refused || seen.is_superset(wanted) {
            break;
        }
    }
    Ok(if refused {
        Verdict::Refused
    } else {
        Verdict::Answers(seen)
    })
}

/// The first reply to a connected socket, in whichever call. Before Linux 5.18 a refusal
/// comes after `connect`, and until then the socket has no peer's name to ask for.
fn first_word(peer: &Peer, kind: Kind, to: SocketAddr) -> Result<Verdict, Failure> {
    let reply = || {
        let socket = peer.socket(kind, to.is_ipv6())?;
        socket.connect(to)?;
        socket.send("hello")?;
        socket.receive()
    };
    let mut seen = BTreeSet::new();
    for _ in 0..BATCH {
        match reply() {
            Err(failure) if failure.errno == "ECONNREFUSED" => {}
            Err(failure) => return Err(failure),
            Ok(received) => drop(seen.insert(received.backend)),
        }
    }
    Ok(if seen.is_empty() {
        Verdict::Refused
    } else {
        Verdict::Answers(seen)
    })
}

/// Asks there and then where an answer is sure to come: it has to be the first to come.
/// Waiting for nothing would take seconds, a hundred times.
fn silence(peer: &Peer, kind: Kind, to: SocketAddr, known: SocketAddr) -> Result<Verdict, Failure> {
    let socket = peer.socket(kind, to.is_ipv6())?;
    socket.send_to(to, "unanswered")?;
    sleep(Duration::from_millis(5));
    socket.send_to(known, "known")?;
    let received = socket.receive()?;
    Ok(if received.echoed == "known" {
        Verdict::NoAnswer
    } else {
        Verdict::Answers([received.backend].into())
    })
}

/// Waits for as long as clients do.
fn loss(peer: &Peer, kind: Kind, to: SocketAddr) -> Result<Verdict, String> {
    match peer.ask(kind, to) {
        Ok(answer) => Ok(Verdict::Answers([answer.backend].into())),
        Err(failure) if failure.is_time_out() => Ok(Verdict::NoAnswer),
        Err(failure) => Err(failure.to_string()),
    }
}

fn described(tally: &Tally) -> String {
    let Tally {
        answers, failures, ..
    } = tally;
    let counts = answers.iter().chain(failures);
    let mut described: Vec<String> = counts.map(|(what, n)| format!("{n} × {what}")).collect();
    if tally.wrong_names > 0 {
        described.push(format!("{} × a wrong name", tally.wrong_names));
    }
    described.join(", ")
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            frontend,
            policy,
            endpoints,
            socket,
            expected,
            got,
        } = self;
        write!(
            f,
            "{client} | {frontend} | {policy} | {endpoints} | {socket} | {expected} | "
        )?;
        match got {
            Got::Plain(verdict) => write!(f, "{verdict}"),
            Got::Mixed(what) => write!(f, "{what}"),
        }
    }
}
