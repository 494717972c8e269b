//! The kernel half of svclb: where sockets and packets enter, and nothing else.
//!
//! | program | runs at | what it does |
//! |---|---|---|
//! | `connect4/6` | `connect()` on TCP, MPTCP and UDP | Service address → backend |
//! | `sendmsg4/6` | `sendto()`, `sendmsg()` with an address | Service address → backend |
//! | `recvmsg4/6` | `recvfrom()`, `recvmsg()` on UDP | backend → Service address |
//! | `getpeername4/6` | `getpeername()` | backend → Service address |
//! | `sock_release` | the last close of a socket | removes what was remembered |
//! | `ingress` | a packet that comes in | client's: to a backend; reply: to the client |
//! | `egress` | a packet that goes out | client's: from the node, where needed; reply: from the Service |
//! | `ingress_l3`, `egress_l3` | the same without an Ethernet header | |
//! | `xdp`, `ingress_direct` | `--forwarding direct`: a packet that comes in | the same, and sent on past the kernel |
//!
//! The programs only read what the agent planned; see `maps` for who writes which map.
#![no_std]
#![no_main]
// For the one atomic instruction of `peers`.
#![feature(asm_experimental_arch)]

mod affinity;
mod counters;
mod kernel;
mod maps;
mod packet;
mod slots;
mod socket;
mod sources;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, SockContext, TcContext, XdpContext};
use packet::{DIRECT, KERNEL, TcFrame, XdpFrame};
use socket::family::{V4, V6};
use socket::{Connect, Send, connect, reverse};
use svclb_packet::headers::ETHERNET;

#[cgroup_sock_addr(connect4)]
fn svclb_connect4(ctx: SockAddrContext) -> i32 {
    connect::connect::<V4, Connect>(&ctx)
}

#[cgroup_sock_addr(connect6)]
fn svclb_connect6(ctx: SockAddrContext) -> i32 {
    connect::connect::<V6, Connect>(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
fn svclb_sendmsg4(ctx: SockAddrContext) -> i32 {
    connect::connect::<V4, Send>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
fn svclb_sendmsg6(ctx: SockAddrContext) -> i32 {
    connect::connect::<V6, Send>(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
fn svclb_recvmsg4(ctx: SockAddrContext) -> i32 {
    reverse::reverse::<V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
fn svclb_recvmsg6(ctx: SockAddrContext) -> i32 {
    reverse::reverse::<V6>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
fn svclb_getpeername4(ctx: SockAddrContext) -> i32 {
    reverse::reverse::<V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
fn svclb_getpeername6(ctx: SockAddrContext) -> i32 {
    reverse::reverse::<V6>(&ctx)
}

#[cgroup_sock(sock_release)]
fn svclb_sock_release(ctx: SockContext) -> i32 {
    reverse::forget(&ctx)
}

#[xdp]
#[inline(always)]
fn svclb_xdp(ctx: XdpContext) -> u32 {
    packet::incoming::<_, DIRECT>(&XdpFrame::new(ctx)) as u32
}

#[classifier]
#[inline(always)]
fn svclb_ingress(ctx: TcContext) -> i32 {
    packet::incoming::<_, KERNEL>(&TcFrame::<ETHERNET>::new(ctx))
}

#[classifier]
#[inline(always)]
fn svclb_egress(ctx: TcContext) -> i32 {
    packet::outgoing(&TcFrame::<ETHERNET>::new(ctx))
}

#[classifier]
#[inline(always)]
fn svclb_ingress_l3(ctx: TcContext) -> i32 {
    let frame = TcFrame::<0>::new(ctx);
    match frame.comes_in_again() {
        Some(action) => action,
        None => packet::incoming::<_, KERNEL>(&frame),
    }
}

#[classifier]
#[inline(always)]
fn svclb_egress_l3(ctx: TcContext) -> i32 {
    packet::outgoing(&TcFrame::<0>::new(ctx))
}

#[classifier]
#[inline(always)]
fn svclb_ingress_direct(ctx: TcContext) -> i32 {
    packet::incoming::<_, DIRECT>(&TcFrame::<ETHERNET>::new(ctx))
}

/// Helpers marked GPL-only are refused to a program of another licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the build fails if a call to it is left in the object.
    loop {}
}
