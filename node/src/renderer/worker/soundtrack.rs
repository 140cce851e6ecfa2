//! Asks for a scene's frame rate and its sound.

use std::{fs, path::Path};

use super::{
    Phase, Worker,
    draw::replace,
    infrastructure,
    protocol::{Answer, Mix, SoundtrackRequest},
};
use crate::{
    platform::KillOnDrop,
    renderer::{
        drawing::Observation,
        error::RenderError,
        scene::Scene,
        soundtrack::{Rate, Sound, Soundtrack},
    },
};

/// Name of the file that holds the sound.
const FILE: &str = "sound.flac";

impl Worker {
    /// Returns a scene's frame rate, and puts its sound between two frames in the place of `folder`, which is
    /// empty. Dropping the future kills the process group at once.
    pub(crate) async fn soundtrack(
        &mut self,
        scene: &Scene,
        span: Option<(i32, i32)>,
        folder: &Path,
        observe: impl FnMut(Observation),
    ) -> Result<Soundtrack, RenderError> {
        let mut drop_guard = KillOnDrop { leader: self.group };
        let soundtrack = self.soundtrack_to_the_end(scene, span, folder, observe).await;
        drop_guard.leader = None;
        soundtrack
    }

    async fn soundtrack_to_the_end(
        &mut self,
        scene: &Scene,
        span: Option<(i32, i32)>,
        folder: &Path,
        mut observe: impl FnMut(Observation),
    ) -> Result<Soundtrack, RenderError> {
        self.tail.clear();
        self.silence = scene.silence;
        let load = self.stage(scene).await?;
        let mixed = self.folder.path().join("sound");
        fs::create_dir(&mixed).map_err(infrastructure)?;
        let mix = Mix { span, to: &mixed.join(FILE) };
        let request = SoundtrackRequest { load: &load, soundtrack: mix };
        let request = serde_json::to_string(&request).map_err(infrastructure)?;
        if !self.has_loaded(scene) {
            self.will_load(scene, &load);
        }
        self.begin(&request, Phase::Broken).await?;
        loop {
            let answer = self.answer(&mut observe).await?;
            match self.take_usual(answer, &mut observe)? {
                // The batches that drew the frames have reported the warnings.
                None | Some(Answer::Warning { .. }) => {}
                Some(Answer::Soundtrack { fps, fps_base, sound, delay_frames }) => {
                    self.loaded = Some(load);
                    // If this fails, the Blender gets no other request, as after a frame.
                    replace(&mixed, folder).map_err(infrastructure)?;
                    self.wait_for_work();
                    let file = folder.join(FILE);
                    return Ok(Soundtrack {
                        rate: Rate::new(fps, fps_base),
                        sound: (sound && file.is_file()).then_some(Sound { file, delay_frames }),
                    });
                }
                Some(_) => return Err(self.out_of_turn().await),
            }
        }
    }
}
