//! How the data blocks of a file number their sequences.

use crate::{
    Numbering, Outside,
    group::{Group, View},
    strips::Strips,
};

/// `SEQ_TYPE_SPEED`.
const SPEED_EFFECT: i32 = 29;

/// `SEQ_REVERSE_FRAMES`, `SEQ_AUTO_PLAYBACK_RATE`.
const STRIP_REVERSED: u64 = 1 << 7;
const STRIP_HAS_RATE: u64 = 1 << 17;

impl Numbering {
    /// The numbering of a clip, volume or cache file.
    pub(crate) fn of_block(group: &Group<'_>) -> Option<Self> {
        let id = group.id();
        if is_animated(group) {
            return None;
        }
        match &group.code {
            b"MC" => {
                Some(Self::Clip { start: id.int("start_frame")?, offset: id.int("frame_offset")? })
            }
            b"VO" => Some(Self::Volume {
                start: id.int("frame_start")?,
                length: id.int("frame_duration")?,
                offset: id.int("frame_offset")?,
                mode: match id.int("sequence_mode")? {
                    0 => Outside::Clip,
                    1 => Outside::Extend,
                    2 => Outside::Repeat,
                    _ => Outside::PingPong,
                },
            }),
            b"CF" => {
                let is_fixed = id.flag("override_frame", u64::MAX);
                // The frame is usually a whole number. Blender truncates it.
                let fixed = id.float("frame").filter(|_| is_fixed).map(|frame| frame as i32);
                Some(Self::Cache { fixed })
            }
            _ => None,
        }
    }

    /// The numbering of a strip of pictures. `None` if its time runs in another way than the scene's.
    pub(crate) fn of_strip(group: &Group<'_>, strips: &Strips, strip: &View<'_>) -> Option<Self> {
        let is_one = |member| strip.float(member).is_none_or(|speed| speed == 0.0 || speed == 1.0);
        let is_paced = strip.flag("flag", STRIP_HAS_RATE) && !is_one("media_playback_rate");
        let is_retimed =
            strip.either("retiming_handles", "retiming_keys").is_some() || !is_one("speed_factor");
        let is_held = ["startstill", "endstill"]
            .iter()
            .any(|it| strip.has(it) && whole(strip, it) != Some(0));
        let by_effect = group.all("Sequence").any(|effect| {
            effect.int("type") == Some(SPEED_EFFECT)
                && effect.either("seq1", "input1") == Some(strip.address)
        });
        let is_plain = is_one("strobe") && !is_paced && !is_retimed && !is_held && !by_effect;
        if !is_plain || strips.part(strip).in_meta {
            return None;
        }
        let (start, length) = (whole(strip, "start")?, strip.int("len")?);
        let end = start.checked_add(length)?.checked_sub(whole(strip, "endofs")?)?;
        Some(Self::Strip {
            start,
            length,
            offset: strip.int("anim_startofs")?,
            first: start.checked_add(whole(strip, "startofs")?)?,
            end,
            is_reversed: strip.flag("flag", STRIP_REVERSED),
        })
    }

    fn of_user(
        user: &View<'_>,
        [frames, start, offset, cyclic, flag]: [&'static str; 5],
    ) -> Option<Self> {
        // `IMA_ANIM_ALWAYS`. Without it, an image does not change in some frames.
        if !user.flag(flag, 1) {
            return None;
        }
        Some(Self::Image {
            start: user.int(start)?,
            length: user.int(frames)?,
            offset: user.int(offset)?,
            is_cyclic: user.flag(cyclic, u64::MAX),
        })
    }
}

/// A whole number, which Blender stores as a fraction since 3.3: as one, whole numbers are tiny.
fn whole(view: &View<'_>, member: &'static str) -> Option<i32> {
    let number = view.int(member)?;
    if number.unsigned_abs() < 1 << 24 {
        return Some(number);
    }
    let number = view.float(member)?;
    (number.fract() == 0.0 && number.abs() < 1e7).then_some(number as i32)
}

/// Whether any property of a data block is animated, so that its numbers are only known to Blender.
fn is_animated(group: &Group<'_>) -> bool {
    let mut animated = group.all("AnimData");
    animated.any(|it| it.pointer("action").is_some() || it.pointer("drivers.first").is_some())
}

/// Returns the image users in a data block: the address of the image, and the numbering of its sequence.
pub(crate) fn of_images(group: &Group<'_>) -> Vec<(u64, Numbering)> {
    if is_animated(group) {
        return Vec::new();
    }
    const PART: [&str; 5] =
        ["iuser.frames", "iuser.sfra", "iuser.offset", "iuser.cycl", "iuser.flag"];
    const WHOLE: [&str; 5] = ["frames", "sfra", "offset", "cycl", "flag"];
    let of_node = |node: View<'_>| {
        let (image, storage) = (node.pointer("id")?, node.pointer("storage")?);
        let shown =
            |structure, members| Numbering::of_user(&group.at(storage, structure).next()?, members);
        let numbering = shown("NodeTexImage", PART)
            .or_else(|| shown("NodeTexEnvironment", PART))
            .or_else(|| shown("ImageUser", WHOLE))?;
        Some((image, numbering))
    };
    let of_texture = || {
        let texture = group.id();
        Some((texture.pointer("ima")?, Numbering::of_user(&texture, PART)?))
    };
    let texture = (&group.code == b"TE").then(of_texture).flatten();
    group.all("bNode").filter_map(of_node).chain(texture).collect()
}
