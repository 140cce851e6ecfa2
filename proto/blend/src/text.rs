//! Converts bytes that may not be Unicode, such as paths on Linux, to text and back without loss.

/// The stand-in for the byte 0x80. The 128 stand-ins are the last code points of Unicode, which have no assigned
/// characters.
const FIRST: u32 = 0x0010_FF80;

/// The first byte that may stand alone without being a character.
const FIRST_BYTE: u8 = 0x80;

/// Converts bytes to text. Each byte that is not Unicode becomes a stand-in character, which no file name
/// contains.
#[must_use]
pub fn text_of_bytes(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let stand_in = |byte: &u8| char::from_u32(FIRST + u32::from(byte.wrapping_sub(FIRST_BYTE)));
        text.extend(chunk.invalid().iter().filter_map(stand_in));
    }
    text
}

/// Converts a text from [`text_of_bytes`] back to bytes.
#[must_use]
pub fn bytes_of_text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(character.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

/// Returns the byte that a character stands for.
#[must_use]
pub fn byte_of(character: char) -> Option<u8> {
    let number = u32::from(character).checked_sub(FIRST)?;
    u8::try_from(number).ok().and_then(|number| number.checked_add(FIRST_BYTE))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_survive_the_round_trip(bytes in vec(any::<u8>(), 0..40)) {
            // Except for characters that are stand-ins.
            let text = String::from_utf8_lossy(&bytes);
            prop_assume!(!text.chars().any(|character| byte_of(character).is_some()));
            prop_assert_eq!(bytes_of_text(&text_of_bytes(&bytes)), bytes);
        }
    }

    #[test]
    fn unicode_text_is_unchanged() {
        assert_eq!(text_of_bytes("café ☃".as_bytes()), "café ☃");
        let text = text_of_bytes(b"caf\xe9.png");
        assert_eq!(text.chars().count(), 8);
        assert_eq!(text.chars().filter_map(byte_of).collect::<Vec<_>>(), [0xe9]);
    }
}
