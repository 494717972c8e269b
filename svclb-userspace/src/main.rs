//! svclb: a Kubernetes service proxy that replaces kube-proxy with eBPF.
#![deny(unsafe_code)]

mod agent;
mod capabilities;
mod cli;
mod memory;

use std::process::ExitCode;

fn main() -> ExitCode {
    memory::give_back_at_once();
    match cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One sentence: the chain of causes, and never a backtrace.
            cli::render::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
