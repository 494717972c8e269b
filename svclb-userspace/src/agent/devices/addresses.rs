//! A device's addresses, and which of them it sends from.

use std::net::IpAddr;

use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};

/// An address of scope "global" (rtnetlink(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Address {
    pub(super) ip: IpAddr,
    prefix: u8,
    flags: AddressFlags,
}

impl Address {
    pub(super) fn of(message: &AddressMessage) -> Option<Self> {
        if message.header.scope != AddressScope::Universe {
            return None;
        }
        // On a point-to-point device `Address` is the far end, and `Local` ours; IPv6 has only
        // `Address` otherwise. The flags of the header are the first eight.
        let (mut address, mut local) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        Some(Self {
            ip: local.or(address)?,
            prefix: message.header.prefix_len,
            flags,
        })
    }

    /// Whether it is one of a range that others on the link have addresses of.
    pub(super) const fn has_subnet(&self) -> bool {
        self.prefix < if self.ip.is_ipv4() { 32 } else { 128 }
    }

    /// Whether the kernel sends from it: not while it is unknown whether another has it.
    fn is_usable(&self) -> bool {
        let is_unsure = self.flags.contains(AddressFlags::Tentative)
            && !self.flags.contains(AddressFlags::Optimistic);
        !is_unsure && !self.flags.contains(AddressFlags::Dadfailed)
    }
}

/// A device's addresses in the order in which it was given them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Addresses(Vec<Address>);

impl Addresses {
    /// Takes in that the device has an address now, or has it with other flags.
    pub(super) fn add(&mut self, address: Address) {
        match self.known(address.ip) {
            Some(known) => *known = address,
            None => self.0.push(address),
        }
    }

    /// Takes in the next entry of a listing. The kernel lists those of IPv6 in the opposite order, the
    /// newest first.
    pub(super) fn list(&mut self, address: Address) {
        match self.known(address.ip) {
            Some(known) => *known = address,
            None if address.ip.is_ipv6() => self.0.insert(0, address),
            None => self.0.push(address),
        }
    }

    pub(super) fn remove(&mut self, ip: IpAddr) {
        self.0.retain(|address| address.ip != ip);
    }

    fn known(&mut self, ip: IpAddr) -> Option<&mut Address> {
        self.0.iter_mut().find(|address| address.ip == ip)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Address> {
        self.0.iter()
    }

    /// The addresses that the device can send from, the best first: as the kernel chooses, and of those
    /// between which it does not, that which the device has longest. A virtual address (VRRP's, a
    /// cluster's) comes later than the device's own, and may go while flows last.
    pub(super) fn sources(&self) -> Vec<IpAddr> {
        let mut usable: Vec<_> = self.iter().filter(|address| address.is_usable()).collect();
        // Of IPv6, the bit of a secondary address is that of a temporary one.
        usable.sort_by_key(|address| {
            (
                address.flags.contains(AddressFlags::Deprecated),
                !address.has_subnet(),
                address.flags.contains(AddressFlags::Secondary),
            )
        });
        usable.into_iter().map(|address| address.ip).collect()
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::AddressHeaderFlags;

    use super::super::messages;
    use super::*;

    fn address(cidr: &str, flags: AddressFlags) -> Address {
        let mut message = messages::address(1, cidr);
        message.attributes.push(AddressAttribute::Flags(flags));
        Address::of(&message).unwrap()
    }

    fn sources(addresses: &[(&str, AddressFlags)]) -> Vec<String> {
        let mut all = Addresses::default();
        for (cidr, flags) in addresses {
            all.add(address(cidr, *flags));
        }
        all.sources().iter().map(IpAddr::to_string).collect()
    }

    const NONE: AddressFlags = AddressFlags::Permanent;
    /// Also `IFA_F_TEMPORARY`.
    const SECONDARY: AddressFlags = AddressFlags::Secondary;

    #[test]
    fn an_address_that_may_go_comes_after_the_devices_own() {
        // keepalived's, of the same range and without one.
        let found = sources(&[
            ("10.0.1.1/32", NONE),
            ("10.0.1.5/24", NONE),
            ("10.0.1.2/24", SECONDARY),
            ("10.0.2.1/24", NONE),
        ]);
        assert_eq!(found, ["10.0.1.5", "10.0.2.1", "10.0.1.2", "10.0.1.1"]);
        let found = sources(&[
            ("2001:db8::1/64", SECONDARY),
            ("2001:db8::2/64", AddressFlags::Deprecated),
            ("2001:db8::3/128", NONE),
            ("2001:db8::9/64", NONE),
            ("2001:db8::8/64", NONE),
        ]);
        let order = ["9", "8", "1", "3", "2"].map(|last| format!("2001:db8::{last}"));
        assert_eq!(found, order);
    }

    #[test]
    fn an_address_that_another_may_have_is_not_sent_from() {
        let found = sources(&[
            ("2001:db8::1/64", AddressFlags::Tentative),
            ("2001:db8::2/64", AddressFlags::Dadfailed),
            (
                "2001:db8::3/64",
                AddressFlags::Tentative | AddressFlags::Optimistic,
            ),
        ]);
        assert_eq!(found, ["2001:db8::3"]);
    }

    #[test]
    fn what_is_listed_is_in_the_order_of_what_was_added() {
        let cidrs = ["10.0.0.9/24", "10.0.1.1/24"];
        let ipv6 = ["2001:db8::9/64", "2001:db8::1/64"];
        let mut added = Addresses::default();
        let mut listed = Addresses::default();
        for cidr in cidrs.into_iter().chain(ipv6) {
            added.add(address(cidr, NONE));
        }
        for cidr in cidrs.into_iter().chain(ipv6.into_iter().rev()) {
            listed.list(address(cidr, NONE));
        }
        // Said again, with a flag.
        added.add(address(cidrs[0], NONE));
        for is_v4 in [true, false] {
            let of_family = |all: &Addresses| {
                let mut all = all.sources();
                all.retain(|ip| ip.is_ipv4() == is_v4);
                all
            };
            assert_eq!(of_family(&listed), of_family(&added));
        }
    }

    #[test]
    fn without_the_attribute_the_flags_are_the_headers() {
        let mut message = messages::address(1, "10.0.0.1/24");
        message.header.flags = AddressHeaderFlags::Secondary;
        let address = Address::of(&message).unwrap();
        assert!(address.flags.contains(AddressFlags::Secondary));
    }
}
