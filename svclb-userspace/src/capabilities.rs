//! What the agent may do once its programs are loaded. (`capabilities(7)`; a thread has its own, so
//! that all of this happens before the first one is started.)

use caps::{CapSet, Capability, CapsHashSet};

/// What the agent needs for as long as it runs.
const KEPT: [Capability; 7] = [
    // Maps are read and written, and links made and replaced.
    Capability::CAP_BPF,
    // Devices are attached to, and sockets destroyed.
    Capability::CAP_NET_ADMIN,
    // The network namespaces of pods are entered, to find UDP sockets there,
    Capability::CAP_SYS_ADMIN,
    // and found by their processes.
    Capability::CAP_SYS_PTRACE,
    // Manifests and credentials may be others' files, and so may the bpffs be.
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_DAC_OVERRIDE,
    // Any of the listeners, also that of a `healthCheckNodePort`, may have a port below 1024.
    Capability::CAP_NET_BIND_SERVICE,
];

/// Gives up all other capabilities for good, and so does whatever is run from here.
///
/// # Errors
/// Those of the system calls. The agent can go on: it has more capabilities than it needs.
pub(crate) fn give_up() -> Result<(), caps::errors::CapsError> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    // While CAP_SETPCAP is still there; without it there is nothing to take away.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::all() {
            if !kept.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability)? {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    for set in [CapSet::Effective, CapSet::Permitted] {
        let left = caps::read(None, set)?
            .intersection(&kept)
            .copied()
            .collect();
        caps::set(None, set, &left)?;
    }
    Ok(())
}
