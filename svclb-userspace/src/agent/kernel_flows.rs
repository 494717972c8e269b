//! Flows that the kernel's conntrack translates go on with it: those of kube-proxy's rules, at the start and
//! at Services that come later while both run.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use svclb_common::FrontendKey;
use svclb_dataplane::{Dataplane, FlowsAt, LeftToKernel};
use tracing::{debug, info, warn};

/// How many times as long as a look at the kernel's conntrack takes there is none for new Services: it
/// takes tens of milliseconds, and Services may come every moment.
const PAUSE: u32 = 20;

/// Looks for such flows.
#[derive(Default)]
pub(super) struct KernelFlows {
    /// How many were found since the last line in the log, and how many the last look had no room for.
    found: LeftToKernel,
    /// Before that, new Services do not wait for another look.
    rests_until: Option<Instant>,
    /// Whether a look failed, and that was logged.
    failed: bool,
}

impl KernelFlows {
    /// At all frontends that are in the maps.
    pub(super) fn look_at_all(&mut self, dataplane: &Dataplane) {
        self.look(dataplane, FlowsAt::All);
    }

    /// At frontends that are about to be written, around their write, which it returns the result of.
    pub(super) fn look_around<T>(
        &mut self,
        dataplane: &Dataplane,
        frontends: &BTreeSet<FrontendKey>,
        write: impl FnOnce() -> T,
    ) -> T {
        let begun = Instant::now();
        if frontends.is_empty() || self.rests_until.is_some_and(|until| begun < until) {
            return write();
        }
        self.look(dataplane, FlowsAt::These(frontends));
        let before = begun.elapsed();
        let written = write();
        // Those that were opened meanwhile, and those of UDP to backends that were not known before.
        let again = Instant::now();
        self.look(dataplane, FlowsAt::These(frontends));
        let took: Duration = before + again.elapsed();
        self.rests_until = Some(Instant::now() + took * PAUSE);
        self.log();
        written
    }

    /// Says how many flows were found.
    pub(super) fn log(&mut self) {
        let LeftToKernel {
            flows,
            without_room,
        } = std::mem::take(&mut self.found);
        if flows > 0 {
            info!(
                flows,
                "flows that the kernel's conntrack translates go on with it"
            );
        }
        if without_room > 0 {
            warn!(
                "{without_room} flows that the kernel's conntrack translates are more than half of \
                 --max-flows has room for: they may be reset; give more"
            );
        }
    }

    fn look(&mut self, dataplane: &Dataplane, at: FlowsAt<'_>) {
        match dataplane.leave_flows_to_kernel(at) {
            Ok(left) => {
                self.found = LeftToKernel {
                    flows: self.found.flows + left.flows,
                    without_room: left.without_room,
                }
            }
            // Without ctnetlink, or the right to use it; or there is no memory. Once is enough.
            Err(error) if !std::mem::replace(&mut self.failed, true) => warn!(
                "the kernel's conntrack has flows and cannot be read ({error}): those that it translates to \
                 Services' addresses may be reset; load the module nf_conntrack_netlink"
            ),
            Err(error) => debug!("the kernel's conntrack cannot be read: {error}"),
        }
    }
}
