//! `docs`: the parts of the documents that are written from the code.

use anyhow::Result;

use crate::process;

/// A test that compares a document with the code, or writes it: its package, its target, its name.
const DOCUMENTS: [[&str; 3]; 2] = [
    ["svclb-common", "map_contract", "the_document_is_current"],
    [
        "svclb-tests",
        "lab",
        "conformance::document::the_document_is_current",
    ],
];

/// Writes all of them.
pub(crate) fn write() -> Result<()> {
    run(Some("1"))
}

/// An error if one is not as the code has it.
pub(crate) fn check() -> Result<()> {
    run(None)
}

fn run(write: Option<&str>) -> Result<()> {
    for [package, target, test] in DOCUMENTS {
        let mut cargo = process::cargo();
        cargo.args(["test", "--quiet", "--package", package, "--test", target]);
        cargo.args(["--", test]);
        match write {
            Some(value) => cargo.env("SVCLB_WRITE_DOCS", value),
            None => cargo.env_remove("SVCLB_WRITE_DOCS"),
        };
        process::run(&mut cargo)?;
    }
    Ok(())
}
