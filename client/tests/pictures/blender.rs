//! Runs plain Blender: creates the scenes, and draws them as its command line does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use framecrew_node::blender::{FoundBlender, Kind};

use crate::{crew::Fate, opened, row::Row};

const SCENES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures/scenes");
/// Log of what the programs print, next to the scenes.
const MAKER_LOG: &str = "make.log";
const PLAIN_LOG: &str = "plain.log";

/// Creates the rows with these names (all if empty) in folders of `root`.
pub(crate) fn make(blender: &FoundBlender, root: &Path, names: &str) -> Vec<Row> {
    let script = Path::new(SCENES).join("make.py");
    let mut command = Command::new(&blender.path);
    if blender.kind == Kind::Executable {
        command.args(["--background", "--factory-startup", "--python-exit-code", "1", "--python"]);
    }
    command.arg(script);
    if blender.kind == Kind::Executable {
        command.arg("--");
    }
    command.arg(root).arg(names).env("PYTHONDONTWRITEBYTECODE", "1").env_remove("OCIO");
    let log = root.join(MAKER_LOG);
    let ended = run(command, &log);
    let rows = fs::read(root.join("rows.json")).unwrap_or_else(|_| {
        panic!("the scenes were not made ({ended}): {}", fs::read_to_string(&log).unwrap())
    });
    serde_json::from_slice(&rows).unwrap()
}

/// Draws rows in one process. Rows that it left out, because Blender may have crashed, are drawn again one by one.
pub(crate) fn draw(blender: &FoundBlender, root: &Path, rows: &[&Row]) {
    let (alone, together): (Vec<&Row>, Vec<&Row>) =
        rows.iter().partition(|row| row.scripts || !row.plain_env(root).is_empty());
    draw_in_one_process(blender, root, &together);
    for row in alone {
        draw_in_one_process(blender, root, &[row]);
    }
    for row in together {
        if !root.join(&row.name).join(Fate::MAIN).exists() {
            draw_in_one_process(blender, root, &[row]);
        }
    }
}

fn draw_in_one_process(blender: &FoundBlender, root: &Path, rows: &[&Row]) {
    if rows.is_empty() {
        return;
    }
    let mut command = opened::traced(&blender.path, &opened::plain_log(root, &rows[0].name));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env_remove("OCIO");
    let file = |row: &Row| root.join(&row.name).join("shot.blend");
    match blender.kind {
        Kind::Executable => {
            let scripts = if rows[0].scripts { "--enable-autoexec" } else { "--disable-autoexec" };
            command.args(["--background", "--factory-startup", scripts, "-noaudio"]);
            for row in rows {
                command.arg(file(row));
                match &row.frames {
                    Some(frames) => command.args(["--render-frame", frames]),
                    None => command.arg("--render-anim"),
                };
            }
        }
        Kind::Module => {
            let frames = |row: &Row| {
                let frames = row.frames.as_ref()?.split(',');
                Some(frames.map(|frame| frame.parse().unwrap()).collect::<Vec<i32>>())
            };
            let work = rows.iter().map(|row| (file(row), frames(row), row.scripts));
            let work: Vec<(PathBuf, _, bool)> = work.collect();
            let list = root.join("plain.json");
            fs::write(&list, serde_json::to_vec(&work).unwrap()).unwrap();
            command.arg(Path::new(SCENES).join("plain.py")).arg(list);
        }
    }
    if let [row] = rows {
        command.envs(row.plain_env(&root.join(&row.name)));
    }
    run(command, &root.join(PLAIN_LOG));
}

fn run(mut command: Command, log: &Path) -> std::process::ExitStatus {
    let log = fs::File::options().create(true).append(true).open(log).unwrap();
    let errors = log.try_clone().unwrap();
    command.stdin(Stdio::null()).stdout(log).stderr(errors).status().unwrap()
}
