//! Which strips of a scene's video sequencer are shown.

use std::collections::{HashMap, HashSet};

use crate::group::{Group, View};

/// `SEQ_TYPE_META`.
const META: i32 = 1;

/// `SEQ_MUTE`.
const STRIP_MUTED: u64 = 1 << 5;

/// `SEQ_CHANNEL_MUTE`.
const CHANNEL_MUTED: u64 = 1 << 1;

/// Maximum number of channels that are read, those of metas included. Each meta has 128.
const CHANNELS_MAX: usize = 1_000_000;

/// How a strip takes part in its scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Whether the strip, its channel or a meta around it is muted.
    pub(crate) is_muted: bool,
    /// Whether it lies in a meta.
    pub(crate) in_meta: bool,
}

/// The parts of all strips of a scene.
pub(crate) struct Strips(HashMap<u64, Part>);

impl Strips {
    /// Follows the lists of strips, from the scene's own into those of metas.
    pub(crate) fn of(group: &Group<'_>) -> Self {
        let mut parts = HashMap::new();
        let mut channels_left = CHANNELS_MAX;
        let lists =
            |view: &View<'_>| (view.pointer("seqbase.first"), view.pointer("channels.first"));
        let mut next = Vec::new();
        for editing in group.all("Editing").take(1) {
            next.push((lists(&editing), Part { is_muted: false, in_meta: false }));
        }
        while let Some(((mut strip, channel), around)) = next.pop() {
            let muted = muted_channels(group, channel, &mut channels_left);
            while let Some(view) = strip.and_then(|at| group.at(at, "Sequence").next()) {
                let by_channel = view.int("machine").is_some_and(|number| muted.contains(&number));
                let is_muted = around.is_muted || by_channel || view.flag("flag", STRIP_MUTED);
                // A damaged file may have a strip in two lists.
                if parts.insert(view.address, Part { is_muted, ..around }).is_some() {
                    break;
                }
                if view.int("type") == Some(META) {
                    next.push((lists(&view), Part { is_muted, in_meta: true }));
                }
                strip = view.pointer("next");
            }
        }
        Self(parts)
    }

    /// How this strip takes part. One that is in no list is judged by itself.
    pub(crate) fn part(&self, strip: &View<'_>) -> Part {
        let alone = || Part { is_muted: strip.flag("flag", STRIP_MUTED), in_meta: true };
        self.0.get(&strip.address).copied().unwrap_or_else(alone)
    }

    /// The strips that are not muted, those in metas included.
    pub(crate) fn shown<'g>(&self, group: &'g Group<'_>) -> impl Iterator<Item = View<'g>> {
        group.all("Sequence").filter(|strip| !self.part(strip).is_muted)
    }
}

/// Channels have a mute of their own since Blender 3.2.
fn muted_channels(group: &Group<'_>, mut channel: Option<u64>, left: &mut usize) -> HashSet<i32> {
    let mut muted = HashSet::new();
    while let Some(view) = channel.and_then(|at| group.at(at, "SeqTimelineChannel").next()) {
        if *left == 0 {
            break;
        }
        *left -= 1;
        if view.flag("flag", CHANNEL_MUTED) {
            muted.extend(view.int("index"));
        }
        channel = view.pointer("next");
    }
    muted
}
