use std::path::PathBuf;

use clap::Args;
use framecrew::{Inspection, Problem, ReferenceFacts, SceneFacts, view::Table, words};

use super::global::Global;
use crate::console::{Exit, Failure, say, say_json};

/// Data blocks named beside a path; of a path that more of them share the first will do.
const OWNERS_SHOWN: usize = 2;

/// Show what a .blend needs and what will go wrong with it, without Blender and without a cluster
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 it can be rendered, 1 it cannot as it is, 2 it is no .blend that can be read.")]
pub(crate) struct Inspect {
    /// The .blend to look at
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let inspection = framecrew::inspect(&self.file).await?;
        if global.json {
            say_json(&inspection)?;
        } else {
            show(&inspection)?;
        }
        Ok(if inspection.can_be_rendered { Exit::Success } else { Exit::JobFailed })
    }
}

fn show(inspection: &Inspection) -> Result<(), Failure> {
    let compression = match inspection.compression {
        "none" => "not compressed",
        "gzip" => "compressed by gzip",
        _ => "compressed by Zstandard",
    };
    let file = words::printable(&inspection.file);
    say(format_args!("{file}: saved by Blender {}, {compression}", inspection.version))?;
    if !inspection.scenes.is_empty() {
        say("")?;
        say(scenes(&inspection.scenes))?;
    }
    if !inspection.references.is_empty() {
        say("")?;
        say(references(&inspection.references))?;
    }
    say("")?;
    say(format_args!(
        "a submission sends {} ({}), as far as the cluster does not have them",
        words::plural(inspection.files, "file"),
        words::bytes(inspection.bytes)
    ))?;
    for Problem { blocks, text, .. } in &inspection.problems {
        say(format_args!("{}{text}", if *blocks { "BLOCKS: " } else { "note: " }))?;
    }
    Ok(())
}

fn scenes(scenes: &[SceneFacts]) -> Table {
    let mut table = Table::new([
        "SCENE",
        "ACTIVE",
        "FRAMES",
        "ENGINE",
        "SIZE",
        "FORMAT",
        "OUTPUT",
        "CAMERA",
        "VIEW LAYERS",
    ]);
    for scene in scenes {
        let step = match scene.frame_step {
            1 => String::new(),
            step => format!("x{step}"),
        };
        table.row([
            scene.name.clone(),
            if scene.is_active { "yes" } else { "" }.into(),
            format!("{}..{}{step}", scene.first_frame, scene.last_frame),
            scene.engine.clone(),
            format!("{}×{}", scene.width, scene.height),
            format(scene),
            scene.output_path.clone(),
            camera(scene),
            view_layers(scene),
        ]);
    }
    table
}

/// `PNG, 16 bits, stereo (_L, _R)`.
fn format(scene: &SceneFacts) -> String {
    let mut text = match (scene.format.as_str(), scene.is_movie) {
        ("", true) => "movie".into(),
        ("", false) => "unknown".into(),
        (format, true) => format!("{format} (movie)"),
        (format, false) => format.to_owned(),
    };
    if scene.color_depth > 0 {
        text += &format!(", {} bits", scene.color_depth);
    }
    if !scene.views.is_empty() {
        text += &format!(", stereo ({})", scene.views.join(", "));
    }
    text
}

fn camera(scene: &SceneFacts) -> String {
    let chosen = scene.camera.clone().unwrap_or_else(|| "none".into());
    match scene.cameras.len() {
        0 | 1 => chosen,
        all => format!("{chosen} (of {all})"),
    }
}

fn view_layers(scene: &SceneFacts) -> String {
    let shown = scene.view_layers.iter().map(|layer| match layer.is_rendered {
        true => layer.name.clone(),
        false => format!("{} (off)", layer.name),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn references(references: &[ReferenceFacts]) -> Table {
    let mut table = Table::new(["KIND", "PATH", "STORED", "THERE", "SIZE", "WANTED BY"]);
    for reference in references {
        let mut stored = reference.stored_as.to_owned();
        if reference.is_outside {
            stored += ", outside";
        }
        table.row([
            reference.kind.clone(),
            reference.path.clone(),
            stored,
            there(reference),
            words::bytes(reference.bytes),
            wanted_by(reference),
        ]);
    }
    table
}

fn there(reference: &ReferenceFacts) -> String {
    if let Some(absence) = &reference.absence {
        return absence.clone();
    }
    let files = match (reference.stands_for, reference.files) {
        ("file", _) => "yes".to_owned(),
        (_, count) => words::plural(count, "file"),
    };
    match reference.missing {
        0 => files,
        missing => format!("{files}, {missing} missing"),
    }
}

fn wanted_by(reference: &ReferenceFacts) -> String {
    let blend = PathBuf::from(&reference.wanted_by);
    let blend = blend
        .file_name()
        .map_or_else(|| reference.wanted_by.clone(), |name| name.to_string_lossy().into_owned());
    let mut owners = reference.owners.iter().take(OWNERS_SHOWN).cloned().collect::<Vec<_>>();
    match reference.owners.len().saturating_sub(OWNERS_SHOWN) {
        0 => {}
        more => owners.push(format!("{more} more")),
    }
    format!("{blend} ({})", owners.join(", "))
}
