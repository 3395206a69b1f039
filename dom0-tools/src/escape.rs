//! What a terminal would obey, made visible.
//!
//! Names of files, notes of kernels and whatever else is shown come from others. A terminal takes some characters as
//! orders: to move, to clear, to hide or turn around what stands beside them.

use std::fmt::{self, Write};

/// Writes text, with escapes in the place of characters that are not shown as they are.
#[derive(Debug)]
pub struct Escaped<W>(pub W);

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(commands) {
            let (shown, from) = rest.split_at(at);
            self.0.write_str(shown)?;
            let mut characters = from.chars();
            if let Some(command) = characters.next() {
                write!(self.0, "{}", command.escape_unicode())?;
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

/// One line of text, without its end.
pub fn line(text: fmt::Arguments<'_>) -> String {
    let mut escaped = Escaped(String::new());
    // A String takes everything; what a value's Display does not give is not shown.
    let _ = escaped.write_fmt(text);
    escaped.0
}

/// JSON in which nothing but line ends is written as it is. It has such characters inside strings alone.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character != '\n' && commands(character) {
            // All of them lie below U+10000.
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out
}

/// Control characters, and those of Unicode that end a line or change its direction.
fn commands(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        let hostile = "a\x1b[2Jb\nc\rd\u{9b}31me\u{7f}\u{202e}f\u{2028}\u{2066}";
        let shown = line(format_args!("{hostile} {}", "\x07"));
        assert_eq!(
            shown,
            "a\\u{1b}[2Jb\\u{a}c\\u{d}d\\u{9b}31me\\u{7f}\\u{202e}f\\u{2028}\\u{2066} \\u{7}"
        );
        assert_eq!(line(format_args!("für {} \\ ok", "日本")), "für 日本 \\ ok");
    }

    #[test]
    fn json_says_the_same() {
        let hostile = "a\x1b[2Jb\nc\u{9b}\u{7f}\u{202e}\"\\";
        let text = serde_json::to_string_pretty(&serde_json::json!({ "what": hostile })).expect("JSON");
        let escaped = json(&text);
        assert!(!escaped.chars().any(|c| c != '\n' && commands(c)), "{escaped:?}");
        let back: serde_json::Value = serde_json::from_str(&escaped).expect("still JSON");
        assert_eq!(back["what"], hostile);
    }
}
