//! A node makes movies of images with the ffmpeg of this machine, and of their scene's sound with every Blender.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, fs, io::Cursor, path::Path, process::Command, time::Duration};

use framecrew_node::RendererChoice;
use framecrew_proto::v1::{
    BatchEnd, Encoding, FailureReason, FrameRange, MovieFormat, Project, ProjectFile,
    RenderBatchRequest, batch_event::Event,
};
use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};
use support::{Crew, blender, end, eventually, failures, finished, log, request};

const FORMATS: [(MovieFormat, &str, &str); 4] = [
    (MovieFormat::Mp4, "mp4", "h264"),
    (MovieFormat::Mkv, "mkv", "h264"),
    (MovieFormat::Mov, "mov", "prores"),
    (MovieFormat::Webm, "webm", "vp9"),
];

/// Colours that movies get wrong when range, matrix or alpha are.
const RED: [u8; 3] = [200, 30, 60];
const GREEN: [u8; 3] = [100, 200, 50];

/// Whether this machine can make movies; where not, the test is skipped and says so.
fn has_ffmpeg() -> bool {
    let found = Command::new("ffprobe").arg("-version").output().is_ok();
    if !found {
        println!("skipped: no ffmpeg is installed");
    }
    found
}

/// Left red, right a green that is half transparent; the border moves with the frame.
fn picture(frame: u32, (width, height): (u32, u32), format: ImageFormat) -> Vec<u8> {
    let border = width / 2 + frame % 8;
    let picture = RgbaImage::from_fn(width, height, |x, _| {
        let ([r, g, b], a) = if x < border { (RED, 255) } else { (GREEN, 128) };
        Rgba([r, g, b, a])
    });
    let picture = DynamicImage::from(picture);
    let picture = if format == ImageFormat::Jpeg { picture.to_rgb8().into() } else { picture };
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn movie(
    crew: &Crew,
    id: u64,
    format: MovieFormat,
    blend: ProjectFile,
    images: Vec<(String, Vec<u8>)>,
) -> RenderBatchRequest {
    let last = i32::try_from(images.len()).unwrap();
    let images =
        images.iter().map(|(name, bytes)| crew.put(&format!("framecrew-frames/{name}"), bytes));
    let files: Vec<_> = [blend.clone()].into_iter().chain(images).collect();
    RenderBatchRequest {
        project: Some(Project { blend_path: blend.path.clone(), files }),
        encoding: Some(Encoding {
            format: format.into(),
            name: "A shot, ünïcode".into(),
            frames_folder: "framecrew-frames".into(),
            frames: vec![FrameRange { first: 1, last, step: 1 }],
        }),
        ..request(id, blend, [1])
    }
}

/// What ffprobe says about a movie's streams, by their kinds.
fn probed(movie: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-show_streams", "-of", "json"])
        .arg(movie)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let streams = said["streams"].as_array().unwrap().iter().map(|stream| {
        let fields = stream.as_object().unwrap().iter();
        let fields = fields.map(|(k, v)| (k.clone(), v.to_string().trim_matches('"').to_owned()));
        (stream["codec_type"].as_str().unwrap().to_owned(), fields.collect())
    });
    streams.collect()
}

/// A frame of a movie as a player shows it: what the tags say is believed.
fn frame(movie: &Path, number: u32, (width, height): (u32, u32)) -> image::RgbImage {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(movie)
        .args(["-vf", &format!("select=eq(n\\,{number}),scale=out_range=pc,format=rgb24")])
        .args(["-frames:v", "1", "-f", "rawvideo", "-"])
        .output()
        .unwrap();
    image::RgbImage::from_raw(width, height, output.stdout).unwrap()
}

fn assert_close(pixel: &image::Rgb<u8>, to: [u8; 3], what: &str) {
    let is_close = pixel.0.iter().zip(to).all(|(a, b)| a.abs_diff(b) <= 6);
    assert!(is_close, "{what}: {pixel:?} instead of {to:?}");
}

/// The movie that a batch made, as a file.
fn stored(
    crew: &Crew,
    events: &[framecrew_proto::v1::BatchEvent],
    folder: &Path,
) -> std::path::PathBuf {
    assert_eq!(end(events), BatchEnd::Complete);
    let finished = finished(events);
    let output = &finished.first().unwrap_or_else(|| panic!("{events:#?}")).outputs[0];
    let path = folder.join(&output.name);
    fs::write(&path, &crew.state.lock().unwrap().blobs[&output.digest]).unwrap();
    path
}

async fn crew() -> Crew {
    Crew::start(RendererChoice::Synthetic(Duration::ZERO)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn images_become_a_movie_of_every_format_with_their_length_size_and_colours() {
    if !has_ffmpeg() {
        return;
    }
    let crew = crew().await;
    let folder = tempfile::tempdir().unwrap();
    let blend = crew.put("shot.blend", b"any");
    for ((format, extension, codec), id) in FORMATS.into_iter().zip(1..) {
        // Of odd size: the movie is padded.
        let images =
            (0..120).map(|n| (format!("{:06}.png", n + 1), picture(n, (63, 47), ImageFormat::Png)));
        let request = movie(&crew, id, format, blend.clone(), images.collect());
        let events = crew.render(request).await.unwrap().all().await;
        let made = stored(&crew, &events, folder.path());
        assert_eq!(
            made.file_name().unwrap().to_str().unwrap(),
            format!("A shot, ünïcode.{extension}")
        );
        let output = finished(&events)[0].outputs[0].clone();
        assert_eq!((output.width, output.height, output.channels), (64, 48, 3));
        let streams = probed(&made);
        let video = &streams["video"];
        assert_eq!(
            (video["codec_name"].as_str(), video["nb_read_frames"].as_str()),
            (codec, "120")
        );
        assert_eq!((video["width"].as_str(), video["height"].as_str()), ("64", "48"));
        assert_eq!(video["r_frame_rate"], "24/1");
        for tag in ["color_space", "color_transfer", "color_primaries"] {
            assert_eq!(video[tag], "bt709", "{extension}: {tag}");
        }
        assert!(!streams.contains_key("audio"));
        for number in [0, 119] {
            let shown = frame(&made, number, (64, 48));
            assert_close(shown.get_pixel(8, 20), RED, extension);
            assert_close(shown.get_pixel(55, 20), GREEN.map(|c| c / 2), extension);
            assert_close(shown.get_pixel(20, 47), [0, 0, 0], "the padding");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_every_format_that_has_few_bits_have_the_same_colours() {
    if !has_ffmpeg() {
        return;
    }
    let crew = crew().await;
    let folder = tempfile::tempdir().unwrap();
    let blend = crew.put("shot.blend", b"any");
    for ((format, extension), id) in
        [(ImageFormat::Jpeg, "jpg"), (ImageFormat::Tiff, "tif"), (ImageFormat::WebP, "webp")]
            .into_iter()
            .zip(1..)
    {
        let image = |n| (format!("{n:06}.{extension}"), picture(n, (64, 48), format));
        let images = (1..=3).map(image).collect();
        let request = movie(&crew, id, MovieFormat::Mp4, blend.clone(), images);
        let events = crew.render(request).await.unwrap().all().await;
        let shown = frame(&stored(&crew, &events, folder.path()), 1, (64, 48));
        assert_close(shown.get_pixel(8, 20), RED, extension);
        // JPEG has no alpha.
        let green = if extension == "jpg" { GREEN } else { GREEN.map(|c| c / 2) };
        assert_close(shown.get_pixel(55, 20), green, extension);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_image_fails_the_movie_with_the_reason() {
    if !has_ffmpeg() {
        return;
    }
    let crew = crew().await;
    let blend = crew.put("shot.blend", b"any");
    let mut images: Vec<_> =
        (1..=5).map(|n| (format!("{n:06}.png"), picture(n, (64, 48), ImageFormat::Png))).collect();
    let half = images[2].1.len() / 2;
    images[2].1.truncate(half);
    let request = movie(&crew, 1, MovieFormat::Mp4, blend, images);
    let events = crew.render(request).await.unwrap().all().await;
    let failure = &failures(&events)[0];
    assert_eq!(failure.reason(), FailureReason::Renderer, "{failure:?}");
    assert!(failure.message.starts_with("ffmpeg failed: "), "{failure:?}");
    assert!(!failure.log_tail.is_empty());
    assert_eq!(support::files(&crew.data.path().join("work")), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_ffmpeg_and_progress_counts_frames() {
    if !has_ffmpeg() {
        return;
    }
    let crew = crew().await;
    let data = fs::canonicalize(crew.data.path()).unwrap();
    let runs = || {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let folders =
            processes.filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
        folders.filter(|folder| folder.starts_with(&data)).count()
    };
    let blend = crew.put("shot.blend", b"any");
    // One large picture, thousands of times: minutes of work.
    let large = picture(1, (1_920, 1_080), ImageFormat::Png);
    let images = (1..=3_000).map(|n| (format!("{n:06}.png"), large.clone())).collect();
    let request = movie(&crew, 1, MovieFormat::Webm, blend, images);
    let mut events = crew.render(request).await.unwrap();
    let seen = events.until(|event| matches!(event, Event::Progress(_))).await;
    let Some(Event::Progress(progress)) = &seen.last().unwrap().event else { panic!() };
    assert!(progress.samples_done > 0 && progress.samples_total == 3_000, "{progress:?}");
    assert!(runs() > 0);
    crew.cancel(1).await.unwrap();
    assert_eq!(end(&events.all().await), BatchEnd::Cancelled);
    eventually("ffmpeg's end", async || runs() == 0).await;
    assert_eq!(support::files(&data.join("work")), Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scene_s_sound_and_its_rate_come_into_the_movie() {
    if !has_ffmpeg() {
        return;
    }
    for blender in blender::found() {
        let crew = Crew::start(RendererChoice::Blender(vec![blender.clone()])).await;
        let folder = tempfile::tempdir().unwrap();
        let tone = folder.path().join("tone.wav");
        let more = format!(
            "
import math, struct, wave
with wave.open({tone:?}, 'wb') as tone:
    tone.setnchannels(1)
    tone.setsampwidth(2)
    tone.setframerate(48000)
    tone.writeframes(b''.join(
        struct.pack('<h', int(12000 * math.sin(i * 2 * math.pi * 440 / 48000))) for i in range(96000)))
editor = scene.sequence_editor_create()
strips = editor.strips if hasattr(editor, 'strips') else editor.sequences
strips.new_sound('tone', {tone:?}, 1, 1).sound.pack()
scene.render.fps, scene.render.fps_base = 30, 1.001
"
        );
        let blend = crew.put("shot.blend", &blender::scene(&blender, &more));
        fs::remove_file(&tone).unwrap();
        for ((format, _, _), id) in FORMATS.into_iter().zip(1..) {
            let image = |n| (format!("{n:06}.png"), picture(n, (64, 48), ImageFormat::Png));
            let images = (1..=30).map(image).collect();
            let request = movie(&crew, id, format, blend.clone(), images);
            let gaps = RenderBatchRequest {
                batch_id: id + 10,
                encoding: request.encoding.clone().map(|encoding| Encoding {
                    frames: vec![FrameRange { first: 1, last: 59, step: 2 }],
                    ..encoding
                }),
                ..request.clone()
            };
            let events = crew.render(request).await.unwrap().all().await;
            let made = stored(&crew, &events, folder.path());
            let streams = probed(&made);
            assert_eq!(streams["video"]["r_frame_rate"], "30000/1001", "{:#?}", log(&events));
            let codec = match format {
                MovieFormat::Mp4 => "aac",
                MovieFormat::Mkv => "flac",
                MovieFormat::Mov => "pcm_s16le",
                _ => "opus",
            };
            assert_eq!(streams["audio"]["codec_name"], codec);
            let heard = loudest(&made);
            assert!(heard > 6_000, "{format:?}: the loudest sample is {heard}");

            let events = crew.render(gaps).await.unwrap().all().await;
            assert!(!probed(&stored(&crew, &events, folder.path())).contains_key("audio"));
        }
    }
}

/// The loudest sample of a movie's sound.
fn loudest(movie: &Path) -> u16 {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(movie)
        .args(["-ac", "1", "-f", "s16le", "-"])
        .output()
        .unwrap();
    let samples = output.stdout.chunks_exact(2);
    samples.map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]]).unsigned_abs()).max().unwrap()
}
