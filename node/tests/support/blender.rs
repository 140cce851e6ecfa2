//! The Blenders of this machine, and scenes that they make themselves.

use std::{io::Write as _, path::Path, process::Command};

use framecrew_node::blender::{self, FoundBlender, Kind};

/// The Blenders found here, one for each series. With none the test is skipped, which FRAMECREW_REQUIRE_BLENDER
/// forbids.
pub fn found() -> Vec<FoundBlender> {
    let mut found = blender::find(&[], &blender::default_cache());
    found.dedup_by_key(|blender| (blender.version, blender.kind));
    if found.is_empty() {
        assert!(std::env::var_os("FRAMECREW_REQUIRE_BLENDER").is_none(), "no Blender was found");
        // Not eprintln, which the test harness keeps to itself.
        std::io::stderr().write_all(b"skipped: no Blender is installed\n").unwrap();
    }
    found
}

/// A small Cycles scene that differs in every frame, made by `blender`; `more` is Python that changes it.
pub fn scene(blender: &FoundBlender, more: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scene.blend");
    run(
        blender,
        &format!(
            "
scene = bpy.context.scene
scene.render.engine = 'CYCLES'
scene.cycles.samples = 4
scene.cycles.use_denoising = False
scene.render.resolution_x = 64
scene.render.resolution_y = 48
cube = bpy.data.objects['Cube']
for frame in (1, 100):
    cube.rotation_euler[2] = frame / 20
    cube.keyframe_insert('rotation_euler', frame=frame)
{more}
bpy.ops.wm.save_as_mainfile(filepath={file:?}, compress=False)
"
        ),
        folder.path(),
    );
    std::fs::read(file).unwrap()
}

/// Runs a script with `blender` on the default scene. The script is stored in `folder`.
pub fn run(blender: &FoundBlender, script: &str, folder: &Path) {
    run_with(blender, script, folder, &[]);
}

/// Does the same with environment variables.
pub fn run_with(
    blender: &FoundBlender,
    script: &str,
    folder: &Path,
    variables: &[(&str, &std::ffi::OsStr)],
) {
    let path = folder.join("make.py");
    std::fs::write(
        &path,
        format!("import bpy, os\nbpy.ops.wm.read_factory_settings()\n{script}\nos._exit(0)\n"),
    )
    .unwrap();
    let mut command = Command::new(&blender.path);
    if blender.kind == Kind::Executable {
        command.args(["--background", "--factory-startup", "--python-exit-code", "1", "--python"]);
    }
    command.envs(variables.iter().copied());
    let output = command.arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
