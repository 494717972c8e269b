//! The documents of a file.

use std::io::{self, BufRead};

/// Takes a file apart into documents (YAML 1.2.2 chapter 9).
pub(super) struct Documents<R> {
    file: R,
    /// What of a line belongs to the next document.
    next: String,
    is_begun: bool,
}

impl<R: BufRead> Documents<R> {
    pub(super) const fn new(file: R) -> Self {
        Self {
            file,
            next: String::new(),
            is_begun: false,
        }
    }

    /// All that is left, or `None` if that is blank.
    pub(super) fn whole(&mut self) -> io::Result<Option<String>> {
        let mut text = String::new();
        self.file.read_to_string(&mut text)?;
        let text = match text.strip_prefix(BYTE_ORDER_MARK) {
            Some(text) => text.to_owned(),
            None => text,
        };
        Ok((!text.trim().is_empty()).then_some(text))
    }

    /// The next document that holds more than comments.
    ///
    /// A line that begins with `---` begins a document, one with `...` ends it, and directives before
    /// `---` are none of its content. `%YAML` is left out: documents are read alike in every version.
    pub(super) fn next_document(&mut self) -> io::Result<Option<String>> {
        let mut text = String::new();
        let mut has_content = false;
        let mut has_directives = false;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(has_content.then_some(text));
            }
            if is_directive(&line) {
                if has_content {
                    self.next = line;
                    return Ok(Some(text));
                }
                if !line.starts_with("%YAML") {
                    has_directives = true;
                    text.push_str(&line);
                }
            } else if let Some(rest) = marked(&line, "---") {
                if has_content {
                    self.next = line;
                    return Ok(Some(text));
                }
                if has_directives {
                    text.push_str("---");
                } else {
                    text.clear();
                }
                has_content = has_content_in(rest);
                text.push_str(rest);
            } else if marked(&line, "...").is_some() {
                if has_content {
                    return Ok(Some(text));
                }
                text.clear();
                has_directives = false;
            } else {
                has_content |= has_content_in(&line);
                text.push_str(&line);
            }
        }
    }

    /// The next line with its end; empty at the end of the file.
    fn line(&mut self) -> io::Result<String> {
        let mut line = std::mem::take(&mut self.next);
        if line.is_empty() {
            self.file.read_line(&mut line)?;
            let is_first = !std::mem::replace(&mut self.is_begun, true);
            if is_first && let Some(rest) = line.strip_prefix(BYTE_ORDER_MARK) {
                return Ok(rest.to_owned());
            }
        }
        Ok(line)
    }
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// What stands behind a marker at the beginning of a line.
fn marked<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(marker)?;
    (rest.trim_start().is_empty() || rest.starts_with([' ', '\t'])).then_some(rest)
}

fn is_directive(line: &str) -> bool {
    line.starts_with("%YAML") || line.starts_with("%TAG")
}

fn has_content_in(line: &str) -> bool {
    let line = line.trim();
    !(line.is_empty() || line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Vec<String> {
        let mut documents = Documents::new(text.as_bytes());
        let next = || documents.next_document().unwrap();
        let read: Vec<String> = std::iter::from_fn(next).collect();
        let without_comment = |text: &String| match text.trim().split_once('\n') {
            Some((first, rest)) if first.starts_with('#') => rest.to_owned(),
            _ => text.trim().to_owned(),
        };
        read.iter().map(without_comment).collect()
    }

    #[test]
    fn documents_are_found_in_every_notation_of_their_ends() {
        for text in [
            "a: 1\n---\nb: 2\n",
            "---\na: 1\n---\nb: 2",
            "--- # one\na: 1\n--- # two\nb: 2\n",
            "---\r\na: 1\r\n---\r\nb: 2\r\n",
            "a: 1\n...\nb: 2\n...\n",
            "a: 1\n...\n---\nb: 2\n...\n---\n",
            "%YAML 1.2\n---\na: 1\n...\n%YAML 1.1\n---\nb: 2\n",
            "%YAML 1.2\n---\na: 1\n%YAML 1.2\n---\nb: 2\n",
            "%YAML 1.2\na: 1\n---\nb: 2\n",
            "--- a: 1\n--- b: 2\n",
            "---\ta: 1\n---\t\n---   \n\nb: 2\n",
            "\u{feff}---\na: 1\n---\n# only a comment\n---\n---\nb: 2\n",
            "\u{feff}a: 1\n---\nb: 2\n",
        ] {
            assert_eq!(documents(text), ["a: 1", "b: 2"], "{text:?}");
        }
    }

    #[test]
    fn what_only_looks_like_a_marker_is_content() {
        for text in [
            "a: |\n  ---\n  ...\n  %YAML 1.2",
            "---a: 1\n...b: 2\n a: %x",
        ] {
            assert_eq!(documents(text), [text]);
        }
        assert_eq!(documents("%YAML 1.2\n---\n...\n# nothing\n"), [""; 0]);
    }

    #[test]
    fn a_directive_for_tags_goes_with_its_document() {
        let text = "%TAG ! tag:example.com,2026:\n---\na: 1\n";
        assert_eq!(documents(text), [text.trim()]);
    }
}
