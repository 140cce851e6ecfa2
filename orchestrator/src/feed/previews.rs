//! The bytes of the latest previews, for watchers that keep up. Others download the blob.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use framecrew_blobs::Digest;

/// Bytes of previews of all jobs: 500 of the largest, or a minute of a large cluster's frames.
pub(crate) const PREVIEWS_BYTES_MAX: usize = 16 << 20;

/// A bounded store of previews. New ones push the oldest out.
#[derive(Debug)]
pub(crate) struct Previews {
    kept: HashMap<Digest, Bytes>,
    /// Oldest first.
    order: VecDeque<Digest>,
    bytes: usize,
    bytes_max: usize,
}

impl Previews {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { kept: HashMap::new(), order: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn keep(&mut self, digest: Digest, data: Bytes) {
        let bytes = data.len();
        if self.kept.insert(digest, data).is_some() {
            return;
        }
        self.order.push_back(digest);
        self.bytes += bytes;
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.kept.remove(&oldest).map_or(0, |data| data.len());
        }
    }

    /// A preview's bytes; empty if they are not kept.
    pub(crate) fn find(&self, digest: Digest) -> Bytes {
        self.kept.get(&digest).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_previews_push_the_oldest_out() {
        let mut previews = Previews::new(100);
        let picture = |n: u8| (Digest::of(&[n]), Bytes::from(vec![n; 40]));
        for n in 1..=3 {
            let (digest, data) = picture(n);
            // The same preview twice is kept once.
            previews.keep(digest, data.clone());
            previews.keep(digest, data);
        }
        let kept: Vec<_> = (1..=3).map(|n| previews.find(picture(n).0).len()).collect();
        assert_eq!(kept, [0, 40, 40]);
        assert_eq!((previews.bytes, previews.order.len()), (80, 2));
    }
}
