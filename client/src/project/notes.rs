//! What a person should know before frames are paid for, though nothing stands in the way.

use std::collections::BTreeSet;

use framecrew_blend::{Hazard, Scene};

use super::{
    admission::{blender_older, engine_replaced, extra_formats_replaced},
    collection::{Collection, Entry},
    layout::Layout,
    missing, order,
};
use crate::{spec::JobSpec, words};

/// Things of one kind that are listed; of more of them the count is enough.
const LISTED_MAX: usize = 10;

/// Everything worth a note, a sentence each, a list below it where there are several things of a kind. Where the
/// project cannot be laid out, or has no scene, that has been said.
pub(crate) fn notes(
    collection: &Collection,
    layout: Option<&Layout>,
    scene: Option<&Scene>,
    spec: &JobSpec,
) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(missing::missing(collection));
    notes.extend(layout.and_then(|layout| outside(collection, layout)));
    notes.extend(foreign_nodes(collection).filter(|_| spec.addons.is_empty()));
    notes.extend(others(collection));
    notes.extend(scripts(collection).filter(|_| !spec.settings.run_scripts));
    notes.extend(simulations(collection, spec.settings.in_order));
    if spec.settings.engine == 0 {
        let saved_by = collection.main().survey.file.version;
        notes.extend(scene.and_then(|scene| engine_replaced(saved_by, scene)));
    }
    notes.extend(blender_older(collection.main().survey.file.version, &spec.settings.blender));
    notes.extend(scene.and_then(extra_formats_replaced));
    let is_movie = scene.is_some_and(|scene| scene.format_is_movie);
    if is_movie && spec.movie.is_none() && spec.settings.format == 0 {
        notes.push(
            "the file's output is a movie: its frames come as PNG; --movie FILE makes a movie of them"
                .into(),
        );
    }
    notes
}

fn outside(collection: &Collection, layout: &Layout) -> Option<String> {
    let is_outside =
        |entry: &&Entry| !entry.found.files.is_empty() && layout.is_outside(&entry.stored.path);
    let folders: BTreeSet<String> = (collection.entries.iter().filter(is_outside))
        .map(|entry| words::printable(&entry.stored.path.display().to_string()).to_string())
        .collect();
    let text = format!("files outside {} are sent too", layout.root.display());
    (!folders.is_empty()).then(|| list(&text, folders.into_iter().collect()))
}

/// Describes nodes that do nothing unless an add-on provides them.
fn foreign_nodes(collection: &Collection) -> Option<String> {
    let nodes = collection.blends.iter().flat_map(|blend| &blend.survey.needs.foreign_nodes);
    let lines = nodes.map(|(kind, owner)| words::printable(&format!("{kind} in `{owner}`")));
    let lines: Vec<_> = lines.collect();
    let text = "nodes of these types are not part of Blender, so they do nothing unless the add-on that brings \
                them is sent with --addon FILE.zip";
    (!lines.is_empty()).then(|| list(text, lines))
}

fn scripts(collection: &Collection) -> Option<String> {
    let lines = hazards(collection, |hazard| {
        matches!(hazard, Hazard::RegisteredText { .. } | Hazard::Driver { .. })
    });
    let text = "the file has Python, which does not run without --run-scripts";
    (!lines.is_empty()).then(|| list(text, lines))
}

/// Describes the other hazards. Each sentence says what to do.
fn others(collection: &Collection) -> Option<String> {
    let lines = hazards(collection, |hazard| {
        !matches!(
            hazard,
            Hazard::RegisteredText { .. }
                | Hazard::Driver { .. }
                | Hazard::UnbakedSimulation { .. }
        )
    });
    (!lines.is_empty()).then(|| list("not everything will look as it was made", lines))
}

fn hazards(collection: &Collection, is_wanted: impl Fn(&Hazard) -> bool) -> Vec<String> {
    let wanted = collection.hazards().filter(|hazard| is_wanted(hazard));
    wanted.map(|hazard| words::printable(&hazard.to_string())).collect()
}

fn simulations(collection: &Collection, in_order: bool) -> Option<String> {
    let unbaked = order::unbaked(collection);
    let text = if in_order { order::IN_ORDER } else { order::APART };
    (!unbaked.is_empty()).then(|| list(text, unbaked))
}

/// A sentence with what it is about below it.
fn list(text: &str, lines: Vec<String>) -> String {
    let more = lines.len().saturating_sub(LISTED_MAX);
    let mut listed = format!("{text}:");
    for line in lines.into_iter().take(LISTED_MAX) {
        listed.push_str("\n  ");
        listed.push_str(&line);
    }
    if more > 0 {
        listed.push_str(&format!("\n  and {more} more"));
    }
    listed
}
