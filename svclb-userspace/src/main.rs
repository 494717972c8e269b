//! svclb: a Kubernetes service proxy that replaces kube-proxy with eBPF.
#![deny(unsafe_code)]

mod agent;
mod capabilities;
mod cli;
mod memory;

use std::process::ExitCode;

use svclb_core::error_chain::error_chain;

fn main() -> ExitCode {
    memory::give_back_at_once();
    match cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One sentence: the chain of causes, and never a backtrace.
            cli::render::error(&error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
