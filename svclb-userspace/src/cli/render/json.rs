//! JSON, and YAML of the same value.

use super::super::report::Report;

pub(super) fn json(report: &Report) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

pub(super) fn yaml(report: &Report) -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(report)?)
}
