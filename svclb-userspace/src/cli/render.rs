//! The only place that prints.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the only place that prints"
)]

mod json;
mod tables;

use super::args::Output;
use super::report::Report;

/// A line for a person.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Why a command failed.
pub(crate) fn error(text: &str) {
    eprintln!("svclb: {text}");
}

/// Prints a report.
pub(super) fn print(report: &Report, output: Output) -> anyhow::Result<()> {
    use std::io::Write as _;
    let text = render(report, output)?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// The text of a report, with a line break at its end.
pub(super) fn render(report: &Report, output: Output) -> anyhow::Result<String> {
    match output {
        Output::Json => json::json(report),
        Output::Yaml => json::yaml(report),
        Output::Table => Ok(tables::tables(report)),
    }
}
