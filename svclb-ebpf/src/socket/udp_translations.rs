//! The translations of a UDP socket (and of a TCP socket that found its place in the array
//! taken), in socket-local storage, with a hash for the few that do not fit.
//!
//! Nothing here evicts: a forgotten translation would show a program a reply from a
//! backend that it never sent to.

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::programs::{SockAddrContext, SockContext};
use svclb_common::{
    BackendId, Counter, OVERFLOW_LEN, OverflowKey, OverflowValue, RING_LEN, Translation,
    TranslationRing,
};

use super::family::Endpoint;
use crate::counters::count;
use crate::kernel::{mptcp_socket, socket, socket_cookie};
use crate::maps::{PEER_OVERFLOW, UDP_TRANSLATIONS};

const MASK: u32 = RING_LEN as u32 - 1;

/// The ring of a socket, made with `BPF_SK_STORAGE_GET_F_CREATE` in the flags.
#[inline(always)]
fn storage(sk: *mut c_void, flags: u32) -> Option<*mut TranslationRing> {
    // SAFETY: the sockets that a hook is given, or gets from a helper, live as long as its run.
    // (A socket as the argument, from a cgroup socket program: Linux 5.9, commit
    // f7c6cb1d9728.)
    let ring = unsafe {
        bpf_sk_storage_get(
            (&raw const UDP_TRANSLATIONS).cast_mut().cast(),
            sk,
            core::ptr::null_mut(),
            u64::from(flags),
        )
    };
    (!ring.is_null()).then_some(ring.cast())
}

#[inline(always)]
fn ring_of(ctx: &SockAddrContext) -> Option<*mut TranslationRing> {
    storage(socket(ctx).cast(), 0)
}

#[inline(always)]
fn entry(ring: *mut TranslationRing, index: u32) -> *mut Translation {
    // SAFETY: the mask keeps the index inside the ring; the verifier checks it too.
    unsafe {
        (&raw mut (*ring).entries)
            .cast::<Translation>()
            .add((index & MASK) as usize)
    }
}

/// The first entry that `is` holds for, from the latest one on.
#[inline(always)]
fn find(
    ring: *mut TranslationRing,
    is: impl Fn(&Translation) -> bool,
) -> Option<(u32, &'static Translation)> {
    // SAFETY: storage memory, valid for the run. Another thread that sends on the same
    // socket may write meanwhile; what is found is compared as a whole by the caller.
    unsafe {
        let latest = (&raw const (*ring).latest).read_volatile() & MASK;
        let first = &*entry(ring, latest);
        if is(first) {
            return Some((latest, first));
        }
        for index in 0..RING_LEN as u32 {
            let candidate = &*entry(ring, index);
            if is(candidate) {
                return Some((index, candidate));
            }
        }
    }
    None
}

/// Whether this socket knows a backend, and under which address makes no difference.
#[inline(always)]
pub(crate) fn leads_to(ctx: &SockAddrContext, backend: Endpoint) -> bool {
    // No `is_some_and`: its closure would become a function of its own.
    match ring_of(ctx) {
        Some(ring) => find(ring, |t| t.leads_to(backend.addr, backend.port)).is_some(),
        None => false,
    }
}

/// The backend that this socket last used for a Service address.
#[inline(always)]
pub(crate) fn backend_of(ctx: &SockAddrContext, frontend: Endpoint) -> Option<BackendId> {
    let (_, known) = find(ring_of(ctx)?, |t| {
        t.frontend_port == frontend.port && t.frontend_addr == frontend.addr && !t.is_refusal()
    })?;
    Some(known.backend)
}

/// The Service address behind which this socket knows a backend.
#[inline(always)]
pub(crate) fn frontend_of(ctx: &SockAddrContext, backend: Endpoint) -> Option<Endpoint> {
    let ring = ring_of(ctx)?;
    if let Some((_, known)) = find(ring, |t| t.leads_to(backend.addr, backend.port)) {
        return Some(Endpoint {
            addr: known.frontend_addr,
            port: known.frontend_port,
        });
    }
    // SAFETY: storage memory, valid for the run.
    if unsafe { (&raw const (*ring).overflow_len).read_volatile() } == 0 {
        return None;
    }
    let key = OverflowKey {
        cookie: socket_cookie(ctx),
        backend_addr: backend.addr,
        backend_port: backend.port,
        reserved: 0,
        reserved_word: 0,
    };
    // SAFETY: only this socket's calls remove the element.
    let known = unsafe { PEER_OVERFLOW.get(key) }?;
    Some(Endpoint {
        addr: known.translation.frontend_addr,
        port: known.translation.frontend_port,
    })
}

/// From now on this socket knows a backend under its own address.
#[inline(always)]
pub(crate) fn direct(ctx: &SockAddrContext, backend: Endpoint) {
    if let Some(ring) = ring_of(ctx)
        && let Some((index, known)) = find(ring, |t| t.leads_to(backend.addr, backend.port))
    {
        let itself = known.itself();
        // SAFETY: storage memory, valid for the run.
        unsafe { *entry(ring, index) = itself };
    }
}

/// Remembers a translation for as long as the socket lives.
#[inline(always)]
pub(crate) fn remember(ctx: &SockAddrContext, translation: &Translation) {
    let Some(ring) = storage(socket(ctx).cast(), BPF_SK_STORAGE_GET_F_CREATE) else {
        count(Counter::PeerLost);
        return;
    };
    if known_again(ring, translation) {
        return;
    }
    // SAFETY: storage memory, valid for the run.
    unsafe {
        let written = (&raw const (*ring).written).read_volatile();
        if written > MASK {
            overflow(ctx, ring, &*entry(ring, written));
        }
    }
    write(ring, translation);
}

/// Remembers the translation of an MPTCP connection, at the socket that the program holds:
/// the hook at connect runs for its first subflow, a socket of the kernel's own. `false`
/// for any other socket, and where the kernel has no helper for it (Linux 5.19).
///
/// It has one peer at a time, so what a full ring loses is of connections that are over.
#[inline(always)]
pub(crate) fn remember_mptcp(ctx: &SockAddrContext, translation: &Translation) -> bool {
    let Some(mptcp) = mptcp_socket(ctx) else {
        return false;
    };
    match storage(mptcp, BPF_SK_STORAGE_GET_F_CREATE) {
        Some(ring) => {
            if !known_again(ring, translation) {
                write(ring, translation);
            }
        }
        None => count(Counter::PeerLost),
    }
    true
}

/// Whether a backend's entry is there, and now holds this translation. One backend may
/// stand behind two Services: the latest one is shown, as the latest datagram went there.
#[inline(always)]
fn known_again(ring: *mut TranslationRing, translation: &Translation) -> bool {
    let (addr, port) = (translation.backend_addr, translation.backend_port);
    let Some((index, known)) = find(ring, |t| t.leads_to(addr, port)) else {
        return false;
    };
    // SAFETY: storage memory, valid for the run.
    unsafe {
        if known != translation {
            *entry(ring, index) = *translation;
        }
        (&raw mut (*ring).latest).write_volatile(index);
    }
    true
}

/// Writes the next entry.
#[inline(always)]
fn write(ring: *mut TranslationRing, translation: &Translation) {
    // SAFETY: storage memory, valid for the run.
    unsafe {
        let index = (&raw const (*ring).written).read_volatile();
        *entry(ring, index) = *translation;
        // Counts up to twice the ring, and then goes round in the upper half: "full".
        let next = if index > 2 * MASK {
            MASK + 1
        } else {
            index + 1
        };
        (&raw mut (*ring).written).write_volatile(next);
        (&raw mut (*ring).latest).write_volatile(index & MASK);
    }
}

/// Moves a translation out of the ring into the hash, at the head of the socket's chain.
#[inline(always)]
fn overflow(ctx: &SockAddrContext, ring: *mut TranslationRing, displaced: &Translation) {
    let key = OverflowKey {
        cookie: socket_cookie(ctx),
        backend_addr: displaced.backend_addr,
        backend_port: displaced.backend_port,
        reserved: 0,
        reserved_word: 0,
    };
    // SAFETY: only this socket's calls write the element.
    if let Some(known) = PEER_OVERFLOW.get_ptr_mut(key) {
        // SAFETY: map memory, valid for the run. It is in the chain already.
        unsafe { (*known).translation = *displaced };
        return;
    }
    // SAFETY: storage memory, valid for the run.
    unsafe {
        if (*ring).overflow_len >= OVERFLOW_LEN {
            count(Counter::PeerLost);
            return;
        }
        let value = OverflowValue {
            translation: *displaced,
            next_addr: (*ring).overflow_addr,
            next_port: (*ring).overflow_port,
            reserved: 0,
            reserved_word: 0,
        };
        if PEER_OVERFLOW.insert(key, value, 0).is_err() {
            count(Counter::PeerLost);
            return;
        }
        (*ring).overflow_addr = displaced.backend_addr;
        (*ring).overflow_port = displaced.backend_port;
        (*ring).overflow_len += 1;
    }
    count(Counter::PeerOverflow);
}

/// Removes what a released socket left in the hash.
#[inline(always)]
pub(crate) fn release(ctx: &SockContext, cookie: u64) {
    let Some(ring) = storage(ctx.sock.cast(), 0) else {
        return;
    };
    // SAFETY: storage memory, valid for the run.
    let (mut addr, mut port) = unsafe { ((*ring).overflow_addr, (*ring).overflow_port) };
    for _ in 0..OVERFLOW_LEN {
        if port.bits() == 0 {
            return;
        }
        let key = OverflowKey {
            cookie,
            backend_addr: addr,
            backend_port: port,
            reserved: 0,
            reserved_word: 0,
        };
        // SAFETY: only the release of this socket removes the element.
        let Some(value) = (unsafe { PEER_OVERFLOW.get(key) }) else {
            return;
        };
        (addr, port) = (value.next_addr, value.next_port);
        let _removed = PEER_OVERFLOW.remove(key);
    }
}
