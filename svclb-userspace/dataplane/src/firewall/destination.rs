//! What rules ask about where a packet goes.

use std::net::IpAddr;

use svclb_core::model::Family;

/// What is known of where a packet goes: now, and by the kernel's conntrack when its connection began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Destination {
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) original_address: Option<IpAddr>,
    pub(super) original_port: Option<u16>,
    pub(super) protocol: Option<u8>,
}

/// A part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    Address,
    Port,
    OriginalAddress,
    OriginalPort,
    Protocol,
}

/// The first and the last value.
pub(super) type Range = (Vec<u8>, Vec<u8>);

/// A condition of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    /// Not about where the packet goes: whether it is met, if that is known.
    Other(Option<bool>),
    Test(Test),
}

/// Whether a part of a field, with some bits of it, lies in one of some ranges, or in none. All are in
/// network byte order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Test {
    pub(super) field: Field,
    /// Which byte of the field is the first.
    pub(super) at: usize,
    pub(super) mask: Vec<u8>,
    pub(super) ranges: Vec<Range>,
    pub(super) is_inverted: bool,
}

impl Test {
    pub(super) fn is_met(&self, to: &Destination) -> Option<bool> {
        let field = match self.field {
            Field::Address => bytes(to.address?),
            Field::OriginalAddress => bytes(to.original_address?),
            Field::Port => to.port?.to_be_bytes().to_vec(),
            Field::OriginalPort => to.original_port?.to_be_bytes().to_vec(),
            Field::Protocol => vec![to.protocol?],
        };
        let part = field.get(self.at..)?.get(..self.mask.len())?;
        let part = part.iter().zip(&self.mask);
        let value: Vec<_> = part.map(|(byte, mask)| byte & mask).collect();
        let mut ranges = self.ranges.iter();
        let is_in_one = ranges.any(|(first, last)| *first <= value && value <= *last);
        Some(is_in_one != self.is_inverted)
    }

    /// Whether it says which addresses or ports are meant.
    pub(super) fn is_name(&self) -> bool {
        self.field != Field::Protocol && !self.is_inverted
    }

    /// For the field of 16 bits of a match of iptables.
    fn ports(field: Field, ranges: &[(u16, u16)], is_inverted: bool) -> Condition {
        let bytes = |(first, last): &(u16, u16)| {
            (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec())
        };
        Condition::Test(Self {
            field,
            at: 0,
            mask: vec![0xff; 2],
            ranges: ranges.iter().map(bytes).collect(),
            is_inverted,
        })
    }

    pub(super) fn address(
        field: Field,
        address: &[u8],
        mask: &[u8],
        is_inverted: bool,
    ) -> Condition {
        Condition::Test(Self {
            field,
            at: 0,
            mask: mask.to_vec(),
            ranges: vec![(address.to_vec(), address.to_vec())],
            is_inverted,
        })
    }

    pub(super) fn protocol(protocol: u8, is_inverted: bool) -> Condition {
        Self::address(Field::Protocol, &[protocol], &[0xff], is_inverted)
    }

    /// `struct xt_tcp`: source ports, destination ports, option, two sets of flags, what is inverted.
    pub(super) fn xt_tcp(info: &[u8]) -> Option<Vec<Condition>> {
        let others = info.get(8..11)?.iter().all(|byte| *byte == 0);
        Self::xt_ports(info, others, *info.get(11)?)
    }

    /// `struct xt_udp`: source ports, destination ports, what is inverted.
    pub(super) fn xt_udp(info: &[u8]) -> Option<Vec<Condition>> {
        Self::xt_ports(info, true, *info.get(8)?)
    }

    fn xt_ports(info: &[u8], others: bool, inverted: u8) -> Option<Vec<Condition>> {
        const DESTINATION: u8 = 2;
        let others = others
            && short(info, 0)? == 0
            && short(info, 2)? == u16::MAX
            && inverted & !DESTINATION == 0;
        let mut conditions = vec![Condition::Other(others.then_some(true))];
        let ports = (short(info, 4)?, short(info, 6)?);
        let is_inverted = inverted & DESTINATION != 0;
        if ports != (0, u16::MAX) || is_inverted {
            conditions.push(Self::ports(Field::Port, &[ports], is_inverted));
        }
        Some(conditions)
    }

    /// `struct xt_multiport_v1`: which ports, how many, the ports, which of them begin a range, inverted.
    pub(super) fn xt_multiport(info: &[u8]) -> Option<Vec<Condition>> {
        const DESTINATION: u8 = 1;
        if *info.first()? != DESTINATION {
            return None;
        }
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < usize::from(*info.get(1)?) {
            let first = short(info, 2 + 2 * at)?;
            at += usize::from(*info.get(32 + at)? != 0);
            ranges.push((first, short(info, 2 + 2 * at)?));
            at += 1;
        }
        let is_inverted = *info.get(47)? != 0;
        Some(vec![Self::ports(Field::Port, &ranges, is_inverted)])
    }

    /// `struct xt_conntrack_mtinfo3` (include/uapi/linux/netfilter/xt_conntrack.h).
    pub(super) fn xt_conntrack(info: &[u8], family: Family) -> Option<Vec<Condition>> {
        const PROTOCOL: u16 = 1 << 1;
        const ADDRESS: u16 = 1 << 3;
        const PORT: u16 = 1 << 9;
        let (flags, inverted) = (short(info, 146)?, short(info, 148)?);
        let is_inverted = |flag| inverted & flag != 0;
        let mut conditions = Vec::new();
        if flags & PROTOCOL != 0 {
            let protocol = u8::try_from(short(info, 136)?).ok()?;
            conditions.push(Self::protocol(protocol, is_inverted(PROTOCOL)));
        }
        if flags & ADDRESS != 0 {
            let length = match family {
                Family::V4 => 4,
                Family::V6 => 16,
            };
            let (address, mask) = (
                info.get(32..)?.get(..length)?,
                info.get(48..)?.get(..length)?,
            );
            let is_inverted = is_inverted(ADDRESS);
            let field = Field::OriginalAddress;
            conditions.push(Self::address(field, address, mask, is_inverted));
        }
        if flags & PORT != 0 {
            let ports = (short(info, 140)?, short(info, 156)?);
            conditions.push(Self::ports(
                Field::OriginalPort,
                &[ports],
                is_inverted(PORT),
            ));
        }
        if flags & !(PROTOCOL | ADDRESS | PORT) != 0 {
            conditions.push(Condition::Other(None));
        }
        Some(conditions)
    }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn short(info: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*info.get(at..)?.first_chunk()?))
}
