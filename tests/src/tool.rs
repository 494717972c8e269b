//! Programs of the network's administrator, run in the namespace of the calling thread.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a program with a script as its standard input.
///
/// # Errors
/// What the program says, with the script; or that `package` has to be installed.
pub fn feed(command: &mut Command, package: &str, script: &str) -> Result<()> {
    answer(command, package, script).map(drop)
}

/// The same, and returns what it prints.
pub(crate) fn answer(command: &mut Command, package: &str, script: &str) -> Result<String> {
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{shown}`: install {package}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(script.as_bytes())
            .with_context(|| format!("`{shown}` went away"))?;
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for `{shown}`"))?;
    check(&shown, &output).with_context(|| format!("in:\n{script}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Loads a rule set in the namespace of the calling thread.
pub(crate) fn nft(rules: &str) -> Result<()> {
    feed(Command::new("nft").args(["-f", "-"]), "nftables", rules)
}

/// Runs a program that needs no input.
pub(crate) fn run(command: &mut Command, package: &str) -> Result<()> {
    output(command, package).map(drop)
}

/// Runs a program that needs no input, and returns what it prints.
pub(crate) fn output(command: &mut Command, package: &str) -> Result<String> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{shown}`: install {package}"))?;
    check(&shown, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn check(shown: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "`{shown}` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|word| word.to_string_lossy()));
    words.join(" ")
}
