//! `svclb dump`: the maps, as they are in the kernel.

use anyhow::Context as _;
use svclb_common::maps as names;
use svclb_dataplane::{Pinned, features};

use super::args::{Dump, What};
use super::report::{Node, Report, affinity, backends, conntrack, services, sockets};
use super::{pin_dir, render};

pub(crate) fn dump(args: &Dump) -> anyhow::Result<()> {
    let pinned = Pinned::open(&pin_dir(args.pins.pin_dir.clone())?)?;
    let cannot_read = |map: &str| format!("the map {map} cannot be read");
    let maps = pinned
        .snapshot()
        .context("the planned maps cannot be read")?;
    let is_wanted = |what| args.what == what || args.what == What::All;
    let mut report = Report::default();
    if is_wanted(What::Services) {
        report.services = Some(services(&maps));
    }
    if is_wanted(What::Backends) {
        report.backends = Some(backends(&maps));
    }
    if is_wanted(What::Conntrack) {
        // Of clients outside only: of sockets the kernel's own connection is the state.
        report.conntrack = Some(conntrack(
            pinned.flows().with_context(|| cannot_read(names::FLOWS))?,
        ));
    }
    if is_wanted(What::Affinity) {
        report.affinity = Some(affinity(
            pinned
                .affinity()
                .with_context(|| cannot_read(names::AFFINITY))?,
            &maps,
        ));
    }
    if is_wanted(What::Sockets) {
        report.sockets = Some(sockets(
            pinned
                .sockets()
                .with_context(|| cannot_read(names::PEERS))?,
        ));
    }
    if args.what == What::All {
        report.node = Some(Node::read(&pinned, &maps, features())?);
    }
    render::print(&report, args.output)
}

#[cfg(test)]
mod tests;
