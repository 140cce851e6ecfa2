use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use clap::Args;
use framecrew::{
    JobSpec, JobView, OutputFile, OutputFolder, Project, contact_sheet, proto::JobState,
};

use super::{
    Global,
    local_session::{LocalSession, Plan},
    renderer::Renderer,
    scratch::Scratch,
};
use crate::console::{Exit, Failure, Interrupts, note, say, say_json};

/// The scene, made by `assets/demo.py`.
const SCENE: &[u8] = include_bytes!("../../assets/demo.blend");
/// Enough for lanes that overtake each other.
const NODES: u8 = 3;
/// Name of the contact sheet, beside the frames.
const SHEET_NAME: &str = "contact-sheet.png";

/// See it work: a cluster of three nodes renders a bundled scene, on this machine and from nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Finds Blender, or gets it into the cache. As root on Debian or Ubuntu it installs the system libraries that Blender
links and that are missing; elsewhere it prints the line that does.")]
pub(crate) struct Demo {
    /// Folder for the frames and the contact sheet
    #[arg(
        short,
        long,
        env = "FRAMECREW_DEMO_OUTPUT",
        default_value = "framecrew-demo",
        value_name = "DIR"
    )]
    output: PathBuf,
    /// Replace existing files, including those that Framecrew did not write or that were changed since
    #[arg(long, env = "FRAMECREW_DEMO_OVERWRITE", value_parser = clap::builder::FalseyValueParser::new())]
    overwrite: bool,
    #[command(flatten)]
    renderer: Renderer,
}

impl Demo {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let folder = OutputFolder::open(&self.output)?.overwriting(self.overwrite);
        let sheet = OutputFile::open(&folder.path().join(SHEET_NAME))?.overwriting(self.overwrite);
        sheet.check_free()?;
        let scratch = Scratch::new()?;
        let scene = scratch.path().join("demo.blend");
        std::fs::write(&scene, SCENE).map_err(|error| unwritable(&scene, &error))?;
        let project = Project::open(JobSpec::animation(&scene)).await?;
        project.check_folder(&folder)?;
        let mut interrupts = Interrupts::listen()?;
        let plan = Plan {
            nodes: NODES,
            renderer: &self.renderer,
            needs: project.saved_by(),
            data: scratch.path().into(),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            allow_scripts: false,
        };
        let mut here = match LocalSession::start(plan, &mut interrupts).await {
            Ok(Some(here)) => here,
            other => {
                folder.abandon();
                return other.map(|_| Exit::Interrupted);
            }
        };
        note(format_args!("an orchestrator and {NODES} nodes run in this process; rendering"));
        let rendered =
            render(&mut here, &project, &folder, &sheet, global.json, &mut interrupts).await;
        here.stop().await;
        let Some(view) = rendered? else {
            return Ok(Exit::Interrupted);
        };
        if view.state() == JobState::Finished {
            if global.json {
                say_json(&serde_json::json!({ "contactSheet": sheet.path() }))?;
            } else {
                say(format_args!("the contact sheet is {}", sheet.path().display()))?;
                say(
                    "next: `framecrew up` for a cluster of your own, then `framecrew render FILE`",
                )?;
            }
        }
        Ok(Exit::of_job(view.state()))
    }
}

async fn render(
    here: &mut LocalSession,
    project: &Project,
    folder: &OutputFolder,
    sheet: &OutputFile,
    json: bool,
    interrupts: &mut Interrupts,
) -> Result<Option<JobView>, Failure> {
    let Some(view) = here.render(project, folder, None, json, interrupts).await? else {
        return Ok(None);
    };
    if view.state() == JobState::Finished {
        contact_sheet::make(here.cluster(), view.job().job_id, sheet).await?;
    }
    Ok(Some(view))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!(
        "cannot write {}: {error}; free some space or name another folder with -o",
        path.display()
    ))
}
