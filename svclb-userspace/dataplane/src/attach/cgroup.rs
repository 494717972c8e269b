//! Attaching programs to a cgroup, by links that are pinned and so outlive the agent.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::links::Links;
use crate::error::AttachError;
use crate::pins::Pins;
use crate::programs::SocketProgram;
use crate::sys;

/// How a program came to be attached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// Anew.
    New(&'static str),
    /// It took the place of the program that an earlier agent left, without a gap.
    Replaced(&'static str),
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
