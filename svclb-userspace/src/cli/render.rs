//! The only place that prints.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the only place that prints"
)]

use std::io::Write;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::args::Output;

/// A line for a person.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Why a command failed.
pub(crate) fn error(text: &str) {
    eprintln!("svclb: {text}");
}

/// Something that can be a table, and is a value.
pub(crate) trait Tabular: Serialize {
    /// The tables, each with its title.
    fn tables(&self) -> Vec<(String, Table)>;
}

/// A table with these headings and no borders.
pub(crate) fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings);
    table
}

/// Prints a value in the form asked for.
pub(crate) fn print(value: &impl Tabular, output: Output) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, value)?;
            writeln!(out)?;
        }
        Output::Yaml => write!(out, "{}", serde_saphyr::to_string(value)?)?,
        Output::Table => {
            let tables = value.tables();
            for (number, (title, table)) in tables.iter().enumerate() {
                if number > 0 {
                    writeln!(out)?;
                }
                if tables.len() > 1 {
                    writeln!(out, "{title}")?;
                }
                writeln!(out, "{}", table.trim_fmt())?;
            }
        }
    }
    Ok(())
}
