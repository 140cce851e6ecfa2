//! ffmpeg and ffprobe: found, started within walls, listened to, ended.

use std::{
    collections::VecDeque,
    env, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    time::{self, Instant},
};

use super::error::MovieError;
use crate::{
    blender::answer,
    confine::{self, Walls},
    failure::FailureReason,
    platform::{self, KILL_CHECK_INTERVAL, KILL_TIMEOUT},
    renderer::{Lines, RenderError, shorten},
};

/// How long either program may take to tell its version.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long decoding the whole movie once may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Bytes of ffprobe's answer; a usual one has a few hundred.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Last lines that a failure carries.
const LOG_TAIL_LINES: usize = 20;

/// What all formats need. Builds without one of them are no use to a node that must make any.
const ENCODERS: [&str; 7] =
    ["libx264", "prores_ks", "libvpx-vp9", "aac", "flac", "pcm_s16le", "libopus"];

/// ffmpeg with its ffprobe.
#[derive(Debug, Clone)]
pub(crate) struct Ffmpeg {
    encoder: PathBuf,
    prober: PathBuf,
    version: String,
    /// Whether there are walls around what is run.
    confined: bool,
    dying: Dying,
}

/// Process groups that were killed and may not be gone yet, by their leaders.
#[derive(Debug, Clone, Default)]
struct Dying(Arc<Mutex<Vec<u32>>>);

impl Dying {
    fn add(&self, leader: u32) {
        // Forgets those that are gone.
        self.are_left();
        self.lock().push(leader);
    }

    fn are_left(&self) -> bool {
        let mut leaders = self.lock();
        leaders.retain(|leader| platform::group_exists(*leader));
        !leaders.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no ffmpeg that can be used.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NoFfmpeg {
    #[error("there is none on the PATH")]
    NotFound,
    #[error("{} does not tell a version of ffmpeg", .0.display())]
    NoVersion(PathBuf),
    #[error("there is no ffprobe beside {}", .0.display())]
    NoProbe(PathBuf),
    #[error("{} was built without {}", .0.display(), .1.join(", "))]
    Lacks(PathBuf, Vec<&'static str>),
}

/// What ffprobe says about a movie that it has decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) codec: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) frames: u32,
    pub(super) has_sound: bool,
}

#[derive(Debug, Deserialize)]
struct Probed {
    #[serde(default)]
    streams: Vec<Stream>,
}

#[derive(Debug, Deserialize)]
struct Stream {
    codec_type: String,
    #[serde(default)]
    codec_name: String,
    #[serde(default)]
    width: u32,
    #[serde(default)]
    height: u32,
    /// A number as text.
    #[serde(default)]
    nb_read_frames: String,
}

impl Ffmpeg {
    /// The ffmpeg that is `given`, or the first one on the PATH, if it can make every kind of movie. Blocks.
    pub(crate) fn find(given: Option<&Path>, confined: bool) -> Result<Self, NoFfmpeg> {
        // Many nodes may live in one process, and the PATH stays the same.
        static ON_THE_PATH: OnceLock<Result<Ffmpeg, NoFfmpeg>> = OnceLock::new();
        let found = match given {
            Some(given) => Self::ask(given.to_owned()),
            None => ON_THE_PATH
                .get_or_init(|| Self::ask(on_the_path("ffmpeg").ok_or(NoFfmpeg::NotFound)?))
                .clone(),
        };
        found.map(|ffmpeg| Self { confined, dying: Dying::default(), ..ffmpeg })
    }

    fn ask(encoder: PathBuf) -> Result<Self, NoFfmpeg> {
        let said = |program: &Path, question: &str| {
            answer(
                std::process::Command::new(program).args(["-hide_banner", question]),
                ANSWER_TIMEOUT,
            )
        };
        let version = said(&encoder, "-version");
        let version = version.as_deref().and_then(|said| said.strip_prefix("ffmpeg version "));
        let version = version.and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
        let version = version.ok_or_else(|| NoFfmpeg::NoVersion(encoder.clone()))?;
        let name = format!("ffprobe{}", env::consts::EXE_SUFFIX);
        let prober = [Some(encoder.with_file_name(name)), on_the_path("ffprobe")];
        let prober = prober.into_iter().flatten().find(|prober| prober.is_file());
        let prober = prober.ok_or_else(|| NoFfmpeg::NoProbe(encoder.clone()))?;
        let list = said(&encoder, "-encoders").unwrap_or_default();
        let has = |name: &str| list.lines().any(|l| l.split_whitespace().nth(1) == Some(name));
        let lacks: Vec<_> = ENCODERS.into_iter().filter(|name| !has(name)).collect();
        if !lacks.is_empty() {
            return Err(NoFfmpeg::Lacks(encoder, lacks));
        }
        Ok(Self { encoder, prober, version, confined: false, dying: Dying::default() })
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Returns when whatever it had begun and nobody waits for any more is gone.
    pub(crate) async fn settle(&self) {
        let gone = async {
            while self.dying.are_left() {
                time::sleep(KILL_CHECK_INTERVAL).await;
            }
        };
        let _ = time::timeout(KILL_TIMEOUT, gone).await;
    }

    /// Starts one of both programs.
    async fn start(
        &self,
        program: &Path,
        arguments: &[String],
        written: &Path,
        read: &Path,
    ) -> Result<Running, MovieError> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(written)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        platform::lead_a_group(&mut command);
        let walls = self.walls(written, read);
        let child = confine::spawn(command, walls).await.map_err(infrastructure)?;
        Ok(Running { child, dying: self.dying.clone() })
    }

    /// Nothing but `written` is written to, and of what is no program only `read` is read.
    fn walls(&self, written: &Path, read: &Path) -> Option<Walls> {
        let programs = [&self.encoder, &self.prober].into_iter();
        let programs = programs.flat_map(|program| confine::installation(program));
        self.confined.then(|| Walls {
            writes: vec![written.to_owned()],
            reads: programs.chain([read.to_owned()]).collect(),
            sees_processes: false,
        })
    }

    /// Runs ffmpeg and tells the frames that are done, or a line that it wrote.
    pub(super) async fn encode(
        &self,
        arguments: &[String],
        written: &Path,
        read: &Path,
        silence: Duration,
        mut observe: impl FnMut(u32, Option<String>),
    ) -> Result<(), MovieError> {
        let oom_kills = platform::out_of_memory_kills();
        let mut running = self.start(&self.encoder, arguments, written, read).await?;
        let mut tail = VecDeque::new();
        let (mut output, mut errors) = running.lines()?;
        let (mut done, mut advanced) = (0, Instant::now());
        let (mut output_ended, mut errors_ended) = (false, false);
        while !(output_ended && errors_ended) {
            let silent = time::sleep_until(advanced + silence);
            tokio::select! {
                line = output.next(), if !output_ended => match line {
                    Some(line) => {
                        let frame = line.strip_prefix("frame=").and_then(|n| n.trim().parse().ok());
                        if let Some(frame) = frame.filter(|frame| *frame > done) {
                            (done, advanced) = (frame, Instant::now());
                            observe(done, None);
                        }
                    }
                    None => output_ended = true,
                },
                line = errors.next(), if !errors_ended => match line {
                    Some(line) => {
                        let line = shorten(line);
                        if tail.len() == LOG_TAIL_LINES {
                            tail.pop_front();
                        }
                        tail.push_back(line.clone());
                        observe(done, Some(line));
                    }
                    None => errors_ended = true,
                },
                () = silent => {
                    let seconds = silence.as_secs();
                    let said = format!(
                        "ffmpeg encoded nothing for {seconds} seconds and was ended; --frame-silence gives it longer"
                    );
                    return Err(failed(FailureReason::Timeout, said, tail));
                }
            }
        }
        let status = running.child.wait().await.map_err(infrastructure)?;
        if status.success() {
            return Ok(());
        }
        let last = tail.back().map(String::as_str).unwrap_or("it said nothing");
        let (reason, message) = if tail.iter().any(|line| line.contains("No space left on device"))
        {
            (FailureReason::Infrastructure, "the node's disk is full".to_owned())
        } else if platform::signal(status) == Some(platform::SIGKILL)
            && platform::out_of_memory_kills() > oom_kills
        {
            let said = "the system ran out of memory and killed ffmpeg".to_owned();
            (FailureReason::OutOfMemory, said)
        } else {
            (FailureReason::Renderer, format!("ffmpeg failed: {last}"))
        };
        Err(failed(reason, message, tail))
    }

    /// Decodes a whole movie and tells what it is.
    pub(super) async fn probe(
        &self,
        movie: &Path,
        written: &Path,
        read: &Path,
    ) -> Result<Found, MovieError> {
        let movie = movie.to_string_lossy().into_owned();
        let entries = "stream=codec_type,codec_name,width,height,nb_read_frames";
        let arguments = ["-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file"]
            .into_iter()
            .chain(["-count_frames", "-show_entries", entries, "-of", "json", "-i", &movie])
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let mut running = self.start(&self.prober, &arguments, written, read).await?;
        let (Some(output), Some(errors)) =
            (running.child.stdout.take(), running.child.stderr.take())
        else {
            return Err(infrastructure(io::Error::other("no pipes")));
        };
        let (mut said, mut complaints) = (Vec::new(), Vec::new());
        let (mut output, mut errors) =
            (output.take(ANSWER_BYTES_MAX), errors.take(ANSWER_BYTES_MAX));
        let reading = async {
            tokio::try_join!(output.read_to_end(&mut said), errors.read_to_end(&mut complaints))?;
            running.child.wait().await
        };
        let invalid = |message: String| MovieError::new(FailureReason::InvalidOutput, message);
        let status = time::timeout(PROBE_TIMEOUT, reading).await;
        let status = status.map_err(|_| invalid("decoding the movie takes too long".into()))?;
        let status = status.map_err(infrastructure)?;
        let complaint = String::from_utf8_lossy(&complaints);
        if let Some(complaint) = complaint.lines().last() {
            return Err(invalid(format!("the movie does not decode: {complaint}")));
        }
        if !status.success() {
            return Err(invalid(format!("the movie does not decode: ffprobe ended with {status}")));
        }
        parse(&said).ok_or_else(|| invalid("the movie has no picture".into()))
    }
}

/// Reads ffprobe's answer; `None`: there is no picture.
fn parse(said: &[u8]) -> Option<Found> {
    let Probed { streams } = serde_json::from_slice(said).ok()?;
    let video = streams.iter().find(|stream| stream.codec_type == "video")?;
    Some(Found {
        codec: video.codec_name.clone(),
        width: video.width,
        height: video.height,
        frames: video.nb_read_frames.parse().ok()?,
        has_sound: streams.iter().any(|stream| stream.codec_type == "audio"),
    })
}

/// A program with its process group, which dies with this.
#[derive(Debug)]
struct Running {
    child: Child,
    dying: Dying,
}

impl Drop for Running {
    fn drop(&mut self) {
        // None: it has ended, and was waited for.
        if let Some(leader) = self.child.id() {
            platform::kill_group(leader);
            self.dying.add(leader);
        }
    }
}

impl Running {
    fn lines(
        &mut self,
    ) -> Result<(Lines<tokio::process::ChildStdout>, Lines<tokio::process::ChildStderr>), MovieError>
    {
        match (self.child.stdout.take(), self.child.stderr.take()) {
            (Some(output), Some(errors)) => Ok((Lines::new(output), Lines::new(errors))),
            _ => Err(infrastructure(io::Error::other("no pipes"))),
        }
    }
}

fn failed(reason: FailureReason, message: String, tail: VecDeque<String>) -> MovieError {
    MovieError { error: RenderError::new(reason, message), log_tail: tail.into() }
}

fn infrastructure(error: io::Error) -> MovieError {
    MovieError::new(FailureReason::Infrastructure, format!("cannot run ffmpeg: {error}"))
}

fn on_the_path(name: &str) -> Option<PathBuf> {
    let name = format!("{name}{}", env::consts::EXE_SUFFIX);
    let path = env::var_os("PATH")?;
    let mut programs = env::split_paths(&path).map(|folder| folder.join(&name));
    programs.find(|program| fs::metadata(program).is_ok_and(|file| file.is_file()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_ffprobe_says_is_read() {
        let said = br#"{"programs": [], "streams": [
            {"codec_name": "aac", "codec_type": "audio", "nb_read_frames": "94"},
            {"codec_name": "h264", "codec_type": "video", "width": 64, "height": 48, "nb_read_frames": "12"}]}"#;
        let found =
            Found { codec: "h264".into(), width: 64, height: 48, frames: 12, has_sound: true };
        assert_eq!(parse(said), Some(found));
        for none in ["", "{}", r#"{"streams": [{"codec_type": "audio"}]}"#] {
            assert_eq!(parse(none.as_bytes()), None);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_killed_and_gone_when_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let ffmpeg = Ffmpeg {
            encoder: "sh".into(),
            prober: "sh".into(),
            version: String::new(),
            confined: false,
            dying: Dying::default(),
        };
        let arguments = ["-c".to_owned(), "exec sleep 1000".to_owned()];
        let (program, place) = (&ffmpeg.encoder, folder.path());
        let running = ffmpeg.start(program, &arguments, place, place).await.unwrap();
        let leader = running.child.id().unwrap();
        assert!(platform::group_exists(leader));
        drop(running);
        ffmpeg.settle().await;
        assert!(!platform::group_exists(leader));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_ffmpeg_is_not_taken_for_one() {
        let error = Ffmpeg::find(Some(Path::new("/bin/ls")), false).err();
        assert!(error.is_some_and(|error| error.to_string().contains("/bin/ls")));
    }
}
