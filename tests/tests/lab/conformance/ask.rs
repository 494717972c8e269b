//! Questions that wait for a change to take effect, and then insist on it.

use std::net::SocketAddr;

use svclb_tests::{Failure, Kind, Node, Peer, SOON, Transport, wait_until};

use super::super::scene::{Scene, web_service};

pub(super) const TCP: Kind = Kind::new(Transport::Tcp);
pub(super) const UDP: Kind = Kind::new(Transport::Udp);
pub(super) const UNCONNECTED: Kind = Kind::new(Transport::Udp).unconnected();
/// "http" and "udp", the latter as programs use it: connected and not.
pub(super) const KINDS: [Kind; 3] = [TCP, UDP, UNCONNECTED];

/// Makes some of the scene's backends those of `web`.
pub(super) fn publish(scene: &Scene, names: &[&str]) {
    let objects = web_service().with(&scene.endpoints_of(names));
    scene.manifests.put("web.yaml", &objects).unwrap();
}

/// Waits until exactly these backends answer, all of them, and no question fails.
///
/// Of forty questions, one of three backends is left out once in four million.
pub(super) fn answered_by(peer: &Peer, kind: Kind, to: SocketAddr, backends: &[&str]) {
    all_answer(peer, kind, to, 40, backends);
}

/// The same of so many questions.
pub(super) fn all_answer(
    peer: &Peer,
    kind: Kind,
    to: SocketAddr,
    questions: u32,
    backends: &[&str],
) {
    let mut last = None;
    let settled = wait_until(SOON, || {
        let tally = peer.repeat(kind, to, questions).unwrap();
        let right = tally.failed() == 0
            && tally.wrong_names == 0
            && tally.answers.keys().eq(backends.iter());
        last = Some(tally);
        right
    });
    let from = peer.place();
    assert!(
        settled,
        "{from}: {kind:?} to {to}: {last:?}, and not {backends:?}"
    );
}

/// Waits until there is an answer.
pub(super) fn served(peer: &Peer, to: SocketAddr) {
    let served = wait_until(SOON, || peer.ask(TCP, to).is_ok());
    assert!(served, "there is no answer at {to}");
}

/// Waits until connections are refused, and stay so for five.
pub(super) fn refused(peer: &Peer, to: SocketAddr) {
    fails(peer, to, &["ECONNREFUSED"]);
    for _ in 0..5 {
        let failure = peer.ask(TCP, to).unwrap_err();
        assert_eq!(failure.to_string(), "connect: ECONNREFUSED");
    }
}

/// Waits until an address is unreachable. A host learns it at once, from its own routes; a pod
/// with the first SYN that is sent again, a second later.
pub(super) fn unreachable(peer: &Peer, to: SocketAddr) {
    fails(peer, to, &["EHOSTUNREACH", "ENETUNREACH"]);
}

/// Waits until an address is a Service's, so that no pod waits for it to be unreachable.
pub(super) fn known(host: &Node, to: SocketAddr) {
    let known = wait_until(SOON, || {
        let unknown = |failure: &Failure| failure.errno.ends_with("UNREACH");
        !host.ask(TCP, to).as_ref().is_err_and(unknown)
    });
    assert!(known, "{to} is still unreachable");
}

fn fails(peer: &Peer, to: SocketAddr, errors: &[&str]) {
    let mut last = None;
    let settled = wait_until(SOON, || {
        let result = peer.ask(TCP, to);
        let right = matches!(&result, Err(failure)
            if failure.during == "connect" && errors.contains(&&*failure.errno));
        last = Some(result);
        right
    });
    assert!(settled, "{to}: {last:?}, and none of {errors:?}");
}
