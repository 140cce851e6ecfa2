//! Makes a movie of a job's frames with ffmpeg, and believes in it only when it has been decoded again.

mod error;
mod ffmpeg;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use framecrew_blobs::ProjectPath;
use tokio::task;

use self::ffmpeg::Found;
pub(crate) use self::{error::MovieError, ffmpeg::Ffmpeg};
use crate::{
    failure::FailureReason,
    output::Size,
    platform,
    renderer::{Observation, Progress, Soundtrack, duration_seconds},
};

/// The container of a movie, which decides its codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// H.264 and AAC.
    Mp4,
    /// H.264 and FLAC.
    Mkv,
    /// ProRes 422 HQ and PCM.
    Mov,
    /// VP9 and Opus.
    Webm,
}

/// A movie to be made, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) format: Format,
    /// The file's name, without its extension.
    pub(crate) name: String,
    /// The frames' images, in their order; one at least.
    pub(crate) images: Vec<ProjectPath>,
    /// First and last frame, where there are no gaps between: then the scene's sound belongs to them.
    pub(crate) span: Option<(i32, i32)>,
}

/// A movie that was decoded again: the right number of frames of the right size.
#[derive(Debug)]
pub(crate) struct Movie {
    pub(crate) path: PathBuf,
    /// The file's name.
    pub(crate) name: String,
    pub(crate) size: Size,
}

/// How a format is written.
struct Codecs {
    extension: &'static str,
    /// What ffprobe calls the codecs.
    video: &'static str,
    /// Pixels between the images and the encoder: with as many bits as the movie needs.
    working: &'static str,
    pixels: &'static str,
    video_options: &'static [&'static str],
    audio_options: &'static [&'static str],
    container_options: &'static [&'static str],
}

fn codecs(format: Format) -> Codecs {
    // Visually without loss, and the same in both containers.
    const H264: &[&str] =
        &["-c:v", "libx264", "-preset", "medium", "-crf", "18", "-profile:v", "high"];
    const PRORES_422_HQ: &[&str] = &["-c:v", "prores_ks", "-profile:v", "3", "-vendor", "apl0"];
    const VP9: &[&str] =
        &["-c:v", "libvpx-vp9", "-crf", "24", "-b:v", "0", "-row-mt", "1", "-cpu-used", "2"];
    // The index stands first: players begin before they have the whole.
    const INDEX_FIRST: &[&str] = &["-movflags", "+faststart"];
    let h264 = Codecs {
        extension: "mp4",
        video: "h264",
        working: "gbrap",
        pixels: "yuv420p",
        video_options: H264,
        audio_options: &["-c:a", "aac", "-b:a", "192k"],
        container_options: INDEX_FIRST,
    };
    match format {
        Format::Mp4 => h264,
        Format::Mkv => Codecs {
            extension: "mkv",
            audio_options: &["-c:a", "flac"],
            container_options: &[],
            ..h264
        },
        Format::Mov => Codecs {
            extension: "mov",
            video: "prores",
            working: "gbrap16le",
            pixels: "yuv422p10le",
            video_options: PRORES_422_HQ,
            audio_options: &["-c:a", "pcm_s16le"],
            container_options: INDEX_FIRST,
        },
        Format::Webm => Codecs {
            extension: "webm",
            video: "vp9",
            video_options: VP9,
            audio_options: &["-c:a", "libopus", "-b:a", "160k"],
            container_options: &[],
            ..h264
        },
    }
}

/// Extensions of images in linear light: ffmpeg would show them without their scene's view transform.
const LINEAR: [&str; 2] = ["exr", "hdr"];

/// Makes a movie in `folder`, which is its own, of these images. No frame may come out for `silence`, at most.
pub(crate) async fn make(
    ffmpeg: &Ffmpeg,
    encoding: &Encoding,
    images: Vec<PathBuf>,
    soundtrack: &Soundtrack,
    folder: &Path,
    silence: Duration,
    mut observe: impl FnMut(Observation),
) -> Result<Movie, MovieError> {
    let infrastructure = |error: io::Error| {
        let message = format!("cannot prepare the movie: {error}");
        MovieError::new(FailureReason::Infrastructure, message)
    };
    let codecs = codecs(encoding.format);
    let (numbered, written) = (folder.join("images"), folder.join("written"));
    fs::create_dir(&written).map_err(infrastructure)?;
    let total = u32::try_from(images.len()).unwrap_or(u32::MAX);
    let extension = extension(&encoding.images);
    refuse_linear(&extension)?;
    let pattern = numbered.join(format!("%06d.{extension}"));
    task::spawn_blocking(move || number(&images, &numbered, &extension))
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(infrastructure)?;

    let name = format!("{}.{}", encoding.name, codecs.extension);
    // Its own name is only for people: ffmpeg finds options and protocols in some.
    let movie = written.join(format!("movie.{}", codecs.extension));
    let arguments = arguments(&codecs, &pattern, total, soundtrack, &movie);
    ffmpeg
        .encode(&arguments, &written, folder, silence, |done, line| match line {
            Some(line) => observe(Observation::Line(line)),
            None => observe(Observation::Progress(progress(done, total))),
        })
        .await?;

    let found = ffmpeg.probe(&movie, &written, folder).await?;
    let invalid = |message: String| MovieError::new(FailureReason::InvalidOutput, message);
    let Found { codec, width, height, frames, has_sound } = found;
    if codec != codecs.video {
        return Err(invalid(format!("the movie is {codec} instead of {}", codecs.video)));
    }
    if frames != total {
        return Err(invalid(format!("the movie has {frames} frames instead of {total}")));
    }
    if has_sound != soundtrack.sound.is_some() {
        return Err(invalid("the movie and the scene differ in whether there is sound".into()));
    }
    Ok(Movie { path: movie, name, size: (width, height) })
}

/// What the client and the orchestrator refuse where they know the frames' format beforehand.
fn refuse_linear(extension: &str) -> Result<(), MovieError> {
    if !LINEAR.contains(&extension) {
        return Ok(());
    }
    let format = extension.to_uppercase();
    let message = format!(
        "the frames are {format}, of which no movie can be made; render them in another format, like PNG"
    );
    Err(MovieError::new(FailureReason::Permanent, message))
}

fn progress(done: u32, total: u32) -> Progress {
    Progress {
        samples_done: done.min(total),
        samples_total: total,
        fraction: Some((f64::from(done) / f64::from(total)).min(1.0)),
        ..Progress::default()
    }
}

/// The images' extension, by which ffmpeg chooses a decoder.
fn extension(images: &[ProjectPath]) -> String {
    let first = images.first().map(ProjectPath::as_str).unwrap_or_default();
    let extension = Path::new(first).extension().unwrap_or_default().to_string_lossy();
    let is_plain = !extension.is_empty() && extension.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_plain { extension.to_ascii_lowercase() } else { "png".into() }
}

/// Gives the images numbers for names, from 1, whatever they were called.
fn number(sources: &[PathBuf], folder: &Path, extension: &str) -> io::Result<()> {
    fs::create_dir(folder)?;
    for (source, number) in sources.iter().zip(1..) {
        platform::link_or_copy(source, &folder.join(format!("{number:06}.{extension}")))?;
    }
    Ok(())
}

fn arguments(
    codecs: &Codecs,
    pattern: &Path,
    frames: u32,
    Soundtrack { rate, sound }: &Soundtrack,
    movie: &Path,
) -> Vec<String> {
    // Images are sRGB over the full range, with straight alpha that goes over black; movies are of even sizes, in
    // BT.709 over the range of television, and say so.
    let picture = format!(
        "format={working},premultiply=inplace=1,\
         scale=flags=lanczos+accurate_rnd+full_chroma_int:out_color_matrix=bt709:out_range=tv,\
         format={pixels},pad=ceil(iw/2)*2:ceil(ih/2)*2:0:0:black,\
         setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709",
        working = codecs.working,
        pixels = codecs.pixels,
    );
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut all: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| all.extend(more.iter().map(|argument| (*argument).to_owned()));
    add(&["-nostdin", "-hide_banner", "-loglevel", "warning", "-progress", "pipe:1"]);
    // A broken image ends it, where by default it would be left out.
    add(&["-xerror", "-protocol_whitelist", "file"]);
    add(&["-f", "image2", "-framerate", &rate.to_string(), "-start_number", "1"]);
    add(&["-i", &text(pattern)]);
    if let Some(sound) = sound {
        add(&["-protocol_whitelist", "file", "-f", "flac", "-i", &text(&sound.file)]);
    }
    add(&["-map", "0:v:0", "-filter:v", &picture]);
    add(codecs.video_options);
    add(&["-color_range", "tv", "-colorspace", "bt709"]);
    add(&["-color_primaries", "bt709", "-color_trc", "bt709"]);
    match sound {
        Some(sound) => {
            let seconds = duration_seconds(*rate, frames);
            let delay_millis = duration_seconds(*rate, sound.delay_frames) * 1e3;
            let filter = format!("adelay={delay_millis:.3}:all=1,apad,atrim=duration={seconds:.6}");
            add(&["-map", "1:a:0", "-filter:a", &filter]);
            add(codecs.audio_options);
        }
        None => add(&["-an"]),
    }
    add(codecs.container_options);
    add(&["-y", &text(movie)]);
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn images_of_any_name_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["-12.png", "%d '\".png", "ünï.png"];
        let sources: Vec<_> = names.iter().map(|name| folder.path().join(name)).collect();
        for (n, source) in sources.iter().enumerate() {
            fs::write(source, n.to_string()).unwrap();
        }
        let numbered = folder.path().join("images");
        number(&sources, &numbered, "png").unwrap();
        for n in 0..3 {
            let image = numbered.join(format!("{:06}.png", n + 1));
            assert_eq!(fs::read_to_string(image).unwrap(), n.to_string());
        }
    }

    #[test]
    fn frames_in_linear_light_make_no_movie() {
        let MovieError { error, .. } = refuse_linear("exr").unwrap_err();
        assert_eq!(error.reason, FailureReason::Permanent);
        assert!(error.message.contains("EXR") && error.message.contains("PNG"), "{error:?}");
        assert!(refuse_linear("png").is_ok());
    }

    #[test]
    fn an_extension_that_is_none_is_not_believed() {
        for (path, is) in [("a/1.JPG", "jpg"), ("a/1", "png"), ("a/1.%d", "png")] {
            assert_eq!(extension(&[path.parse().unwrap()]), is, "{path}");
        }
    }
}
