//! Compares two sets of pictures file by file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use exr::prelude::{FlatSamples, read_all_flat_layers_from_file};

use crate::crew::Fate;

/// Returns the files in a folder, by their paths relative to it.
pub(crate) fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned());
            }
        }
    }
    found
}

/// Maps the names that the product would use to the files that plain Blender has drawn. These names do not contain
/// plain Blender's own folder of frames.
pub(crate) fn plain(folder: &Path, before: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, PathBuf> {
    let is_new =
        |file: &PathBuf| !before.contains(file) && file.extension().is_none_or(|end| end != "oso");
    let named = |file: PathBuf| {
        let path = folder.join(&file);
        (file.strip_prefix(Fate::MAIN).map_or(file.clone(), Path::to_owned), path)
    };
    files(folder).into_iter().filter(is_new).map(named).collect()
}

/// Describes how the product's pictures differ from plain Blender's; empty if they are equal.
pub(crate) fn differences(
    plain: &BTreeMap<PathBuf, PathBuf>,
    ours: &Path,
    noise: u8,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if plain.is_empty() {
        wrong.push("plain Blender has drawn nothing".to_owned());
    }
    let drawn = files(ours);
    for name in drawn.iter().filter(|name| !plain.contains_key(*name)) {
        wrong.push(format!("plain Blender writes no {}", name.display()));
    }
    for (name, expected) in plain {
        if !drawn.contains(name) {
            wrong.push(format!("there is no {}", name.display()));
            continue;
        }
        match difference(expected, &ours.join(name), noise) {
            Ok(()) => {}
            Err(how) => wrong.push(format!("{}: {how}", name.display())),
        }
    }
    wrong
}

fn difference(expected: &Path, ours: &Path, noise: u8) -> Result<(), String> {
    if expected.extension().is_some_and(|extension| extension == "exr") {
        return layers_differ(expected, ours, f32::from(noise) / 255.0);
    }
    let open =
        |path: &Path| image::open(path).map_err(|error| format!("{}: {error}", path.display()));
    let (expected, ours) = (open(expected)?, open(ours)?);
    if expected.color() != ours.color() {
        return Err(format!("{:?} instead of {:?}", ours.color(), expected.color()));
    }
    if (expected.width(), expected.height()) != (ours.width(), ours.height()) {
        return Err("it has another size".to_owned());
    }
    // 16 bits per channel hold every format except floating point, and show differences of floating point too.
    let (expected, ours) = (expected.to_rgba16(), ours.to_rgba16());
    let far = |(a, b): (&u16, &u16)| a.abs_diff(*b);
    let most = expected.iter().zip(ours.iter()).map(far).max().unwrap_or(0);
    let bound = u16::from(noise) * 257;
    let many = expected.pixels().zip(ours.pixels()).filter(|(a, b)| a != b).count();
    (most <= bound).then_some(()).ok_or_else(|| {
        let all = expected.pixels().len();
        format!("{many} of {all} pixels differ, by up to {} of 255", f32::from(most) / 257.0)
    })
}

/// Compares the linear values of all layers and channels, without conversion.
fn layers_differ(expected: &Path, ours: &Path, noise: f32) -> Result<(), String> {
    let open = |path: &Path| {
        let image = read_all_flat_layers_from_file(path);
        image.map_err(|error| format!("{}: {error}", path.display()))
    };
    let (expected, ours) = (open(expected)?, open(ours)?);
    let named = |image: &exr::prelude::FlatImage| {
        let mut channels = BTreeMap::new();
        for (number, layer) in image.layer_data.iter().enumerate() {
            let layer_name = layer.attributes.layer_name.as_ref().map(ToString::to_string);
            let layer_name = layer_name.unwrap_or_else(|| number.to_string());
            for channel in &layer.channel_data.list {
                let values = values(&channel.sample_data);
                channels.insert(format!("{layer_name}/{}", channel.name), (layer.size, values));
            }
        }
        channels
    };
    let (expected, ours) = (named(&expected), named(&ours));
    if !expected.keys().eq(ours.keys()) {
        let names = |channels: &BTreeMap<String, _>| channels.keys().cloned().collect::<Vec<_>>();
        return Err(format!("channels {:?} instead of {:?}", names(&ours), names(&expected)));
    }
    for ((name, (size, expected)), (our_size, ours)) in expected.iter().zip(ours.values()) {
        if size != our_size {
            return Err(format!("{name} has another size"));
        }
        let far =
            |(a, b): (&f32, &f32)| if a.to_bits() == b.to_bits() { 0.0 } else { (a - b).abs() };
        let most = expected.iter().zip(ours).map(far).fold(0.0, f32::max);
        if most > noise || expected.len() != ours.len() {
            return Err(format!("channel {name} differs by up to {most}"));
        }
    }
    Ok(())
}

fn values(samples: &FlatSamples) -> Vec<f32> {
    samples.values_as_f32().collect()
}
