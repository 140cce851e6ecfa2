//! Finds the layers of a USD file: its sublayers, references, payloads and clips.
//!
//! A USD scene consists of many files that name each other by paths relative to their own folders. A layer is
//! either text, in which a path stands between `@`s, or Pixar's "crate" format, in which a path is one of the
//! file's tokens. Any input gives an answer within bounded memory.

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::stored::clean;

/// Maximum number of layers of one file. A shot of a film has some hundred.
const LAYERS_MAX: usize = 10_000;

/// Maximum number of paths in one layer, including those of textures.
const PATHS_MAX: usize = 100_000;

/// Maximum length of a path, in bytes.
const PATH_BYTES_MAX: usize = 4_096;

/// Maximum size of the decompressed tokens of a layer, far above that of any scene.
const TOKENS_BYTES_MAX: u64 = 256 << 20;

/// Maximum number of sections of a crate, which has six.
const SECTIONS_MAX: u64 = 64;

/// Extensions of layers. Textures are not opened for geometry.
const ENDINGS: [&str; 4] = ["usd", "usda", "usdc", "usdz"];

/// Field that names clips by a pattern such as `clips/c.###.usd`.
const PATTERN: &str = "templateAssetPath";

/// Minimum number of numbered clips that count as a sequence, in which one may be missing.
const ROW_MIN: usize = 3;

/// The first bytes of a crate.
const CRATE: &[u8; 8] = b"PXR-USDC";

/// The latest known version of the crate format: 0.13.0.
const CRATE_VERSION_MAX: (u8, u8) = (0, 13);

/// What a layer refers to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Layer {
    /// Paths of other layers, as stored.
    pub(super) paths: Vec<String>,
    /// Texts that may be paths of layers, or else metadata such as the path to which a tool saved. They count only
    /// if the file exists.
    pub(super) guesses: Vec<String>,
    /// Patterns of clips, as stored. A `#` stands for a digit of the clip's number.
    pub(super) patterns: Vec<String>,
    /// Whether it may refer to layers that are not known.
    pub(super) is_vague: bool,
}

/// What is known of the layers of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Layers {
    /// The paths of the existing layers, without the first.
    pub(super) there: Vec<PathBuf>,
    /// The paths of the missing layers.
    pub(super) missing: Vec<PathBuf>,
    /// Layers named by absolute paths, which do not exist on other machines.
    pub(super) absolute: Vec<PathBuf>,
}

/// Whether the name of a file is that of a USD file.
pub(super) fn is_usd(file: &Path) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.to_ascii_lowercase().as_str()))
}

/// Follows the layers of a USD file, and theirs.
pub(super) fn layers(file: &Path) -> Layers {
    let mut found = Layers::default();
    let mut seen = HashSet::from([file.to_owned()]);
    let mut next = vec![file.to_owned()];
    while let Some(file) = next.pop() {
        let folder = file.parent().unwrap_or(&file).to_owned();
        let layer = File::open(&file).map(|file| read(BufReader::new(file))).unwrap_or_default();
        let mut paths: Vec<PathBuf> =
            layer.paths.iter().map(|path| clean(&folder.join(path))).collect();
        if layer.is_vague {
            paths.extend(beside(&folder));
        }
        let guesses = layer.guesses.iter().map(|path| clean(&folder.join(path)));
        paths.extend(guesses.filter(|path| path.is_file()));
        let named = layer.paths.iter().chain(&layer.guesses);
        let mut absolute: HashSet<PathBuf> =
            named.map(PathBuf::from).filter(|path| path.is_absolute()).collect();
        for pattern in &layer.patterns {
            let clips = clips(&clean(&folder.join(pattern)));
            if Path::new(pattern).is_absolute() {
                absolute.extend(clips.iter().cloned());
            }
            paths.extend(clips);
        }
        for path in paths {
            if seen.len() >= LAYERS_MAX || !seen.insert(path.clone()) {
                continue;
            }
            if absolute.contains(&path) {
                found.absolute.push(path);
            } else if path.is_file() {
                found.there.push(path.clone());
                next.push(path);
            } else {
                found.missing.push(path);
            }
        }
    }
    found.there.sort_unstable();
    found.missing.sort_unstable();
    found
}

/// All USD files in a folder.
fn beside(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_usd(path)).take(LAYERS_MAX)
}

/// Returns the clips of a pattern: those that exist, and those whose numbers are missing between them. If there is
/// none, returns the pattern itself, which then counts as missing.
fn clips(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let folder = pattern.parent().unwrap_or(pattern);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let clips = names.filter_map(|clip| Some((clip_number(name, &clip)?, clip)));
    let clips: Vec<_> = clips.take(LAYERS_MAX).collect();
    if clips.is_empty() {
        return vec![pattern.to_owned()];
    }
    let numbers = clips.iter().filter_map(|(number, _)| *number).collect();
    let gone = gaps(&numbers).into_iter().map(|number| clip_name(name, number));
    let there = clips.into_iter().map(|(_, clip)| clip);
    there.chain(gone).map(|clip| folder.join(clip)).collect()
}

/// Whether `pattern` stands for `clip`, and the clip's number, if it has a single whole one. As for USD, only whole
/// parts between dots stand for numbers.
fn clip_number(pattern: &str, clip: &str) -> Option<Option<u32>> {
    let (parts, of_clip): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), clip.split('.').collect());
    if parts.len() != of_clip.len() {
        return None;
    }
    let mut numbers = Vec::new();
    for (part, of_clip) in parts.into_iter().zip(of_clip) {
        if is_hashes(part) {
            let is_number =
                !of_clip.is_empty() && of_clip.bytes().all(|byte| byte.is_ascii_digit());
            numbers.push(is_number.then_some(of_clip)?);
        } else if part != of_clip {
            return None;
        }
    }
    match numbers[..] {
        [] => None,
        [number] => Some(number.parse().ok()),
        _ => Some(None),
    }
}

/// The name of the clip with a number.
fn clip_name(pattern: &str, number: u32) -> String {
    let part = |part: &str| match is_hashes(part) {
        true => format!("{number:0width$}", width = part.len()),
        false => part.to_owned(),
    };
    pattern.split('.').map(part).collect::<Vec<_>>().join(".")
}

fn is_hashes(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte == b'#')
}

/// The numbers that are missing in a sequence, if its numbers are evenly spaced apart from them.
fn gaps(numbers: &BTreeSet<u32>) -> Vec<u32> {
    let steps = || numbers.iter().zip(numbers.iter().skip(1)).map(|(a, b)| b - a);
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Vec::new() };
    let Some(step) = steps().min().filter(|step| steps().all(|wide| wide % step == 0)) else {
        return Vec::new();
    };
    if numbers.len() < ROW_MIN {
        return Vec::new();
    }
    let all = (*first..=*last).step_by(step as usize).take(LAYERS_MAX);
    all.filter(|number| !numbers.contains(number)).collect()
}

/// Reads one layer. A layer that cannot be read is vague.
pub(super) fn read(mut file: impl Read + Seek) -> Layer {
    let mut start = [0; 8];
    if file.read_exact(&mut start).is_err() || file.rewind().is_err() {
        return Layer::default();
    }
    match &start {
        // An archive, which contains everything that it needs.
        [b'P', b'K', 3, 4, ..] => Layer::default(),
        CRATE => match tokens(&mut file) {
            Some(tokens) => of_tokens(&tokens),
            None => Layer { is_vague: true, ..Layer::default() },
        },
        _ => of_text(file),
    }
}

/// The path of a layer, without the part that selects something in it.
fn layer_path(text: &str) -> Option<String> {
    let path = text.split(['[']).next().unwrap_or(text);
    let path = path.split(":SDF_FORMAT_ARGS:").next().unwrap_or(path);
    let is_path = !path.contains(char::is_control) && !path.contains("://");
    (is_path && is_usd(Path::new(path))).then(|| path.replace('\\', "/"))
}

fn of_tokens(tokens: &[u8]) -> Layer {
    let mut layer = Layer::default();
    let mut has_clips = false;
    for token in tokens.split(|&byte| byte == 0) {
        if token.len() > PATH_BYTES_MAX {
            continue;
        }
        let Ok(token) = std::str::from_utf8(token) else { continue };
        has_clips |= token == PATTERN;
        let Some(path) = layer_path(token) else { continue };
        let is_sure = path.starts_with("./") || path.starts_with("../");
        let of_its_kind = match (path.contains('#'), is_sure) {
            (true, _) => &mut layer.patterns,
            (false, true) => &mut layer.paths,
            (false, false) => &mut layer.guesses,
        };
        if of_its_kind.len() < PATHS_MAX {
            of_its_kind.push(path);
        }
    }
    // Without clips, a `#` is part of a name.
    if !has_clips {
        layer.guesses.append(&mut layer.patterns);
    }
    layer
}

/// The token table of a crate, each token with a zero byte after it. `None` if it is not as expected.
fn tokens(file: &mut (impl Read + Seek)) -> Option<Vec<u8>> {
    let mut head = [0; 24];
    file.read_exact(&mut head).ok()?;
    let version = (head[8], head[9]);
    if version > CRATE_VERSION_MAX {
        return None;
    }
    file.seek(SeekFrom::Start(number(&head[16..24])?)).ok()?;
    let sections = read_number(file)?;
    let mut place = None;
    for _ in 0..sections.min(SECTIONS_MAX) {
        let mut section = [0; 32];
        file.read_exact(&mut section).ok()?;
        if section.starts_with(b"TOKENS\0") {
            place = Some((number(&section[16..24])?, number(&section[24..32])?));
        }
    }
    let (at, len_bytes) = place?;
    file.seek(SeekFrom::Start(at)).ok()?;
    let _count = read_number(file)?;
    let open_bytes = read_number(file)?;
    if open_bytes > TOKENS_BYTES_MAX || len_bytes > TOKENS_BYTES_MAX {
        return None;
    }
    // Compressed since version 0.4.0.
    if version < (0, 4) {
        return read_bytes(file, open_bytes);
    }
    let packed_bytes = read_number(file).filter(|packed| *packed <= len_bytes)?;
    let packed = read_bytes(file, packed_bytes)?;
    unpack(&packed, usize::try_from(open_bytes).ok()?)
}

/// Decompresses LZ4 data, which is in one chunk or in several.
fn unpack(packed: &[u8], len_bytes: usize) -> Option<Vec<u8>> {
    let (pieces, mut rest) = packed.split_first()?;
    if *pieces == 0 {
        return lz4_flex::block::decompress(rest, len_bytes).ok();
    }
    let mut open = Vec::new();
    for _ in 0..*pieces {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_le_bytes(*length)).ok()?;
        let (piece, after) = after.split_at_checked(length)?;
        let left = len_bytes.checked_sub(open.len())?;
        open.extend(lz4_flex::block::decompress(piece, left).ok()?);
        rest = after;
    }
    Some(open)
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

fn read_number(file: &mut impl Read) -> Option<u64> {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).ok()?;
    number(&bytes)
}

/// Reads at most as many bytes as the file has, whatever length it declares.
fn read_bytes(file: &mut impl Read, len_bytes: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.by_ref().take(len_bytes).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == len_bytes).then_some(bytes)
}

/// Parses a text layer byte by byte, because geometry may make it large.
fn of_text(file: impl Read) -> Layer {
    let mut text = Text { bytes: BufReader::new(file).bytes(), peeked: None };
    let mut layer = Layer::default();
    let mut word = Vec::new();
    let mut is_pattern = false;
    while let Some(byte) = text.next() {
        if byte.is_ascii_alphanumeric() {
            if word.len() <= PATTERN.len() {
                word.push(byte);
            }
            continue;
        }
        is_pattern |= word == PATTERN.as_bytes();
        word.clear();
        match byte {
            b'#' => while text.next().is_some_and(|byte| byte != b'\n') {},
            b'"' | b'\'' => {
                let is_pattern = std::mem::take(&mut is_pattern);
                let pattern = text.quoted(byte, if is_pattern { PATH_BYTES_MAX } else { 0 });
                let pattern = String::from_utf8(pattern).ok().as_deref().and_then(layer_path);
                layer.patterns.extend(pattern.filter(|_| layer.patterns.len() < PATHS_MAX));
            }
            b'@' => {
                let path = text.quoted(byte, PATH_BYTES_MAX);
                let path = String::from_utf8(path).ok().as_deref().and_then(layer_path);
                layer.paths.extend(path.filter(|_| layer.paths.len() < PATHS_MAX));
            }
            _ => {}
        }
    }
    layer
}

/// A text whose next byte can be peeked at. It ends at a read error.
struct Text<R> {
    bytes: io::Bytes<BufReader<R>>,
    peeked: Option<u8>,
}

impl<R: Read> Text<R> {
    fn next(&mut self) -> Option<u8> {
        self.peeked.take().or_else(|| self.bytes.next()?.ok())
    }

    /// Consumes the next byte if it is `wanted`, and returns whether it was.
    fn takes(&mut self, wanted: u8) -> bool {
        self.peeked = self.next();
        let is_it = self.peeked == Some(wanted);
        if is_it {
            self.peeked = None;
        }
        is_it
    }

    /// Returns the text up to the closing mark, after the opening mark was consumed. A triple mark closes with a
    /// triple mark. Keeps up to `keep_bytes` of it.
    fn quoted(&mut self, mark: u8, keep_bytes: usize) -> Vec<u8> {
        let marks = match self.takes(mark) {
            false => 1,
            true if self.takes(mark) => 3,
            // An empty text between two marks.
            true => return Vec::new(),
        };
        let mut kept = Vec::new();
        let mut seen = 0;
        while let Some(byte) = self.next() {
            if byte == mark {
                seen += 1;
                if seen == marks {
                    break;
                }
                continue;
            }
            for byte in std::iter::repeat_n(mark, seen).chain([byte]) {
                if kept.len() < keep_bytes {
                    kept.push(byte);
                }
            }
            seen = 0;
            // The escaped mark is part of the text.
            if byte == b'\\' && mark != b'@' {
                self.next();
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, io::Cursor};

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    /// A crate with `parts/geo.usda` and a texture, as Pixar's tools write it, with its tokens in one chunk.
    const SHOT: &[u8] = include_bytes!("fixtures/shot.usdc");

    fn paths(text: &str) -> Vec<String> {
        read(Cursor::new(text.as_bytes())).paths
    }

    #[test]
    fn a_text_layer_names_others_between_at_signs() {
        let text = "#usda 1.0\n( subLayers = [ @./parts/a.usda@, @@@b@2.usd@@@ ] )\n# @not.usda@\n\
            def \"it's @neither.usda@\" ( doc = \"\"\"nor \\\" @this.usda@ \"\" one\"\"\" payload = @../c.usdc@</Prim> )\n\
            asset t = @wood.png@ asset e = @@ asset p = @box.usdz[in/it.usda]@ x = @http://a/b.usd@";
        assert_eq!(paths(text), ["./parts/a.usda", "b@2.usd", "../c.usdc", "box.usdz"]);
    }

    #[test]
    fn a_crate_names_others_among_its_tokens() {
        let layer = read(Cursor::new(SHOT));
        assert_eq!(layer.paths, ["./parts/geo.usda"]);
        assert!(!layer.is_vague);
        let mut newer = SHOT.to_vec();
        newer[9] = CRATE_VERSION_MAX.1 + 1;
        assert!(read(Cursor::new(newer)).is_vague, "a form that is not known");
    }

    #[test]
    fn clips_are_named_by_a_pattern() {
        let text = "#usda 1.0\n string name = \"a.usd\" string templateAssetPath = \"in/c.###.usd\" doc = 'b.usd'";
        assert_eq!(read(Cursor::new(text)).patterns, ["in/c.###.usd"]);
        let tokens = b"templateAssetPath\0./in/c.#.usd\0";
        assert_eq!(of_tokens(tokens).patterns, ["./in/c.#.usd"]);
        assert_eq!(of_tokens(&tokens[18..]).guesses, ["./in/c.#.usd"], "a name without clips");
    }

    #[test]
    fn clips_are_looked_for_in_the_folder_of_their_pattern() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("clips")).unwrap();
        for name in ["c.08.usd", "c.10.usd", "c.14.usd", "c.x.usd", "d.12.usd", "c.1.2.usd"] {
            fs::write(at("clips").join(name), "#usda 1.0\n").unwrap();
        }
        let names = |pattern: &str| {
            let text = format!("#usda 1.0\n string templateAssetPath = \"{pattern}\"");
            fs::write(at("shot.usda"), text).unwrap();
            layers(&at("shot.usda"))
        };
        let found = names("./clips/c.##.usd");
        let expected = ["c.08.usd", "c.10.usd", "c.14.usd"].map(|name| at("clips").join(name));
        assert_eq!(found.there, expected);
        assert_eq!(found.missing, [at("clips/c.12.usd")]);
        assert_eq!(names("./clips/c.#.#.usd").there, [at("clips/c.1.2.usd")]);
        assert_eq!(names("./gone/c.#.usd").missing, [at("gone/c.#.usd")]);
        let absolute = names(&at("clips/d.#.usd").display().to_string()).absolute;
        assert_eq!(absolute, [at("clips/d.12.usd")]);
    }

    #[test]
    fn uneven_numbers_have_no_gaps() {
        let gaps = |numbers: &[u32]| gaps(&numbers.iter().copied().collect());
        assert_eq!(gaps(&[1, 2, 4]), [3]);
        assert_eq!(gaps(&[1, 3, 5, 9]), [7]);
        assert_eq!(gaps(&[1, 3, 6]), [0; 0]);
        assert_eq!(gaps(&[1, 3]), [0; 0]);
    }

    #[test]
    fn a_token_of_a_crate_that_is_no_sure_path_counts_only_if_it_is_there() {
        let layer = of_tokens(b"../a.usd\0/home/me/saved as.usd\0b.usd\0");
        assert_eq!(layer.paths, ["../a.usd"]);
        assert_eq!(layer.guesses, ["/home/me/saved as.usd", "b.usd"]);
    }

    #[test]
    fn layers_are_followed_across_folders_and_through_cycles() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("#usda 1.0\n{text}")).unwrap();
        };
        put("shot.usda", "@a/one.usda@ @/srv/away.usda@");
        put("a/one.usda", "@../b/two.usda@ @gone.usda@ @../shot.usda@");
        put("b/two.usda", "@./../a/one.usda@");
        let layers = layers(&folder.path().join("shot.usda"));
        let at = |name: &str| folder.path().join(name);
        assert_eq!(layers.there, [at("a/one.usda"), at("b/two.usda")]);
        assert_eq!(layers.missing, [at("a/gone.usda")]);
        assert_eq!(layers.absolute, [PathBuf::from("/srv/away.usda")]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(
            noise in vec(any::<u8>(), 0..500),
            flips in vec((any::<Index>(), any::<u8>()), 0..40),
            cut: Index,
        ) {
            read(Cursor::new(&noise));
            read(Cursor::new([CRATE, &*noise].concat()));
            let mut bytes = SHOT.to_vec();
            for (index, mask) in flips {
                let index = index.index(bytes.len());
                bytes[index] ^= mask;
            }
            read(Cursor::new(&bytes));
            read(Cursor::new(&bytes[..cut.index(bytes.len())]));
        }
    }
}
