//! Attaching the packet programs to network devices.
//!
//! Where the kernel has tcx (Linux 6.6), and for XDP, by links that are pinned and so outlive
//! the agent; before, by filters of the `clsact` qdisc, which outlive it by themselves.

use std::fmt;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::BorrowedFd;
use std::str::FromStr;

use aya::Ebpf;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::links::Links;
use super::xdp_mode;
use crate::error::{DeviceError, errno};
use crate::load::program_fd;
use crate::options::Forwarding;
use crate::pins::Pins;
use crate::programs::{
    EGRESS, EGRESS_L3, INGRESS, INGRESS_DIRECT, INGRESS_L3, PACKET_PROGRAMS, XDP,
};
use crate::sys;

/// `enum bpf_attach_type` (include/uapi/linux/bpf.h).
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (include/uapi/linux/if_link.h).
const XDP_GENERIC: u32 = 2;
const XDP_NATIVE: u32 = 4;

/// Priority and handle of svclb's filters in a `clsact` qdisc, by which they are found again.
const PRIORITY: u16 = 3099;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// A hook of tc.
struct TcHook {
    /// What the pins of links are called, whichever program they have: a change of mode replaces the
    /// program and keeps the link.
    pin: &'static str,
    tcx: u32,
    attach_type: TcAttachType,
}

const TC_EGRESS: TcHook = TcHook {
    pin: EGRESS,
    tcx: BPF_TCX_EGRESS,
    attach_type: TcAttachType::Egress,
};
const TC_INGRESS: TcHook = TcHook {
    pin: INGRESS,
    tcx: BPF_TCX_INGRESS,
    attach_type: TcAttachType::Ingress,
};

/// What the pins of links are called, before the device's number.
const PINS: [&str; 3] = [EGRESS, INGRESS, XDP];

/// How XDP is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XdpMode {
    /// Natively where the driver can, and nowhere else: generic XDP is slower than tc.
    #[default]
    Auto,
    /// By the driver.
    Native,
    /// By the kernel, after the driver.
    Generic,
    /// Not at all.
    Off,
}

impl FromStr for XdpMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            "off" => Ok(Self::Off),
            other => Err(format!(
                "{other:?} is none of auto, native, generic and off"
            )),
        }
    }
}

/// Which packet programs a device gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DevicePrograms {
    /// Who sends on what they translated.
    pub forwarding: Forwarding,
    /// Whether the device's frames begin with an Ethernet header. Without one the kernel forwards.
    pub has_ethernet: bool,
    /// How XDP is attached, where the programs forward.
    pub xdp: XdpMode,
}

impl DevicePrograms {
    /// Those at egress and ingress of tc.
    const fn tc(self) -> [&'static str; 2] {
        match (self.has_ethernet, self.forwarding) {
            (false, _) => [EGRESS_L3, INGRESS_L3],
            (true, Forwarding::Kernel) => [EGRESS, INGRESS],
            (true, Forwarding::Direct) => [EGRESS, INGRESS_DIRECT],
        }
    }

    /// How XDP is attached.
    const fn xdp(self) -> XdpMode {
        match (self.has_ethernet, self.forwarding) {
            (true, Forwarding::Direct) => self.xdp,
            _ => XdpMode::Off,
        }
    }
}

/// How packets of a device are translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attached {
    /// By XDP in the driver, and tc.
    NativeXdp,
    /// By generic XDP, and tc.
    GenericXdp,
    /// By tc alone.
    Tc,
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NativeXdp => "native XDP and tc",
            Self::GenericXdp => "generic XDP and tc",
            Self::Tc => "tc",
        })
    }
}

/// How a device's programs are attached, and were found.
#[derive(Debug)]
pub struct DeviceAttachment {
    /// How they are attached.
    pub by: Attached,
    /// Why [`XdpMode::Auto`] fell back to tc. EOPNOTSUPP: the driver has no native XDP; EBUSY:
    /// another XDP program is attached.
    pub native_xdp_error: Option<io::Error>,
    /// How many were not there before, and are no replacements.
    pub new: usize,
}

/// Attaches the packet programs to a device of the caller's network namespace, or puts them in
/// the place of those that an earlier agent attached.
///
/// # Errors
/// [`DeviceError`]; what was attached before it stays, other than XDP in another mode.
pub(crate) fn attach(
    ebpf: &mut Ebpf,
    links: &mut Links,
    name: &str,
    index: u32,
    programs: DevicePrograms,
) -> Result<DeviceAttachment, DeviceError> {
    let mut new = 0;
    let [egress, ingress] = programs.tc();
    for (program, hook) in [(egress, &TC_EGRESS), (ingress, &TC_INGRESS)] {
        let is_new =
            attach_tc(ebpf, links, program, hook, name, index).map_err(|source| DeviceError {
                program,
                device: name.to_owned(),
                source,
                advice: "see the kernel's log, or leave the device out of --devices",
            })?;
        new += usize::from(is_new);
    }
    let failed = |source| DeviceError {
        program: XDP,
        device: name.to_owned(),
        source,
        advice: "the driver cannot, or another program is there; use --xdp auto or off",
    };
    let mut native_xdp_error = None;
    let (by, is_new) = match programs.xdp() {
        XdpMode::Auto => match attach_xdp(ebpf, links, index, XDP_NATIVE) {
            Ok(is_new) => (Attached::NativeXdp, is_new),
            Err(error) => {
                native_xdp_error = Some(error);
                (Attached::Tc, false)
            }
        },
        XdpMode::Native => {
            let is_new = attach_xdp(ebpf, links, index, XDP_NATIVE).map_err(failed)?;
            (Attached::NativeXdp, is_new)
        }
        XdpMode::Generic => {
            let is_new = attach_xdp(ebpf, links, index, XDP_GENERIC).map_err(failed)?;
            (Attached::GenericXdp, is_new)
        }
        XdpMode::Off => (Attached::Tc, false),
    };
    new += usize::from(is_new);
    if by == Attached::Tc {
        links.release(&pin(XDP, index)).map_err(failed)?;
    }
    Ok(DeviceAttachment {
        by,
        native_xdp_error,
        new,
    })
}

/// Whether it was not there before.
fn attach_tc(
    ebpf: &mut Ebpf,
    links: &mut Links,
    program: &'static str,
    hook: &TcHook,
    name: &str,
    index: u32,
) -> io::Result<bool> {
    let loaded = program_fd(ebpf, program)?;
    let pin = pin(hook.pin, index);
    match attach_or_replace(links, &pin, loaded, index, hook.tcx, 0) {
        // Before Linux 6.6.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        result => return result,
    }
    match qdisc_add_clsact(name) {
        Err(error)
            if errno(&error) != Some(libc::EEXIST)
                && !error.to_string().contains("File exists") =>
        {
            return Err(io::Error::other(error));
        }
        _ => {}
    }
    let classifier = classifier(ebpf, program)?;
    // In the place of an earlier agent's, or anew.
    let earlier = SchedClassifierLink::attached(name, hook.attach_type, PRIORITY, HANDLE, None)
        .map_err(other)?;
    let (id, is_new) = match classifier.attach_to_link(earlier) {
        Ok(id) => (id, false),
        Err(_) => {
            let options = TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                classid: None,
            });
            let attached = classifier.attach_with_options(name, hook.attach_type, options);
            (attached.map_err(other)?, true)
        }
    };
    // Dropping the link would remove the filter.
    mem::forget(classifier.take_link(id).map_err(other)?);
    Ok(is_new)
}

/// Whether it was not there before. A program in the other mode is detached first, whatever comes
/// of this: until then the tc programs translate alone.
fn attach_xdp(ebpf: &Ebpf, links: &mut Links, index: u32, flags: u32) -> io::Result<bool> {
    let loaded = program_fd(ebpf, XDP)?;
    let name = pin(XDP, index);
    let is_there = links.find(&name)?.is_some();
    if is_there && xdp_mode::is_generic(index)? != (flags == XDP_GENERIC) {
        links.release(&name)?;
    }
    attach_or_replace(links, &name, loaded, index, BPF_XDP, flags)
}

fn classifier<'a>(ebpf: &'a mut Ebpf, program: &str) -> io::Result<&'a mut SchedClassifier> {
    ebpf.program_mut(program)
        .ok_or_else(|| other(ProgramError::NotLoaded))?
        .try_into()
        .map_err(other)
}

/// Detaches the packet programs from all devices but these.
///
/// # Errors
/// The first pin that cannot be removed.
pub(crate) fn keep(pins: &Pins, links: &mut Links, keep: &[u32]) -> io::Result<()> {
    let pinned = device_pins(pins)?;
    // Links whose pins were removed are attached nevertheless.
    let held = links.names().into_iter();
    let held = held.filter_map(|name| Some((device_of(&name)?, name)));
    let held: Vec<_> = held.map(|(index, name)| (name, index)).collect();
    for (name, index) in pinned.into_iter().chain(held) {
        if !keep.contains(&index) {
            links.release(&name)?;
        }
    }
    Ok(())
}

/// Detaches the packet programs from a device, which may be gone.
///
/// # Errors
/// The first pin that cannot be removed.
pub(crate) fn detach(links: &mut Links, index: u32) -> io::Result<()> {
    for program in PINS {
        links.release(&pin(program, index))?;
    }
    Ok(())
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

/// The name of a link's pin. (By the device's number: names may have dots, which a bpffs
/// does not take.)
fn pin(program: &str, index: u32) -> String {
    format!("{program}-{index}")
}

/// The device of a link, by the name of its pin.
fn device_of(name: &str) -> Option<u32> {
    let (program, index) = name.rsplit_once('-')?;
    PINS.contains(&program).then_some(())?;
    index.parse().ok()
}

/// The pins of device links, with their devices.
pub(crate) fn device_pins(pins: &Pins) -> io::Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(pins.links()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        found.extend(device_of(&name).map(|index| (name, index)));
    }
    Ok(found)
}

/// Attaches a program by a pinned link, or replaces the program of the link that is there. Returns
/// whether there was none.
fn attach_or_replace(
    links: &mut Links,
    name: &str,
    program: BorrowedFd<'_>,
    index: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<bool> {
    if let Some(link) = links.find(name)? {
        if sys::update_link(link, program).is_ok() {
            return Ok(false);
        }
        // Its device is gone.
        links.release(name)?;
    }
    let link = sys::create_device_link(program, index, attach_type, flags)?;
    links.keep(name, link)?;
    Ok(true)
}

/// Removes svclb's filters from every device of the caller's network namespace.
pub(crate) fn remove_filters() {
    let names = nix::net::if_::if_nameindex();
    for interface in names.iter().flat_map(|names| names.iter()) {
        detach_filters(&interface.name().to_string_lossy());
    }
}

/// Removes svclb's filters from a device of the caller's network namespace, where they are filters
/// (before Linux 6.6).
pub fn detach_filters(device: &str) {
    for program in PACKET_PROGRAMS {
        for hook in [TcAttachType::Egress, TcAttachType::Ingress] {
            // NotFound: there is none.
            let _none_there = qdisc_detach_program(device, hook, program);
        }
    }
}
