use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use clap::Args;
use framecrew::{
    Cluster, JobSpec, JobView, OutputFolder, Project, contact_sheet::contact_sheet, proto::JobState,
};
use futures::StreamExt as _;
use image::RgbImage;

use super::{
    Global,
    renderer::{Here, Plan, Renderer, scratch},
};
use crate::console::{Exit, Failure, Interrupts, note, say, say_json};

/// The scene, made by `assets/demo.py`.
const SCENE: &[u8] = include_bytes!("../../assets/demo.blend");
/// Enough for lanes that overtake each other.
const NODES: u8 = 3;
/// Frames in a row of the contact sheet.
const SHEET_COLUMNS: u32 = 6;
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
    #[command(flatten)]
    renderer: Renderer,
}

impl Demo {
    pub(crate) async fn run(self, global: &Global) -> Result<Exit, Failure> {
        let folder = OutputFolder::open(&self.output)?;
        let scratch = scratch()?;
        let scene = scratch.path().join("demo.blend");
        std::fs::write(&scene, SCENE).map_err(|error| unwritable(&scene, &error))?;
        let project = Project::open(JobSpec::animation(&scene)).await?;
        let mut interrupts = Interrupts::listen()?;
        let plan = Plan {
            nodes: NODES,
            renderer: &self.renderer,
            needs: project.saved_by(),
            data: scratch.path().into(),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
        };
        let mut here = match Here::start(plan, &mut interrupts).await {
            Ok(Some(here)) => here,
            other => {
                folder.abandon();
                return other.map(|_| Exit::Interrupted);
            }
        };
        note(format_args!("an orchestrator and {NODES} nodes run in this process; rendering"));
        let rendered = render(&mut here, &project, &folder, global.json, &mut interrupts).await;
        here.stop().await;
        let Some((view, sheet)) = rendered? else {
            return Ok(Exit::Interrupted);
        };
        if let Some(sheet) = sheet {
            if global.json {
                say_json(&serde_json::json!({ "contactSheet": sheet }))?;
            } else {
                say(format_args!("the contact sheet is {}", sheet.display()))?;
                say(
                    "next: `framecrew up` for a cluster of your own, then `framecrew render FILE`",
                )?;
            }
        }
        Ok(Exit::of_job(view.state()))
    }
}

async fn render(
    here: &mut Here,
    project: &Project,
    folder: &OutputFolder,
    json: bool,
    interrupts: &mut Interrupts,
) -> Result<Option<(JobView, Option<PathBuf>)>, Failure> {
    let Some(view) = here.render(project, folder, json, interrupts).await? else {
        return Ok(None);
    };
    let sheet = if view.state() == JobState::Finished {
        Some(make_sheet(here.cluster(), view.job().job_id, folder).await?)
    } else {
        None
    };
    Ok(Some((view, sheet)))
}

/// Lays the frames out on one sheet, in their order.
async fn make_sheet(
    cluster: &Cluster,
    job_id: u64,
    folder: &OutputFolder,
) -> Result<PathBuf, Failure> {
    let mut files = Vec::new();
    let mut pages = std::pin::pin!(cluster.frames(job_id));
    while let Some(page) = pages.next().await {
        let outputs = page?.into_iter().filter_map(|frame| frame.outputs.into_iter().next());
        files.extend(outputs.map(|output| folder.path().join(output.name)));
    }
    let path = folder.path().join(SHEET_NAME);
    let made = tokio::task::spawn_blocking(move || {
        let frames: Vec<RgbImage> =
            files.iter().map(|file| decode(file)).collect::<Result<_, _>>()?;
        let sheet = contact_sheet(&frames, SHEET_COLUMNS)
            .ok_or_else(|| failed("the job has no frames to put on a contact sheet"))?;
        save(&sheet, &path)?;
        Ok(path)
    });
    match made.await {
        Ok(path) => path,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn decode(file: &Path) -> Result<RgbImage, Failure> {
    match image::open(file) {
        Ok(image) => Ok(image.into_rgb8()),
        Err(error) => {
            Err(failed(format!("{} cannot be read as an image: {error}", file.display())))
        }
    }
}

/// Writes the sheet beside its name first, so that what bears the name is whole.
fn save(sheet: &RgbImage, path: &Path) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".").suffix(".part");
        // Like any other file of the user's; temporary ones are for their maker alone.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        sheet
            .write_to(&mut io::BufWriter::new(&mut file), image::ImageFormat::Png)
            .map_err(io::Error::other)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!(
        "cannot write {}: {error}; free some space or name another folder with -o",
        path.display()
    ))
}

fn failed(text: impl Into<String>) -> Failure {
    Failure { exit: Exit::JobFailed, text: text.into() }
}
