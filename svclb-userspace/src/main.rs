//! svclb: a Kubernetes service proxy that replaces kube-proxy with eBPF.
#![forbid(unsafe_code)]

mod agent;
mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One sentence: the chain of causes, and never a backtrace.
            cli::render::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
