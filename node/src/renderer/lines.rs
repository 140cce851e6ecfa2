//! Cuts what a process writes into lines, however long it makes them.

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes of a line that are kept; longer ones lose their rest. A pipe takes as many in one piece, so an answer
/// is never longer.
pub(crate) const LINE_BYTES_MAX: usize = 4_096;

/// Bytes of a log line, at most: the protocol's bound.
const TEXT_BYTES_MAX: usize = 2_000;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// The lines of a stream.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    source: R,
    read: Vec<u8>,
    /// Bytes of `read` that are cut already.
    cut: usize,
    line: Vec<u8>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            read: Vec::with_capacity(READ_BYTES),
            cut: 0,
            line: Vec::new(),
            ended: false,
        }
    }

    /// The next line that is not blank; `None` at the end. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            while let Some(byte) = self.read.get(self.cut) {
                let byte = *byte;
                self.cut += 1;
                if matches!(byte, b'\n' | b'\r') {
                    if let Some(line) = self.finish() {
                        return Some(line);
                    }
                } else if self.line.len() < LINE_BYTES_MAX {
                    self.line.push(byte);
                }
            }
            if self.ended {
                return self.finish();
            }
            self.read.clear();
            self.cut = 0;
            // A broken pipe is an end like any other.
            self.ended = matches!(self.source.read_buf(&mut self.read).await, Ok(0) | Err(_));
        }
    }

    fn finish(&mut self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.line);
        let mut line = text.trim_end().to_owned();
        // Replacing broken UTF-8 makes it longer.
        line.truncate(line.floor_char_boundary(LINE_BYTES_MAX));
        self.line.clear();
        (!line.trim().is_empty()).then_some(line)
    }
}

/// Cuts what people will read to what the protocol allows.
pub(crate) fn shorten(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(bytes: &[u8]) -> Vec<String> {
        let mut lines = Lines::new(bytes);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn every_kind_of_end_ends_a_line_and_blank_ones_vanish() {
        assert_eq!(lines(b"a\n\nb\r\n  \nc\rd").await, ["a", "b", "c", "d"]);
        assert!(lines(b"").await.is_empty());
    }

    #[tokio::test]
    async fn an_endless_line_is_cut() {
        let mut bytes = vec![b'x'; 100_000];
        bytes.extend(b"\nnext");
        let all = lines(&bytes).await;
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].len(), LINE_BYTES_MAX);
        assert_eq!(all[1], "next");
        let broken = lines(&[0xff; 5_000]).await;
        assert!(broken[0].len() <= LINE_BYTES_MAX);
    }

    #[test]
    fn a_text_is_cut_between_characters_and_only_when_it_is_long() {
        assert_eq!(shorten("日".into()), "日");
        let cut = shorten("日".repeat(1_000));
        assert_eq!(cut, "日".repeat(TEXT_BYTES_MAX / 3));
    }
}
