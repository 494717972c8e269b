//! What packets of clients outside the firewall is asked about.

use svclb_common::{Scope, ServiceFamily};
use svclb_core::model::Family;
use svclb_core::plan::{FrontendKind, PortPlan};
use svclb_dataplane::{Frontend, Traffic};

/// How many pods of a family are asked about: one network plugin's rules treat all alike.
const PODS: usize = 8;

/// Adds the packets of a Service port's clients outside.
pub(super) fn add(traffic: &mut Traffic, plan: &PortPlan) {
    let family = match plan.record.family {
        ServiceFamily::V6 => Family::V6,
        _ => Family::V4,
    };
    if !traffic.families.contains(&family) {
        traffic.families.push(family);
    }
    for backend in plan
        .slots
        .iter()
        .filter(|backend| backend.locality.is_local())
    {
        let pod = backend.addr.to_ip();
        let alike = traffic
            .pods
            .iter()
            .filter(|one| one.is_ipv4() == pod.is_ipv4());
        if alike.count() < PODS && !traffic.pods.contains(&pod) {
            traffic.pods.push(pod);
        }
    }
    let backend = plan.slots.first().map(|backend| backend.socket_addr());
    let of_outside = plan.frontends.iter().filter(|frontend| {
        frontend.kind != FrontendKind::ClusterIp
            && frontend.key.scope == Scope::ANY
            && !frontend.key.is_other_ports()
    });
    traffic
        .frontends
        .extend(of_outside.map(|frontend| Frontend {
            at: frontend.key.socket_addr(),
            protocol: frontend.key.proto.number(),
            backend,
        }));
}

/// Of backends at the node's own addresses, which the kernel forwards nothing to, the firewall is not asked.
pub(super) fn leave_out_own(traffic: &mut Traffic) {
    let Traffic {
        pods, frontends, ..
    } = traffic;
    pods.retain(|pod| !frontends.iter().any(|frontend| frontend.at.ip() == *pod));
}
