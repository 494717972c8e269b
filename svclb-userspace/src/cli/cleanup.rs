//! `svclb cleanup`

use super::args::Pins;
use super::{pin_dir, render};

pub(crate) fn cleanup(pins: &Pins) -> anyhow::Result<()> {
    let dir = pin_dir(pins.pin_dir.clone())?;
    let removed = svclb_dataplane::cleanup(&dir)?;
    if removed.is_empty() {
        render::line(&format!("nothing of svclb was in {}", dir.display()));
    } else {
        render::line(&format!(
            "removed {} pins and directories of svclb in {}; connections to Services are no longer translated",
            removed.len(),
            dir.display()
        ));
    }
    Ok(())
}
