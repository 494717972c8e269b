//! What the person sees.

use std::fs;
use std::io::{self, IsTerminal as _};

/// Writes to the standard output, in colour if that is a terminal.
pub(crate) struct Screen {
    colour: bool,
    chapter: u32,
}

/// How a word is set off.
#[derive(Clone, Copy)]
pub(crate) enum Ink {
    Bold,
    Dim,
    Good,
    Backend(usize),
}

impl Screen {
    pub(crate) fn new() -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colour, chapter: 0 }
    }

    pub(crate) fn title(&self) {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        println!(
            "{}  Kubernetes Services at the socket, on Linux {}",
            self.ink(Ink::Bold, "svclb"),
            kernel.trim()
        );
    }

    /// A numbered heading.
    pub(crate) fn chapter(&mut self, text: &str) {
        self.chapter += 1;
        let number = format!("{:>2}", self.chapter);
        println!(
            "\n{}  {}",
            self.ink(Ink::Dim, &number),
            self.ink(Ink::Bold, text)
        );
    }

    /// An indented line.
    pub(crate) fn line(&self, text: &str) {
        println!("    {text}");
    }

    /// A line that says that something went as it should.
    pub(crate) fn good(&self, text: &str) {
        println!("    {} {text}", self.ink(Ink::Good, "✓"));
    }

    /// Text in an ink.
    pub(crate) fn ink(&self, ink: Ink, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Good => "32",
            Ink::Backend(index) => ["36", "33", "35", "34"][index % 4],
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A bar of `count` out of `total`, at most `width` wide, and the count.
    pub(crate) fn bar(&self, index: usize, count: u64, total: u64, width: u64) -> String {
        let eighths = (count * width * 8).checked_div(total).unwrap_or(0);
        let blocks = usize::try_from(eighths / 8).unwrap_or_default();
        let rest = usize::try_from(eighths % 8).unwrap_or_default();
        let mut bar = "█".repeat(blocks);
        bar.push_str(["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][rest]);
        let label = if count == 0 {
            "·".to_owned()
        } else {
            format!("{bar} {count}")
        };
        let room = usize::try_from(width).unwrap_or_default() + 5;
        // Padded by hand: colour codes have no width.
        let padding = room.saturating_sub(label.chars().count());
        format!(
            "{}{}",
            self.ink(Ink::Backend(index), &label),
            " ".repeat(padding)
        )
    }
}

/// Nanoseconds for people.
pub(crate) fn micros(nanos: u64) -> String {
    format!("{}.{} µs", nanos / 1_000, nanos % 1_000 / 100)
}
