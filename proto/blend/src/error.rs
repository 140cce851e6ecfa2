use std::io;

/// Why a file cannot be read as a .blend. Each text is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BlendError {
    /// It has no bytes.
    #[error(
        "the file is empty; save it from Blender again, or use a backup, such as the .blend1 next to it"
    )]
    Empty,
    /// It is something else.
    #[error("the file is not a .blend but {0}; hand in the file that Blender saved")]
    NotABlend(&'static str),
    /// It stands for a file that Git keeps elsewhere.
    #[error("the file is only a Git LFS pointer; run `git lfs pull` to fetch the .blend itself")]
    LfsPointer,
    /// It ends too early.
    #[error(
        "the file is cut off: its end is missing; copy it again from an intact original, or use a backup, such as the .blend1 next to it"
    )]
    Truncated,
    /// Its compressed data cannot be decompressed.
    #[error(
        "the file's compressed data is damaged ({0}); copy it again from an intact original, or use a backup, such as the .blend1 next to it"
    )]
    DamagedCompression(#[source] io::Error),
    /// What it contains contradicts itself.
    #[error(
        "the file is damaged: {0}; if Blender opens it, save it again there; otherwise use a backup, such as the .blend1 next to it"
    )]
    Damaged(&'static str),
    /// It is compressed, and unreasonably large.
    #[error(
        "the file decompresses to more than {} GiB; save it from Blender without compression",
        .limit_bytes >> 30
    )]
    TooLarge {
        /// How far compressed files are followed, in bytes.
        limit_bytes: u64,
    },
    /// It is compressed, and so far down that it was made to fill what opens it.
    #[error(
        "the file decompresses to more than {} GiB of nearly nothing, as no project does; if it is one, save it from Blender without compression",
        .opened_bytes >> 30
    )]
    Bomb {
        /// How far it was followed, in bytes.
        opened_bytes: u64,
    },
    /// It has more of something than memory may be spent on.
    #[error(
        "the file has more {what} than the {limit} that are followed; split the project, and link its parts"
    )]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are followed.
        limit: usize,
    },
    /// Its header has a form that came after this program.
    #[error(
        "the file was saved in a form newer than this program knows (header `{0}`); update Framecrew, or save it from an older Blender"
    )]
    NewerForm(String),
    /// The disk refused.
    #[error("the file cannot be read: {0}; check the disk and the file's permissions")]
    Unreadable(#[source] io::Error),
}
