//! Messages as JSON, for programs and for terminals.

use std::borrow::Cow;

use serde::Serialize;

use crate::words;

/// One message as one line of canonical proto3 JSON, without the line's end.
///
/// # Errors
/// When the message cannot be written as JSON, which no message of the protocol does.
pub fn json_line(message: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(message)
}

/// Escapes the characters in JSON that must not reach a terminal as `\u` sequences. Its meaning for programs is
/// the same.
#[must_use]
pub fn escaped_json(line: &str) -> Cow<'_, str> {
    if line.chars().all(|c| words::shown_as(c).is_none()) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        match words::shown_as(c) {
            // Such characters only occur in strings, where JSON allows escapes.
            Some(_) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    escaped += &format!("\\u{unit:04x}");
                }
            }
            None => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn escaped_json_cannot_control_a_terminal_and_means_the_same() {
        let text = "a\u{1b}[2J\u{9b}31m\u{202e}\u{e0041} \"é\"";
        let line = escaped_json(&json_line(&text).unwrap()).into_owned();
        assert!(line.chars().all(|c| words::shown_as(c).is_none()), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        assert!(matches!(escaped_json("{\"name\":\"é\"}"), Cow::Borrowed(_)));
    }
}
