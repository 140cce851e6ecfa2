//! Pictures that a shader script names by a path of this machine.

use std::collections::BTreeSet;

use framecrew_blend::ReferenceKind;

use super::{
    collection::Collection,
    shaders::{is_picture, texts},
};
use crate::words;

/// Maximum number of pictures that a note lists.
const LISTED_MAX: usize = 10;

/// Describes existing pictures that scripts read. Nodes have their files elsewhere and start Blender elsewhere, so no
/// path that is fixed in a script leads to them.
pub(crate) fn fixed(collection: &Collection) -> Option<String> {
    let is_script = |kind| kind == ReferenceKind::ShaderScript;
    let mut lines = BTreeSet::new();
    for entry in &collection.entries {
        let reference = &entry.reference;
        if !is_script(reference.kind) || reference.is_optional || !entry.is_drawn {
            continue;
        }
        let Some(file) = entry.found.files.first() else { continue };
        let blend = &collection.blends[entry.wanted_by].path;
        // As for a bare path in a .blend, that folder is taken for the one in which Blender was started.
        let folder = blend.parent().unwrap_or(blend);
        let texts = texts(file.source());
        for picture in texts.iter().filter(|text| is_picture(&folder.join(text))) {
            let line = format!("{picture}, in {} (`{}`)", reference.path, reference.owner);
            lines.insert(words::printable(&line).to_string());
        }
    }
    let more = lines.len().saturating_sub(LISTED_MAX);
    let mut text = "shader scripts read pictures by paths that are fixed in the script and lead nowhere on nodes, so the \
                    frames will lack them; connect an Image Texture node to the script instead:"
        .to_owned();
    for line in lines.iter().take(LISTED_MAX) {
        text += "\n  ";
        text += line;
    }
    if more > 0 {
        text += &format!("\n  and {more} more");
    }
    (!lines.is_empty()).then_some(text)
}
