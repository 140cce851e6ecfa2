//! Runs the product: an orchestrator, a node (under `strace` if available), and the command `framecrew`.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use framecrew::Cluster;

use crate::{
    opened,
    row::Row,
    support::servers::{self, Server},
};

/// Maximum time for one call of `framecrew render`, including its wait for the node. It is far longer than a call
/// takes.
const RENDER_WITHIN: Duration = Duration::from_secs(1_200);

/// The result of one call of `framecrew render`.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) succeeded: bool,
    /// Everything that it printed.
    pub(crate) said: String,
    /// The folder with the frames.
    pub(crate) frames: PathBuf,
}

impl Fate {
    /// The folder that plain Blender draws the frames into. The product's own folder of frames corresponds to it.
    pub(crate) const MAIN: &str = "render";

    /// Returns the warning lines, except for the expected ones.
    pub(crate) fn alarms(&self, expected: &[String]) -> Vec<String> {
        let is_alarm = |line: &&str| {
            let line = line.trim_start();
            ["warning", "note:", "error"].iter().any(|word| line.starts_with(word))
                && !expected.iter().any(|words| line.contains(words.as_str()))
        };
        self.said.lines().filter(is_alarm).map(str::to_owned).collect()
    }
}

pub(crate) struct Crew {
    _orchestrator: Server,
    _node: Server,
    url: String,
    version: String,
    data: tempfile::TempDir,
}

impl Crew {
    pub(crate) async fn start(version: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let path = |name: &str| data.path().join(name);
        let listen = servers::free_address();
        let url = format!("http://{listen}");
        let mut command = servers::orchestrator();
        command.args(["--listen", &listen, "--data"]).arg(path(servers::DATA));
        let orchestrator = Server::start(command, path("orchestrator.log"));
        let mut command = opened::traced(&servers::node(), &path("opened"));
        command.args(["--orchestrator", &url, "--listen", &servers::free_address()]);
        command
            .args(["--allow-scripts", "--name", "n1", "--data"])
            .arg(path("n1"))
            .env_remove("OCIO");
        let node = Server::start(command, path("n1.log"));
        let crew =
            Self { _orchestrator: orchestrator, _node: node, url, version: version.into(), data };
        crew.cluster().await;
        crew
    }

    pub(crate) async fn cluster(&self) -> Cluster {
        servers::connect(&self.url).await
    }

    /// Path of the log of the files that the node and its child processes open.
    pub(crate) fn opened(&self) -> PathBuf {
        self.data.path().join("opened")
    }

    /// The node's data folder.
    pub(crate) fn node_data(&self) -> PathBuf {
        self.data.path().join("n1")
    }

    /// Renders a row as a job with this `name`.
    pub(crate) async fn render(&self, row: &Row, folder: &Path, name: &str) -> Fate {
        let frames = self.data.path().join("frames").join(name);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_framecrew"));
        command.args(["render", "--cluster", &self.url, "--blender", &self.version]);
        command.args(["--name", name, "--output"]).arg(&frames);
        if !row.lenient {
            command.arg("--strict");
        }
        if let Some(wanted) = &row.frames {
            command.arg(format!("--frames={wanted}"));
        }
        command.args(row.args(folder)).arg("shot.blend").current_dir(folder);
        command.env_remove("OCIO").envs(row.env(folder)).stdin(Stdio::null()).kill_on_drop(true);
        let ended = tokio::time::timeout(RENDER_WITHIN, command.output()).await;
        let output = ended.unwrap_or_else(|_| panic!("{name} does not end")).unwrap();
        let said = [output.stdout, output.stderr].concat();
        Fate { succeeded: output.status.success(), said: String::from_utf8(said).unwrap(), frames }
    }

    /// Returns the hashes of the files that were sent with the job of this name.
    pub(crate) async fn sent(&self, name: &str) -> HashSet<String> {
        let cluster = self.cluster().await;
        let jobs = cluster.jobs(usize::MAX).await.unwrap();
        let is_it =
            |job: &&framecrew::proto::Job| job.spec.as_ref().is_some_and(|spec| spec.name == name);
        let Some(job) = jobs.iter().find(is_it) else { return HashSet::new() };
        let job = cluster.job(job.job_id).await.unwrap();
        let project = job.info().spec.clone().unwrap().project.unwrap();
        project.files.into_iter().map(|file| file.digest).collect()
    }
}

/// Moves a file away, and back when it is dropped.
pub(crate) struct Away {
    from: PathBuf,
    to: PathBuf,
}

impl Away {
    /// Moves it next to the row's folder, where nothing looks for it.
    pub(crate) fn take(folder: &Path, file: &Path) -> Self {
        let from = folder.join(file);
        let to = folder.with_extension("away");
        fs::rename(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        Self { from, to }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        fs::rename(&self.to, &self.from).unwrap();
    }
}
