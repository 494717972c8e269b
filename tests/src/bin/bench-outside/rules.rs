//! Rule sets of the shape that kube-proxy gives them, for a Service of one endpoint at a node
//! port among many Services of ten at their cluster IPs.
//!
//! Chains and their order follow what kube-proxy 1.35 writes in either mode; what has no part in
//! a packet's way from outside to a node port (health checks, local traffic) is left out.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Endpoints of each other Service.
const ENDPOINTS: u32 = 10;

pub(crate) struct Rules {
    /// How many Services there are in all.
    pub(crate) services: u32,
    /// The node's own address.
    pub(crate) node: Ipv4Addr,
    /// The Service's ports: protocol, number at the node, and where it leads.
    pub(crate) ports: [(&'static str, u16, SocketAddrV4); 2],
}

fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 97, 0, 1)) + number)
}

fn endpoint(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 1)) + number)
}

impl Rules {
    /// For `iptables-restore`.
    pub(crate) fn iptables(&self) -> Result<String, fmt::Error> {
        let Self {
            services, ports, ..
        } = self;
        let mut chains = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n");
        chains += ":KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-EXT-0 - [0:0]\n";
        let mut rules = String::from(
            "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n\
             -A POSTROUTING -j KUBE-POSTROUTING\n\
             -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n",
        );
        for number in 1..*services {
            let ip = cluster_ip(number);
            writeln!(chains, ":KUBE-SVC-{number} - [0:0]")?;
            writeln!(
                rules,
                "-A KUBE-SERVICES -d {ip}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{number}"
            )?;
            for slot in 0..ENDPOINTS {
                let to = endpoint(number * ENDPOINTS + slot);
                let chain = format!("KUBE-SEP-{number}-{slot}");
                writeln!(chains, ":{chain} - [0:0]")?;
                let left = ENDPOINTS - slot;
                let probability = 1.0 / f64::from(left);
                let chance = match left {
                    1 => String::new(),
                    _ => format!("-m statistic --mode random --probability {probability:.10} "),
                };
                writeln!(rules, "-A KUBE-SVC-{number} {chance}-j {chain}")?;
                writeln!(rules, "-A {chain} -s {to}/32 -j KUBE-MARK-MASQ")?;
                writeln!(
                    rules,
                    "-A {chain} -p tcp -m tcp -j DNAT --to-destination {to}:8080"
                )?;
            }
        }
        rules += "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
        rules += "-A KUBE-EXT-0 -j KUBE-MARK-MASQ\n";
        for (proto, node_port, backend) in ports {
            let pod = backend.ip();
            writeln!(
                chains,
                ":KUBE-SVC-0-{proto} - [0:0]\n:KUBE-SEP-0-{proto} - [0:0]"
            )?;
            write!(
                rules,
                "-A KUBE-NODEPORTS -p {proto} -m {proto} --dport {node_port} -j KUBE-EXT-0\n\
                 -A KUBE-EXT-0 -p {proto} -j KUBE-SVC-0-{proto}\n\
                 -A KUBE-SVC-0-{proto} -j KUBE-SEP-0-{proto}\n\
                 -A KUBE-SEP-0-{proto} -s {pod}/32 -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-0-{proto} -p {proto} -m {proto} -j DNAT --to-destination {backend}\n"
            )?;
        }
        let filter = "*filter\n:KUBE-FORWARD - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
             -A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
             -A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
             -A FORWARD -j KUBE-FORWARD\n\
             -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
             -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n";
        Ok(format!("{filter}{chains}{rules}COMMIT\n"))
    }

    /// For `nft -f`.
    pub(crate) fn nftables(&self) -> Result<String, fmt::Error> {
        let Self {
            services,
            node,
            ports,
        } = self;
        let mut text = String::from("table ip kube-proxy {\n");
        let mut addresses = String::new();
        text += "chain mark-for-masquerade { meta mark set meta mark | 0x4000; }\n";
        text += "chain masquerading {\n meta mark & 0x4000 == 0 return\n \
                 meta mark set meta mark ^ 0x4000\n masquerade fully-random\n}\n";
        for number in 1..*services {
            for slot in 0..ENDPOINTS {
                let to = endpoint(number * ENDPOINTS + slot);
                writeln!(
                    text,
                    "chain endpoint-{number}-{slot} {{ ip saddr {to} jump mark-for-masquerade; \
                     meta l4proto tcp dnat to {to}:8080; }}"
                )?;
            }
            let slots: Vec<_> = (0..ENDPOINTS)
                .map(|slot| format!("{slot} : goto endpoint-{number}-{slot}"))
                .collect();
            writeln!(
                text,
                "chain service-{number} {{ numgen random mod {ENDPOINTS} vmap {{ {} }}; }}",
                slots.join(", ")
            )?;
            let ip = cluster_ip(number);
            writeln!(addresses, "{ip} . tcp . 80 : goto service-{number},")?;
        }
        let mut node_ports = Vec::new();
        for (proto, node_port, backend) in ports {
            let pod = backend.ip();
            node_ports.push(format!("{proto} . {node_port} : goto external-0-{proto}"));
            writeln!(
                text,
                "chain endpoint-0-{proto} {{ ip saddr {pod} jump mark-for-masquerade; \
                 meta l4proto {proto} dnat to {backend}; }}\n\
                 chain service-0-{proto} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-0-{proto} }}; }}\n\
                 chain external-0-{proto} {{ jump mark-for-masquerade; goto service-0-{proto}; }}"
            )?;
        }
        let elements = match addresses.is_empty() {
            true => String::new(),
            false => format!("elements = {{ {addresses} }}\n"),
        };
        write!(
            text,
            "map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict\n{elements}}}\n\
             map service-nodeports {{ type inet_proto . inet_service : verdict\n\
             elements = {{ {} }} }}\n\
             set nodeport-ips {{ type ipv4_addr; elements = {{ {node} }} }}\n\
             chain services {{\n\
             ip daddr . meta l4proto . th dport vmap @service-ips\n\
             ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports\n}}\n\
             chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
             chain nat-output {{ type nat hook output priority -100; jump services; }}\n\
             chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}\n\
             chain firewall-check {{ }}\n\
             chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}\n\
             chain filter-forward {{ type filter hook forward priority -110; ct state new jump firewall-check; }}\n}}\n",
            node_ports.join(", ")
        )?;
        Ok(text)
    }
}
