//! Tables for people. Nothing may depend on their form: that is what JSON is for.

use comfy_table::{Table, presets};

use super::super::report::{Affinity, Backend, Flow, Frontend, Node, Report, Service, Socket};

/// How many backends of a frontend are listed.
const SHOWN: usize = 4;

/// The tables of a report, each with its title if there are several.
pub(super) fn tables(report: &Report) -> String {
    let mut tables = Vec::new();
    if let Some(all) = &report.services {
        tables.push(("SERVICES", services(all)));
    }
    if let Some(all) = &report.backends {
        tables.push(("BACKENDS", backends(all)));
    }
    if let Some(all) = &report.conntrack {
        tables.push(("CONNTRACK (clients outside)", conntrack(all)));
    }
    if let Some(all) = &report.affinity {
        tables.push(("AFFINITY", affinity(all)));
    }
    if let Some(all) = &report.sockets {
        tables.push(("TCP SOCKETS", sockets(all)));
    }
    if let Some(node) = &report.node {
        tables.push(("COUNTERS", counters(node)));
        tables.push(("MAPS", maps(node)));
    }
    let has_titles = tables.len() > 1;
    let texts: Vec<_> = tables
        .iter()
        .map(|(title, table)| match has_titles {
            true => format!("{title}\n{}\n", table.trim_fmt()),
            false => format!("{}\n", table.trim_fmt()),
        })
        .collect();
    texts.join("\n")
}

/// A table with these headings and no borders.
fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings);
    table
}

fn services(services: &[Service]) -> Table {
    let mut table = table([
        "NAMESPACE",
        "SERVICE",
        "PORT",
        "PROTOCOL",
        "FRONTEND",
        "BACKENDS",
        "AFFINITY",
        "SOURCES",
    ]);
    for service in services {
        for frontends in alike(&service.by_frontend) {
            let addresses: Vec<_> = frontends.iter().map(|f| f.address.as_str()).collect();
            table.add_row([
                service.namespace.clone(),
                service.name.clone(),
                or_dash(&service.port_name),
                service.protocol.to_owned(),
                addresses.join("\n"),
                match frontends.first() {
                    Some(frontend) if frontend.bypassed => "the node itself".to_owned(),
                    Some(frontend) => list_backends(service, frontend),
                    None => String::new(),
                },
                match service.affinity_seconds {
                    0 => "-".to_owned(),
                    seconds => format!("{seconds}s"),
                },
                match frontends.first() {
                    Some(frontend) if frontend.has_source_ranges => {
                        service.source_ranges.join("\n")
                    }
                    _ => "-".to_owned(),
                },
            ]);
        }
    }
    table
}

/// The frontends in groups of those that lead the same clients to the same backends: a row each.
fn alike(frontends: &[Frontend]) -> Vec<Vec<&Frontend>> {
    let mut groups = Vec::<Vec<&Frontend>>::new();
    for frontend in frontends {
        let choice = |f: &Frontend| {
            let limits = (f.bypassed, f.has_source_ranges);
            (limits, f.internal.clone(), f.external.clone())
        };
        let group = groups.iter_mut().find(|group| {
            let first = group.first();
            first.is_some_and(|first| choice(first) == choice(frontend))
        });
        match group {
            Some(group) => group.push(frontend),
            None => groups.push(vec![frontend]),
        }
    }
    groups
}

fn backends(backends: &[Backend]) -> Table {
    let mut table = table(["ID", "BACKEND", "PROTOCOL", "SLOTS"]);
    for backend in backends {
        table.add_row([
            backend.id.to_string(),
            backend.address.clone(),
            backend.protocol.to_owned(),
            match backend.slots {
                0 => "quarantined".to_owned(),
                slots => slots.to_string(),
            },
        ]);
    }
    table
}

fn conntrack(flows: &[Flow]) -> Table {
    let mut table = table([
        "PROTOCOL",
        "CLIENT",
        "FRONTEND",
        "BACKEND",
        "CLIENT SEEN AS",
    ]);
    for flow in flows {
        table.add_row([
            flow.protocol,
            &flow.client,
            &flow.frontend,
            &flow.backend,
            flow.seen_as.as_deref().unwrap_or("itself"),
        ]);
    }
    table
}

fn affinity(entries: &[Affinity]) -> Table {
    let mut table = table(["SERVICE", "CLIENT", "BACKEND"]);
    for entry in entries {
        table.add_row([&entry.service, &entry.client, &entry.backend]);
    }
    table
}

fn sockets(sockets: &[Socket]) -> Table {
    let mut table = table(["COOKIE", "SERVICE", "BACKEND"]);
    for socket in sockets {
        table.add_row([&socket.cookie.to_string(), &socket.service, &socket.backend]);
    }
    table
}

fn counters(node: &Node) -> Table {
    let mut table = table(["COUNTER", "VALUE"]);
    for (name, value) in &node.counters {
        table.add_row([(*name).to_owned(), value.to_string()]);
    }
    table
}

fn maps(node: &Node) -> Table {
    let mut table = table(["MAP", "ENTRIES", "CAPACITY"]);
    for (name, fill) in &node.maps {
        table.add_row([
            (*name).to_owned(),
            fill.entries.to_string(),
            fill.capacity.to_string(),
        ]);
    }
    table
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

/// The first few backends that a frontend leads to, and how many more. Those that are not for all
/// clients are marked with the clients that they are for.
fn list_backends(service: &Service, frontend: &Frontend) -> String {
    let mut lines: Vec<_> = service
        .backends
        .iter()
        .filter_map(|backend| {
            let is_in = |ids: &[u32]| ids.contains(&backend.id);
            let address = &backend.address;
            match (is_in(&frontend.internal), is_in(&frontend.external)) {
                (true, true) => Some(address.clone()),
                (true, false) => Some(format!("{address} (inside)")),
                (false, true) => Some(format!("{address} (outside)")),
                (false, false) => None,
            }
        })
        .collect();
    let all = lines.len();
    if all == 0 {
        return "none: refused".to_owned();
    }
    if all > SHOWN {
        lines.truncate(SHOWN);
        lines.push(format!("and {} more", all - SHOWN));
    }
    lines.join("\n")
}
