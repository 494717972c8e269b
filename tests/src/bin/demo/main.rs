//! The main job in one sitting: real traffic through the real kernel, from the manifests
//! in deploy/examples, in a lab of its own.

mod play;
mod scenes;
mod screen;
mod stage;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use svclb_tests::Lab;

use crate::screen::Screen;
use crate::stage::Stage;

/// Shows svclb at work in a lab of its own. Needs root.
#[derive(Parser)]
struct Args {
    /// Leave the lab open to play in.
    #[arg(long, conflicts_with = "clean")]
    keep: bool,
    /// Remove every lab that --keep left open.
    #[arg(long)]
    clean: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let mut screen = Screen::new();
    if args.clean {
        let removed = Lab::remove_kept()?;
        screen.line(&format!("removed {} kept lab(s)", removed.len()));
        return Ok(());
    }
    screen.title();
    let mut stage = Stage::set(&mut screen)?;
    scenes::distribution(&mut screen, &stage)?;
    scenes::names(&mut screen, &stage)?;
    scenes::affinity(&mut screen, &stage)?;
    scenes::refusal(&mut screen, &stage)?;
    scenes::outside(&mut screen, &stage)?;
    scenes::left_alone(&mut screen, &stage)?;
    scenes::dump(&mut screen, &stage)?;
    scenes::change(&mut screen, &mut stage)?;
    if args.keep {
        return play::keep(&mut screen, stage);
    }
    scenes::agent_away(&mut screen, &mut stage)?;
    stage.strike(&mut screen)
}
