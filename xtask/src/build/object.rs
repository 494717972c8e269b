//! What must hold for a finished file, read from its symbols and headers.

use anyhow::{Context as _, Result, bail};
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _};
use std::fs;
use std::path::Path;

/// An object of BPF programs may hold no way to panic: the verifier would refuse the endless loop
/// that a panic ends in, and a program that reached it would have lost the packet.
pub(super) fn check_programs(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("{} is missing", file.display()))?;
    let elf = parse(&bytes, file)?;
    let panics: Vec<&str> = elf
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| name.contains("panic") || name.contains("rust_begin_unwind"))
        .collect();
    if panics.is_empty() {
        return Ok(());
    }
    bail!(
        "the eBPF programs can panic ({}): look for an index, a division or an arithmetic that is not checked",
        panics.join(", ")
    )
}

/// A static binary asks for no dynamic loader.
pub(super) fn check_static(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("{} is missing", file.display()))?;
    let elf = parse(&bytes, file)?;
    let dynamic = elf
        .elf_program_headers()
        .iter()
        .any(|header| header.p_type(Endianness::Little) == PT_INTERP);
    if dynamic {
        bail!(
            "{} is not static: it asks for a dynamic loader",
            file.display()
        );
    }
    Ok(())
}

fn parse<'a>(bytes: &'a [u8], file: &Path) -> Result<ElfFile64<'a, Endianness>> {
    ElfFile64::parse(bytes).with_context(|| format!("{} is no ELF file", file.display()))
}
