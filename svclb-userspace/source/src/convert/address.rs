//! Addresses and ranges in the notations that Kubernetes' own parser takes (`k8s.io/utils/net`,
//! `ParseIPSloppy` and `ParseCIDRSloppy`): it goes on taking leading zeros in IPv4, which are no octal.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// An address: no zone, no port. One that is mapped into IPv6 is the IPv4 one, as in Go.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    plain(text).map(|ip| ip.to_canonical())
}

/// A range of addresses; it may have host bits.
pub(super) fn range(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    // `parse` takes a sign.
    let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
    let length = length.parse().ok().filter(|_| is_number)?;
    IpNet::new(plain(address)?, length).ok()
}

fn plain(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| {
        // The last 32 bits of an IPv6 address may be written as an IPv4 one.
        let start = text.rfind(':').map_or(0, |colon| colon + 1);
        let (before, v4) = text.split_at(start);
        let v4 = with_leading_zeros(v4)?;
        format!("{before}{v4}").parse().ok()
    })
}

fn with_leading_zeros(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        *octet = part.parse().ok().filter(|_| is_number)?;
    }
    parts.next().is_none().then(|| octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ip: Option<IpAddr>) -> Option<String> {
        ip.map(|ip| ip.to_string())
    }

    #[test]
    fn leading_zeros_are_no_octal() {
        for (written, meant) in [
            ("010.096.000.010", "10.96.0.10"),
            ("0000010.0.0.08", "10.0.0.8"),
            ("10.0.0.255", "10.0.0.255"),
            ("::ffff:010.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("64:ff9b::010.0.0.1", "64:ff9b::a00:1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(text(address(written)).as_deref(), Some(meant), "{written}");
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        for wrong in [
            "",
            "10.0.0",
            "10.0.0.256",
            "10.0.0.1.2",
            "10.0.0.+1",
            "10.0.0.",
            "0x0a.0.0.1",
            "10.0.0.1 ",
            "fe80::1%eth0",
            "[::1]",
            "010.0.0.1:80",
            "a:010.0.0.1",
        ] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ranges_have_leading_zeros_too() {
        let found = |text| range(text).map(|range| range.to_string());
        assert_eq!(found("010.1.2.3/08").as_deref(), Some("10.1.2.3/8"));
        assert_eq!(found("2001:db8::/32").as_deref(), Some("2001:db8::/32"));
        for wrong in ["10.0.0.0", "10.0.0.0/+8", "10.0.0.0/33", "10.0.0.0/", "/8"] {
            assert_eq!(found(wrong), None, "{wrong}");
        }
    }
}
