//! Flows that the kernel's own conntrack translates, since kube-proxy's rules or another's told it to: at
//! addresses that are a frontend's now, and those that it masquerades and whose replies could be taken for
//! others. They stay the kernel's: `FLOWS` gets entries that leave their packets as they are ([`FlowFlags::OWN`](svclb_common::FlowFlags::OWN)).

mod ctnetlink;
mod pairs;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::io;

use netlink_packet_netfilter::conntrack::Status;
use svclb_common::{
    Addr16, BackendId, BackendValue, FrontendKey, FrontendValue, PortBe, Proto, Scope, Tuple,
    maps as names,
};
use svclb_core::ports::{PortBit, PortRules, PortSet};

use self::ctnetlink::Translated;
use self::pairs::{Pair, pairs, replies};
use crate::maps::flows::{Flows, monotonic_ns};
use crate::maps::ports;
use crate::maps::read::read_all;
use crate::pins::Pins;
use crate::sys::Map;

/// At which frontends flows are looked for.
#[derive(Clone, Copy, Debug)]
pub enum FlowsAt<'a> {
    /// Those that are in the maps, other than those that packets do not reach.
    All,
    /// These, which may not be in the maps yet. Not where the kernel's conntrack is large: a Service would
    /// wait for it.
    These(&'a BTreeSet<FrontendKey>),
}

/// What a look at the kernel's conntrack found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LeftToKernel {
    /// How many flows were not known yet, and go on.
    pub flows: usize,
    /// How many there is no room for in `FLOWS`.
    pub without_room: usize,
}

/// The most flows in the kernel's conntrack for which a new Service waits. One that selects is asked in
/// tens of milliseconds; others hand out all of them, two microseconds each.
const FEW: usize = 131_072;

/// Enters the flows. Those that `FLOWS` knows already are left as they are.
///
/// A UDP flow is entered only where its backend is one of a Service's now: its client would go on sending
/// to one that is gone.
///
/// # Errors
/// The system's error; what was entered before it stays.
pub(crate) fn enter(pins: &Pins, rules: &PortRules, at: FlowsAt<'_>) -> io::Result<LeftToKernel> {
    let tracked = ctnetlink::count();
    if tracked == 0 || matches!(at, FlowsAt::These(_)) && tracked > FEW {
        return Ok(LeftToKernel::default());
    }
    let open = |name| Map::open(&pins.map(name));
    let frontends = match at {
        FlowsAt::All => Cow::Owned(reached(&open(names::FRONTENDS)?, rules)?),
        FlowsAt::These(frontends) => Cow::Borrowed(frontends),
    };
    let mut entering = Entering {
        frontends,
        backends: Backends::Unread(open(names::BACKENDS)?),
        ports: ports::read(&open(names::PORTS)?)?,
        now_ns: monotonic_ns()?,
        flows: Flows::open(pins)?,
        room: None,
        left: LeftToKernel::default(),
    };
    ctnetlink::dump(Status::DstNat, |flow| entering.take(flow))?;
    if matches!(at, FlowsAt::All) {
        ctnetlink::dump(Status::SrcNat, |flow| entering.take_masqueraded(flow))?;
    }
    Ok(entering.left)
}

/// The frontends that packets may be for.
fn reached(map: &Map, rules: &PortRules) -> io::Result<BTreeSet<FrontendKey>> {
    let all = read_all::<FrontendKey, FrontendValue>(map)?.into_iter();
    let reached = all.filter(|(key, value)| rules.of_frontend(key, value).is_some());
    Ok(reached.map(|(key, _)| key).collect())
}

/// The ids of backends. The map is read when the first one is looked for: most often there is none.
enum Backends {
    Unread(Map),
    Read(HashMap<(Addr16, PortBe, Proto), BackendId>),
}

impl Backends {
    fn find(&mut self, addr: Addr16, port: PortBe, proto: Proto) -> io::Result<Option<BackendId>> {
        if let Self::Unread(map) = self {
            let all = read_all::<BackendId, BackendValue>(map)?.into_iter();
            *self = Self::Read(
                all.map(|(id, value)| ((value.addr, value.port, value.proto), id))
                    .collect(),
            );
        }
        Ok(match self {
            Self::Read(ids) => ids.get(&(addr, port, proto)).copied(),
            Self::Unread(_) => None,
        })
    }
}

struct Entering<'a> {
    frontends: Cow<'a, BTreeSet<FrontendKey>>,
    backends: Backends,
    ports: PortSet,
    now_ns: u64,
    flows: Flows,
    /// How many more entries there may be. Counting reads the whole map: not before there is one to enter.
    room: Option<usize>,
    left: LeftToKernel,
}

impl Entering<'_> {
    /// One whose client used a frontend.
    fn take(&mut self, flow: &Translated) -> io::Result<()> {
        let Tuple { dst, dst_port, .. } = flow.original;
        let used = frontend(dst, dst_port, flow.proto);
        if !flow.is_redirected || !self.frontends.contains(&used) {
            return Ok(());
        }
        self.enter(flow)
    }

    /// One that goes to a backend itself from a port that flows of ours could be given, or from the address
    /// and port of a frontend.
    fn take_masqueraded(&mut self, flow: &Translated) -> io::Result<()> {
        let Tuple {
            src_port,
            dst,
            dst_port,
            ..
        } = flow.reply;
        let is_from_frontend = self
            .frontends
            .contains(&frontend(dst, dst_port, flow.proto));
        let may_be_mistaken = is_from_frontend
            || self.ports.contains(PortBit::ingress(dst_port))
                && self.ports.contains(PortBit::egress(src_port));
        if flow.is_redirected || !may_be_mistaken {
            return Ok(());
        }
        self.enter_pairs(&[replies(flow, self.now_ns)])
    }

    /// The id of the backend where that decides for how long the flow stays, else zero; none for a UDP
    /// flow whose backend is gone.
    fn backend(&mut self, flow: &Translated) -> io::Result<Option<BackendId>> {
        if flow.proto != Proto::UDP {
            return Ok(Some(BackendId::default()));
        }
        let Tuple { src, src_port, .. } = flow.reply;
        self.backends.find(src, src_port, flow.proto)
    }

    fn enter(&mut self, flow: &Translated) -> io::Result<()> {
        let Some(backend) = self.backend(flow)? else {
            return Ok(());
        };
        let looks_at = |port| self.ports.contains(PortBit::ingress(port));
        let pairs = pairs(flow, backend, self.now_ns, looks_at);
        self.enter_pairs(&pairs)
    }

    /// Enters the pairs of a flow; without the first one none of them.
    fn enter_pairs(&mut self, pairs: &[Pair]) -> io::Result<()> {
        let mut room = match self.room {
            Some(room) => room,
            // The other half is for flows of our own.
            None => (self.flows.capacity() as usize / 2).saturating_sub(self.flows.entries()?),
        };
        let needed = 2 * pairs.len();
        if room < needed {
            let is_known = pairs.first().map(|[(key, _), _]| self.flows.contains(key));
            self.left.without_room += usize::from(!is_known.transpose()?.unwrap_or(true));
        } else {
            for (index, pair) in pairs.iter().enumerate() {
                let is_entered = self.flows.enter(pair)?;
                // Without the first one it is known, or has become a flow of ours.
                if index == 0 && !is_entered {
                    break;
                }
                self.left.flows += usize::from(index == 0);
                room -= 2 * usize::from(is_entered);
            }
        }
        self.room = Some(room);
        Ok(())
    }
}

/// The frontend of packets to an address and port.
const fn frontend(addr: Addr16, port: PortBe, proto: Proto) -> FrontendKey {
    FrontendKey {
        addr,
        port,
        proto,
        scope: Scope::ANY,
    }
}
