//! Attaching programs to a cgroup, by links that are pinned and so outlive the agent.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::links::Links;
use crate::pins::Pins;
use crate::sys;

/// A program and where it attaches.
#[derive(Debug)]
pub struct SocketProgram {
    /// Its name: of the function in the object, and of the pinned link.
    pub name: &'static str,
    /// `enum bpf_attach_type` (include/uapi/linux/bpf.h).
    pub(crate) attach_type: u32,
}

const fn program(name: &'static str, attach_type: u32) -> SocketProgram {
    SocketProgram { name, attach_type }
}

/// The socket programs. Those that translate back are attached first and so are there
/// before anything is translated.
pub const PROGRAMS: [SocketProgram; 9] = [
    program("svclb_sock_release", 34),
    program("svclb_getpeername4", 29),
    program("svclb_getpeername6", 30),
    program("svclb_recvmsg4", 19),
    program("svclb_recvmsg6", 20),
    program("svclb_sendmsg4", 14),
    program("svclb_sendmsg6", 15),
    program("svclb_connect4", 10),
    program("svclb_connect6", 11),
];

/// How a program came to be attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// Anew.
    New(&'static str),
    /// It took the place of the program that an earlier agent left, without a gap.
    Replaced(&'static str),
}

/// A program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The cgroup cannot be opened.
    #[error("the cgroup {path} cannot be opened: {source}; name another with --cgroup", path = .path.display())]
    Cgroup {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An earlier agent attached to another cgroup.
    #[error("the pins in {pin_dir} are attached to another cgroup than {cgroup}; run `svclb cleanup --pin-dir {pin_dir}` first, or give the same --cgroup as before", pin_dir = .pin_dir.display(), cgroup = .cgroup.display())]
    OtherCgroup {
        /// The pins.
        pin_dir: PathBuf,
        /// The cgroup asked for.
        cgroup: PathBuf,
    },
    /// The kernel refused.
    #[error("{program} cannot be attached to {cgroup}: {source}; see the kernel's log", cgroup = .cgroup.display())]
    Link {
        /// Which program.
        program: &'static str,
        /// Where.
        cgroup: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Attaches one loaded program, or puts it in the place of the one attached before.
pub(crate) fn attach(
    pins: &Pins,
    links: &mut Links,
    cgroup_path: &Path,
    program: &SocketProgram,
    loaded: BorrowedFd<'_>,
) -> Result<Attachment, AttachError> {
    let failed = |source| AttachError::Link {
        program: program.name,
        cgroup: cgroup_path.to_owned(),
        source,
    };
    let cgroup = File::open(cgroup_path).map_err(|source| AttachError::Cgroup {
        path: cgroup_path.to_owned(),
        source,
    })?;
    if let Some(link) = links.find(program.name).map_err(failed)? {
        // A cgroup's id is its inode number (kernfs).
        let asked = cgroup.metadata().map_err(failed)?.ino();
        match sys::link_cgroup(link).map_err(failed)? {
            id if id == asked => {
                sys::update_link(link, loaded).map_err(failed)?;
                return Ok(Attachment::Replaced(program.name));
            }
            // The cgroup is gone, and the link is dead with it.
            0 => links.release(program.name).map_err(failed)?,
            _ => {
                return Err(AttachError::OtherCgroup {
                    pin_dir: pins.dir().to_owned(),
                    cgroup: cgroup_path.to_owned(),
                });
            }
        }
    }
    let link = sys::create_link(loaded, cgroup.as_fd(), program.attach_type).map_err(failed)?;
    links.keep(program.name, link).map_err(failed)?;
    Ok(Attachment::New(program.name))
}
