//! What the fuzz targets do.

use std::path::Path;

use bytes::Bytes;
use framecrew_proto::v1::RenderBatchRequest;
use futures::FutureExt as _;
use prost::Message as _;

use crate::{
    output::decode::decode,
    renderer::{lines, progress, warnings},
    request,
};

/// What a renderer writes.
pub fn node_lines(data: &[u8]) {
    let mut all = lines::Lines::new(data);
    // Bytes in memory are always there.
    while let Some(line) = all.next().now_or_never().flatten() {
        assert!(line.len() <= lines::LINE_BYTES_MAX && !line.trim().is_empty());
        assert!(!line.contains(['\n', '\r']));
        if let progress::Line::Progress(reading) = progress::parse(&line)
            && let Some((done, total)) = reading.samples
        {
            assert!(done <= total, "{line}");
        }
        if let Some((engine, scene)) = progress::unavailable_engine(&line) {
            assert!(line.contains(engine) && line.contains(scene));
        }
        let context = warnings::Context { blend: Path::new("/project/shot.blend"), scripts: true };
        warnings::parse(&line, context, |_| line.len() % 2 == 0);
        assert!(line.starts_with(&lines::shorten(line.clone())));
    }
}

/// An image that a renderer left. The first byte says whether it is looked at and what its name ends in.
pub fn node_image(data: &[u8]) {
    let Some((first, content)) = data.split_first() else { return };
    let name = if first & 2 == 0 { "0001.png" } else { "0001.tga" };
    let Ok(decoded) = decode(name, &Bytes::copy_from_slice(content), first & 1 == 1) else {
        return;
    };
    assert!(decoded.size.0 > 0 && decoded.size.1 > 0);
}

/// What an orchestrator asks a node to render.
pub fn node_request(data: &[u8]) {
    let Ok(wanted) = RenderBatchRequest::decode(data) else { return };
    match request::parse(wanted) {
        Ok(work) => assert!(work.origin.batch_id > 0 && work.origin.job_id > 0),
        Err(status) => assert!(!status.message().is_empty()),
    }
}

#[cfg(test)]
#[path = "../../proto/fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Cursor;

    use framecrew_proto::v1::{FrameRange, Project, ProjectFile, RenderSettings, Slice};
    use image::{DynamicImage, ImageFormat};

    use super::*;

    #[test]
    fn the_seeds_of_node_lines_hold() {
        let seeds = [
            (
                "older",
                "Fra:12 Mem:40.00M (Peak 49M) | Time:00:01.53 | Remaining:01:43.73 | Mem:1.2G | Sample 32/96\nSaved: '/a/0012.png'\n Time: 00:01.65 (Saving: 00:00.01)\r\nBlender quit",
            ),
            (
                "newer",
                "00:03.413  render           | Fra: 1 | Remaining: 01:43.73 | Mem: 1699M | Rendered 3/12 Tiles, Sample 1/128",
            ),
            (
                "engine",
                "Engine 'A' not available for scene 'B's' (an addon may need to be installed)",
            ),
            (
                "library",
                "Warning: LIB: Object: 'Crate' missing from '/a/lib.blend', parent '<direct>'\nIMB_load: unknown file-format (/a/b.jpg)",
            ),
            (
                "numbers",
                "Fra:1 Mem:9999999999999999999G | Remaining:99999999999:99:99.99 | Sample 4294967296/0",
            ),
        ];
        let seeds = seeds.map(|(name, text)| (name, text.into()));
        super::seeds::check("node_lines", &seeds, node_lines);
    }

    #[test]
    fn the_seeds_of_node_image_hold() {
        let image = |format, first: u8| {
            let mut bytes = Cursor::new(vec![first]);
            bytes.set_position(1);
            let picture = match format {
                ImageFormat::OpenExr => DynamicImage::new_rgb32f(3, 2),
                _ => DynamicImage::new_rgb8(3, 2),
            };
            picture.write_to(&mut bytes, format).unwrap();
            bytes.into_inner()
        };
        let seeds = [
            ("png", image(ImageFormat::Png, 1)),
            ("jpeg", image(ImageFormat::Jpeg, 1)),
            ("tiff", image(ImageFormat::Tiff, 1)),
            ("exr", image(ImageFormat::OpenExr, 1)),
            ("none", b"\x03no image".into()),
        ];
        super::seeds::check("node_image", &seeds, node_image);
    }

    #[test]
    fn the_seeds_of_node_request_hold() {
        let file = |path: &str| ProjectFile {
            path: path.into(),
            digest: "ab".repeat(32),
            size_bytes: 7,
            ..ProjectFile::default()
        };
        let project = Project {
            blend_path: "shot.blend".into(),
            files: vec![file("shot.blend"), file("tex/wood.png")],
        };
        let good = RenderBatchRequest {
            batch_id: 7,
            job_id: 3,
            epoch: 1,
            slices: vec![Slice { frame: 1, index: 0 }, Slice { frame: -2, index: 0 }],
            settings: Some(RenderSettings { samples: Some(16), ..RenderSettings::default() }),
            project: Some(project),
            file_version: "4.5".into(),
            ..RenderBatchRequest::default()
        };
        assert!(request::parse(good.clone()).is_ok());
        let mut faulty = good.clone();
        faulty.slices.push(Slice { frame: 1, index: 9 });
        faulty.project.as_mut().unwrap().files[1].path = "../a".into();
        faulty.settings.as_mut().unwrap().scale_percent = Some(0);
        let seeds = [
            ("good", good.encode_to_vec()),
            ("faulty", faulty.encode_to_vec()),
            ("range", FrameRange { first: 1, last: 9, step: 2 }.encode_to_vec()),
        ];
        super::seeds::check("node_request", &seeds, node_request);
    }
}
