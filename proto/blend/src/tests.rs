#![allow(clippy::unwrap_used)]

use std::io::{self, Cursor, Seek, SeekFrom, Write as _};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    notes::SCENES_MAX,
    rewrite::rewrite_from,
    survey::{DNA_BYTES_MAX, survey_limited},
    *,
};

/// What three Blenders saved: two scenes, the second one open.
const FIXTURES: [(&[u8], BlenderVersion); 3] = [
    (include_bytes!("../tests/fixtures/saved-by-3.4.blend"), BlenderVersion::new(3, 4)),
    (include_bytes!("../tests/fixtures/saved-by-4.5.blend"), BlenderVersion::new(4, 5)),
    (include_bytes!("../tests/fixtures/saved-by-5.0.blend"), BlenderVersion::new(5, 0)),
];

/// What refers to files of every kind, as saved by three Blenders.
const REFERENCES: [&[u8]; 3] = [
    include_bytes!("../tests/fixtures/references-3.4.blend"),
    include_bytes!("../tests/fixtures/references-4.5.blend"),
    include_bytes!("../tests/fixtures/references-5.0.blend"),
];

#[test]
fn files_of_three_blenders_are_read() {
    for (bytes, version) in FIXTURES {
        let blend = read(bytes).unwrap();
        assert_eq!(blend.version, version);
        assert_eq!(blend.compression, Compression::Zstd);
        let kitchen = Scene {
            name: "Kitchen".into(),
            first: 5,
            last: 42,
            step: 3,
            width: 640,
            height: 360,
            percentage: 50,
            frame_rate: (24, 1),
            engine: "CYCLES".into(),
            format: "PNG".into(),
            format_is_movie: false,
            color_depth: 8,
            color_mode: "RGBA",
            output_path: "/tmp/".into(),
            has_camera: true,
            camera: Some("Camera".into()),
            cameras: vec!["Camera".into()],
            view_layers: vec![ViewLayer { name: "ViewLayer".into(), is_rendered: true }],
            views: Vec::new(),
            uses_denoising: true,
            has_sound: false,
            uses_sequencer: false,
            uses_compositor: false,
            needs: SceneNeeds {
                view_transform: if version.major < 4 { "Filmic" } else { "AgX" }.into(),
                look: "None".into(),
                display_device: "sRGB".into(),
                sequencer_space: "sRGB".into(),
                ..SceneNeeds::default()
            },
        };
        let second = Scene {
            name: "Ünïcode scene".into(),
            first: 100,
            last: 120,
            step: 1,
            width: 1920,
            height: 1080,
            percentage: 100,
            engine: "BLENDER_WORKBENCH".into(),
            format: "FFMPEG".into(),
            format_is_movie: true,
            color_mode: "RGB",
            output_path: "//".into(),
            has_camera: false,
            camera: None,
            cameras: Vec::new(),
            ..kitchen.clone()
        };
        assert_eq!(blend.active(), Some(&second));
        assert_eq!(blend.scenes, [kitchen, second]);
    }
}

#[test]
fn a_file_says_the_same_plain_and_compressed_either_way() {
    for (bytes, _) in FIXTURES {
        let zstd = read(bytes).unwrap();
        let plain = zstd::decode_all(bytes).unwrap();
        for (bytes, compression) in [(gzip(&plain), Compression::Gzip), (plain, Compression::None)]
        {
            let expected = BlendFile { compression, ..zstd.clone() };
            assert_eq!(read(&bytes).unwrap(), expected);
        }
    }
}

#[test]
fn both_byte_orders_and_address_widths_and_block_forms_are_read() {
    for form in Form::ALL {
        let blend = read(&small_blend(form)).unwrap();
        assert_eq!(blend.version, form.version(), "{form:?}");
        assert_eq!(blend.active_scene, 1, "{form:?}");
        let scenes = ["One", "Two"].map(|name| Scene {
            name: name.into(),
            first: -5,
            last: 70_000,
            step: 2,
            width: 640,
            height: 480,
            percentage: 50,
            frame_rate: (1, 1),
            engine: "CYCLES".into(),
            format: "FFMPEG".into(),
            format_is_movie: true,
            color_depth: 0,
            color_mode: "RGB",
            output_path: String::new(),
            has_camera: true,
            camera: None,
            cameras: Vec::new(),
            view_layers: Vec::new(),
            views: Vec::new(),
            uses_denoising: form.version().major >= 3,
            has_sound: false,
            uses_sequencer: false,
            uses_compositor: false,
            needs: SceneNeeds::default(),
        });
        assert_eq!(blend.scenes, scenes, "{form:?}");
    }
}

#[test]
fn zstd_frames_in_a_row_and_frames_to_skip_are_one_stream() {
    let plain = small_blend(Form::ALL[0]);
    let (a, b) = plain.split_at(400);
    let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    let parts = [&skipped[..], &zstd(a), &skipped, &zstd(b), &skipped];
    let blend = read(&parts.concat()).unwrap();
    assert_eq!(blend.scenes.len(), 2);
}

#[test]
fn the_version_is_read_from_a_prefix() {
    // Noise, so that compressing it does not bring its end into the prefix.
    let mut noise = vec![0; 4 * VERSION_PREFIX_BYTES];
    fill_with_noise(&mut noise);
    for form in Form::ALL {
        let mut plain = form.header();
        plain.extend(form.block(*b"TEST", 0, &noise));
        for bytes in [zstd(&plain), gzip(&plain), plain] {
            let prefix = &bytes[..VERSION_PREFIX_BYTES];
            assert_eq!(read_version(prefix).unwrap(), form.version());
            assert!(matches!(read(prefix), Err(BlendError::Truncated)));
        }
    }
}

#[test]
fn versions_are_ordered_and_shown_as_blender_shows_them() {
    let version = |header: &[u8]| read_version(header).unwrap();
    let versions = [
        version(b"BLENDER_V245"),
        version(b"BLENDER-v279"),
        version(b"BLENDER-v280"),
        version(b"BLENDER-v304"),
        version(b"BLENDER17-01v0502"),
    ];
    assert!(versions.is_sorted());
    let shown = versions.map(|version| version.to_string());
    assert_eq!(shown, ["2.45", "2.79", "2.80", "3.4", "5.2"]);
    let early = BlenderVersion::new(2, 4);
    assert_eq!(early.to_string(), "2.04");
}

#[test]
fn what_is_not_a_blend_is_called_by_its_name() {
    for (bytes, said) in [
        (&b""[..], "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
        (b"PK\x03\x04\x14\0\0\0\x08\0", "ZIP"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"Hello, this is a letter\n", "text"),
        (&[0; 100], "zeros"),
        (b"\xde\xad\xbe\xef\xfe\xed\xfa\xce\0\0\0\0", "something else"),
        (b"BLEND", "cut off"),
        (b"BLENDER-v3", "cut off"),
        (b"BLENDER-v304", "cut off"),
        (b"BLENDER-x304\0\0\0\0", "header makes no sense"),
        (b"BLENDER-v3x4\0\0\0\0", "version is not a number"),
        (b"BLENDER17-02v0602", "header `BLENDER17-02v0602`"),
        (b"BLENDER21-01v0602abcd", "newer"),
        (&gzip(b"a letter, compressed"), "text"),
        (&zstd(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "PNG"),
        (&[0x1f, 0x8b, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9], "compressed data is damaged"),
    ] {
        let text = read(bytes).unwrap_err().to_string();
        assert!(text.contains(said), "{bytes:?}: {text}");
    }
}

#[test]
fn a_damaged_stream_is_told_from_one_that_ends_early() {
    let plain = small_blend(Form::ALL[0]);
    for mut bytes in [gzip(&plain), zstd(&plain)] {
        let half = &bytes[..bytes.len() / 2];
        let error = read(half).unwrap_err();
        assert!(matches!(error, BlendError::Truncated), "{error}");
        let end = bytes.len() - 20;
        bytes[15..end].fill(0xff);
        let error = read(&bytes).unwrap_err();
        assert!(matches!(error, BlendError::DamagedCompression(_)), "{error}");
    }
}

#[test]
fn a_compressed_file_is_followed_up_to_the_limit_only() {
    let plain = small_blend(Form::ALL[0]);
    let limit = plain.len() as u64 - 1;
    for bytes in [gzip(&plain), zstd(&plain)] {
        let error = survey_limited(Cursor::new(&*bytes), 500).unwrap_err();
        assert!(matches!(error, BlendError::TooLarge { .. }), "{error}");
        survey_limited(Cursor::new(&*bytes), limit + 1).unwrap();
    }
    // A block that says it is longer than anything may be.
    let form = Form::ALL[4];
    let mut bomb = form.header();
    bomb.extend(b"DATA\0\0\0\0\0\0\0\0\0\0\0\0");
    bomb.extend(form.number(1 << 60, 8));
    bomb.extend([0; 8]);
    let error = read(&zstd(&bomb)).unwrap_err();
    assert!(matches!(error, BlendError::TooLarge { .. }), "{error}");
    let error = read(&bomb).unwrap_err();
    assert!(matches!(error, BlendError::Truncated), "{error}");
}

#[test]
fn what_grows_beyond_all_measure_is_refused_early() {
    // 3 GiB of zeros in one block, of which gzip makes 3 MiB and zstd 100 KiB; both are cut off behind the place where
    // they are given up.
    let form = Form::ALL[4];
    let mut head = form.header();
    head.extend(b"DATA\0\0\0\0\0\0\0\0\0\0\0\0");
    head.extend(form.number(3 << 30, 8));
    head.extend([0; 8]);
    let zeros = vec![0; 16 << 20];
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(&head).unwrap();
    for _ in 0..(1 << 30) / zeros.len() + 2 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 200 << 10, "{}", bomb.len());
    let error = read(&bomb).unwrap_err();
    assert!(matches!(error, BlendError::Bomb { .. }), "{error}");
}

#[test]
fn a_file_of_mostly_zeros_is_no_bomb() {
    let form = Form::ALL[0];
    let plain = small_blend(form);
    let (head, rest) = plain.split_at(form.header().len());
    let zeros = form.block(*b"DATA", 0x40, &vec![0; 64 << 20]);
    let plain = [head, &zeros, rest].concat();
    let compressed = zstd(&plain);
    assert!(compressed.len() < plain.len() / 5_000, "{}", compressed.len());
    assert_eq!(read(&compressed).unwrap().scenes.len(), 2);
}

#[test]
fn drivers_stand_still_without_scripts_as_blender_lets_them() {
    // As seen in Blender 3.4 and 4.5, scripts not allowed.
    let moves = "frame|frame*2|var|var**2|var % 3|var // 2|sin(var)|var if var > 1 else 0|not var|1 < var < 3|\
        var == 1 and var != 2 or 0|min(var,1,2)|max(1)|abs(var)|fabs(var)|pow(var,2)|pow(var,2,3)|lerp(0,1,var)|\
        clamp(var)|clamp(var,0,2)|smoothstep(0,1,var)|round(var)|round(var,2)|int(var)|float(var)|bool(var)|\
        len([var])|sum([var,1])|[var,2][0]|(var,2)[1]|var & 1|var << 1|~1|pi|e|tau|True|1e3|1.5e-3|.5|5.|0x10|1_000|\
        'a' == 'a'|log(var)|log(var,2)|hypot(var,1)|degrees(var)|atan2(var,1)|trunc(var)|sinh(0)|gcd(1,2)|\
        any([1])|all((1,2))|{1:2}[1]|1 if var in (1,2) else 0|var is None|noise|abs(-var)+1|- -var|2*-var||\
        1 < 2 == 2|cbrt(var)|min([1,2])|inf|dist((0,0),(1,1))|-1**2|not not var|not (var > 2) and 1|\
        1if var else 2|1.0*frame/24.0|max(abs(var), lerp(0, 1, var)) + clamp(var)";
    let stands = "math.sin(var)|bpy.context.scene.frame_current|noise.random()|self.location[0]|str(var)|\
        sum(x for x in (1,2))|(lambda x: x)(1)|depsgraph.scene.name|sorted([1])[0]|range(3)[1]|var.real|\
        undefined_name|C.scene|random()|sign(var)|ease(var)|__import__('os')|open('x')|perlin(1)|f'{var}'|(x:=1)|\
        [i for i in (1,2)][0]|var if True else bpy.data|slice(1)|max(var,key=abs)|print(var)";
    let needs = |expression: &str| driver::needs_scripts(expression.trim_start(), &["var".into()]);
    for expression in moves.split('|') {
        assert!(!needs(expression), "{expression}");
    }
    for expression in stands.split('|') {
        assert!(needs(expression), "{expression}");
    }
    // Blender's own evaluator has these, Python does not.
    assert!(needs("abs(var)**2"));
    assert!(needs("clamp(var,0)"));
}

#[test]
fn contradictions_are_damage() {
    let form = Form::ALL[0];
    let end = form.block(*b"ENDB", 0, b"");
    let with = |code: &[u8; 4], body: &[u8]| {
        [form.header(), form.block(*code, 1, body), end.clone()].concat()
    };
    let negative = [&form.header()[..], b"DATA\xff\xff\xff\xff", &[0; 40]].concat();
    for (bytes, said) in [
        (with(b"DATA", b""), "no DNA"),
        (with(b"DNA1", b"SDNANAME\xff\xff\xff\x7f"), "DNA makes no sense"),
        (with(b"DNA1", &vec![0; DNA_BYTES_MAX as usize + 1]), "DNA is too large"),
        (negative, "length makes no sense"),
        ([form.header(), vec![0; 100]].concat(), "code makes no sense"),
        (
            [
                form.header(),
                form.block(*b"SC\0\0", 1, b"short"),
                form.block(*b"DNA1", 1, &form.dna()),
                end.clone(),
            ]
            .concat(),
            "a scene of it makes no sense",
        ),
    ] {
        let text = read(&bytes).unwrap_err().to_string();
        assert!(text.contains(said), "{said}: {text}");
    }
    let scene = form.block(*b"SC\0\0", 1, &form.scene("One"));
    let dna = form.block(*b"DNA1", 1, &form.dna());
    let many = [form.header(), scene.repeat(SCENES_MAX + 1), dna, end].concat();
    let error = read(&many).unwrap_err();
    assert!(matches!(error, BlendError::TooMany { .. }), "{error}");
}

#[test]
fn a_disk_that_fails_is_not_called_a_damaged_file() {
    struct Failing<'a>(Cursor<&'a [u8]>);
    impl Seek for Failing<'_> {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
    impl io::Read for Failing<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::from_raw_os_error(5)),
                n => Ok(n),
            }
        }
    }
    let plain = small_blend(Form::ALL[0]);
    for bytes in [gzip(&plain), zstd(&plain), plain] {
        let half = Cursor::new(&bytes[..bytes.len() / 2]);
        let error = super::read(Failing(half)).unwrap_err();
        let is_plain = bytes.starts_with(b"BLENDER");
        // What is passed over in a plain file is not read.
        let is_fine = matches!(error, BlendError::Unreadable(_));
        assert!(is_fine || (is_plain && matches!(error, BlendError::Truncated)), "{error}");
    }
}

/// A driver with a variable that is followed by itself, in structs that no Blender has.
fn driven_blend(expression: &str, variable: i64) -> Vec<u8> {
    let form = Form::ALL[4];
    let types = [
        ("char", 1),
        ("int", 4),
        ("ID", 66),
        ("FCurve", 8),
        ("ListBase", 8),
        ("ChannelDriver", 12 + 60_000),
        ("DriverVar", 8),
    ];
    let structs: [(&str, &[(&str, &str)]); 5] = [
        ("ID", &[("char", "name[66]")]),
        ("FCurve", &[("ChannelDriver", "*driver")]),
        ("ListBase", &[("DriverVar", "*first")]),
        (
            "ChannelDriver",
            &[("int", "type"), ("ListBase", "variables"), ("char", "expression[60000]")],
        ),
        ("DriverVar", &[("DriverVar", "*next")]),
    ];
    let mut driver =
        [&form.number(1, 4)[..], &form.number(variable, 8), expression.as_bytes()].concat();
    driver.resize(12 + 60_000, 0);
    [
        form.header(),
        form.block(*b"WO\0\0", 0x10, &[0; 66]),
        form.block_of(1, *b"DATA", 0x20, &form.number(0x30, 8)),
        form.block_of(3, *b"DATA", 0x30, &driver),
        form.block_of(4, *b"DATA", 0x40, &form.number(0x40, 8)),
        form.block(*b"DNA1", 0x50, &form.dna_of(&types, &structs)),
        form.block(*b"ENDB", 0, b""),
    ]
    .concat()
}

#[test]
fn an_expression_longer_than_any_is_not_taken_apart() {
    let blend = driven_blend(&"(".repeat(60_000), 0);
    let survey = survey_limited(Cursor::new(blend), u64::MAX).unwrap();
    assert_eq!(survey.hazards.len(), 1);
}

#[test]
fn variables_without_names_that_follow_each_other_round_and_round_come_to_an_end() {
    let blend = driven_blend("frame", 0x40);
    let survey = survey_limited(Cursor::new(blend), u64::MAX).unwrap();
    assert_eq!(survey.hazards, []);
}

#[test]
fn parts_are_counted_as_often_as_something_refers_to_them() {
    let form = Form::ALL[4];
    let types = [("char", 1), ("ID", 66), ("NodesModifierData", 8), ("NodesModifierBake", 1)];
    let structs: [(&str, &[(&str, &str)]); 3] = [
        ("ID", &[("char", "name[66]")]),
        ("NodesModifierData", &[("NodesModifierBake", "*bakes")]),
        ("NodesModifierBake", &[("char", "flag")]),
    ];
    let blend = [
        form.header(),
        form.block(*b"OB\0\0", 0x10, &[0; 66]),
        form.block_of(1, *b"DATA", 0x20, &form.number(0x8000, 8).repeat(2)),
        form.block_of(2, *b"DATA", 0x8000, &vec![0; 500_001]),
        form.block(*b"DNA1", 0x50, &form.dna_of(&types, &structs)),
        form.block(*b"ENDB", 0, b""),
    ];
    let error = survey_limited(Cursor::new(blend.concat()), u64::MAX).unwrap_err();
    assert!(matches!(error, BlendError::TooMany { .. }), "{error}");
}

proptest! {
    #[test]
    fn a_file_cut_anywhere_is_refused_or_loses_nothing(
        fixture in 0..FIXTURES.len(),
        compressed: bool,
        cut: Index,
    ) {
        let bytes = fixture_bytes(fixture, compressed);
        let cut = &bytes[..cut.index(bytes.len())];
        // What follows the end mark may be missing.
        if let Ok(blend) = read(cut) {
            prop_assert_eq!(blend, read(&bytes).unwrap());
        }
    }

    #[test]
    fn flipped_bytes_of_what_refers_to_files_never_panic(
        fixture in 0..REFERENCES.len(),
        flips in vec((any::<Index>(), any::<u8>()), 1..200),
        cut: Index,
    ) {
        let mut bytes = zstd::decode_all(REFERENCES[fixture]).unwrap();
        flip(&mut bytes, flips);
        survey_and_rewrite(&bytes);
        survey_and_rewrite(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn expressions_of_any_kind_are_judged(
        characters in vec(any::<char>(), 0..60),
        pieces in vec(proptest::sample::select(PIECES), 0..60),
    ) {
        driver::needs_scripts(&characters.iter().collect::<String>(), &[]);
        driver::needs_scripts(&pieces.concat(), &["a".into()]);
    }

    #[test]
    fn flipped_bytes_never_panic(
        fixture in 0..FIXTURES.len(),
        compressed: bool,
        flips in vec((any::<Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = fixture_bytes(fixture, compressed);
        flip(&mut bytes, flips);
        let _ = read(&bytes);
        let _ = read_version(&*bytes);
    }

    #[test]
    fn flipped_bytes_never_panic_where_every_byte_counts(
        form in 0..Form::ALL.len(),
        flips in vec((any::<Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = small_blend(Form::ALL[form]);
        flip(&mut bytes, flips);
        let _ = read(&bytes);
    }

    #[test]
    fn noise_never_panics(form in 0..Form::ALL.len(), noise in vec(any::<u8>(), 0..2_000)) {
        let form = Form::ALL[form];
        let _ = read(&noise);
        let _ = read(&[form.header(), noise.clone()].concat());
        let dna = form.block(*b"DNA1", 0, &[b"SDNANAME", &*noise].concat());
        let end = form.block(*b"ENDB", 0, b"");
        let _ = read(&[form.header(), dna, end].concat());
    }
}

/// Of expressions.
const PIECES: &[&str] = &[
    "a", "not", " ", "if", "else", "sin", "(", ")", ",", "1", ".5", "1e", "0x", "\"", "'", "\\",
    "f'", "**", "<", "-",
];

fn read(bytes: &[u8]) -> Result<BlendFile, BlendError> {
    super::read(Cursor::new(bytes))
}

/// Puts other texts where the paths are, and finds those.
fn survey_and_rewrite(bytes: &[u8]) {
    let Ok(survey) = survey_limited(Cursor::new(bytes), u64::MAX) else { return };
    let texts: Vec<_> = survey
        .references
        .iter()
        .filter(|reference| reference.field.capacity() > 4)
        .map(|reference| (reference.field, "//x".to_owned()))
        .collect();
    // Fields may lie in each other in a damaged file.
    let _ = rewrite_from(bytes, &mut Vec::new(), &texts);
}

fn fixture_bytes(fixture: usize, compressed: bool) -> Vec<u8> {
    let bytes = FIXTURES[fixture].0;
    if compressed { bytes.to_vec() } else { zstd::decode_all(bytes).unwrap() }
}

fn flip(bytes: &mut [u8], flips: Vec<(Index, u8)>) {
    for (index, mask) in flips {
        let index = index.index(bytes.len());
        bytes[index] ^= mask;
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn fill_with_noise(bytes: &mut [u8]) {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
}

/// How a small .blend is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    big_endian: bool,
    address_bytes: usize,
    wide_blocks: bool,
}

impl Form {
    pub(crate) const ALL: [Self; 5] = [
        Self::old(false, 4),
        Self::old(false, 8),
        Self::old(true, 4),
        Self::old(true, 8),
        Self { big_endian: false, address_bytes: 8, wide_blocks: true },
    ];

    const fn old(big_endian: bool, address_bytes: usize) -> Self {
        Self { big_endian, address_bytes, wide_blocks: false }
    }

    fn version(self) -> BlenderVersion {
        match self.wide_blocks {
            true => BlenderVersion::new(5, 2),
            false => BlenderVersion::new(2, 49),
        }
    }

    fn header(self) -> Vec<u8> {
        match (self.wide_blocks, self.address_bytes, self.big_endian) {
            (true, ..) => b"BLENDER17-01v0502",
            (false, 4, false) => &b"BLENDER_v249"[..],
            (false, 4, true) => b"BLENDER_V249",
            (false, _, false) => b"BLENDER-v249",
            (false, _, true) => b"BLENDER-V249",
        }
        .to_vec()
    }

    fn number(self, number: i64, len_bytes: usize) -> Vec<u8> {
        match self.big_endian {
            true => number.to_be_bytes()[8 - len_bytes..].to_vec(),
            false => number.to_le_bytes()[..len_bytes].to_vec(),
        }
    }

    fn block(self, code: [u8; 4], address: i64, body: &[u8]) -> Vec<u8> {
        self.block_of(0, code, address, body)
    }

    /// A block that holds structs of this number.
    fn block_of(self, structure: i64, mut code: [u8; 4], address: i64, body: &[u8]) -> Vec<u8> {
        if self.big_endian && code[2..] == [0, 0] {
            code.rotate_left(2);
        }
        let address = self.number(address, self.address_bytes);
        let len_bytes = body.len() as i64;
        let head = match self.wide_blocks {
            true => {
                [self.number(structure, 4), address, self.number(len_bytes, 8), self.number(1, 8)]
            }
            false => {
                [self.number(len_bytes, 4), address, self.number(structure, 4), self.number(1, 4)]
            }
        };
        [&code, &*head.concat(), body].concat()
    }

    fn dna(self) -> Vec<u8> {
        let address = self.address_bytes;
        let (id, image, render) = (address + 66, 1, 51);
        let types = [
            ("char", 1),
            ("short", 2),
            ("int", 4),
            ("ID", id),
            ("ImageFormatData", image),
            ("RenderData", render),
            ("Scene", id + address + render),
            ("FileGlobal", 4 + address),
            ("Object", 0),
        ];
        let structs: [(&str, &[(&str, &str)]); 5] = [
            ("ID", &[("ID", "*next"), ("char", "name[66]")]),
            ("ImageFormatData", &[("char", "imtype")]),
            (
                "RenderData",
                &[
                    ("int", "sfra"),
                    ("int", "efra"),
                    ("int", "frame_step"),
                    ("short", "xsch"),
                    ("short", "ysch"),
                    ("short", "size"),
                    ("char", "engine[4][8]"),
                    ("ImageFormatData", "im_format"),
                ],
            ),
            ("Scene", &[("ID", "id"), ("Object", "*camera"), ("RenderData", "r")]),
            ("FileGlobal", &[("char", "subvstr[4]"), ("Scene", "*curscene")]),
        ];
        self.dna_of(&types, &structs)
    }

    /// The DNA of these types, with their sizes, and structs, with the types and names of their members.
    fn dna_of(self, types: &[(&str, usize)], structs: &[(&str, &[(&str, &str)])]) -> Vec<u8> {
        let names: Vec<_> =
            (structs.iter().flat_map(|(_, members)| *members)).map(|(_, name)| *name).collect();
        let type_of = |wanted: &str| types.iter().position(|(name, _)| *name == wanted).unwrap();
        let mut dna = Dna { form: self, bytes: b"SDNANAME".to_vec() };
        dna.strings(&names);
        dna.mark(b"TYPE");
        dna.strings(&types.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        dna.mark(b"TLEN");
        for (_, len_bytes) in types {
            dna.number(*len_bytes, 2);
        }
        dna.mark(b"STRC");
        dna.number(structs.len(), 4);
        for (name, members) in structs {
            dna.number(type_of(name), 2);
            dna.number(members.len(), 2);
            for (kind, name) in *members {
                dna.number(type_of(kind), 2);
                dna.number(names.iter().position(|other| other == name).unwrap(), 2);
            }
        }
        dna.bytes
    }

    fn scene(self, name: &str) -> Vec<u8> {
        let mut bytes = self.number(0, self.address_bytes);
        bytes.extend(format!("SC{name}").bytes().chain(std::iter::repeat(0)).take(66));
        bytes.extend(self.number(7, self.address_bytes));
        for (number, len_bytes) in [(-5, 4), (70_000, 4), (2, 4), (640, 2), (480, 2), (50, 2)] {
            bytes.extend(self.number(number, len_bytes));
        }
        bytes.extend(b"CYCLES".iter().chain(&[0; 26]));
        bytes.push(24);
        bytes
    }
}

struct Dna {
    form: Form,
    bytes: Vec<u8>,
}

impl Dna {
    fn mark(&mut self, mark: &[u8; 4]) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.bytes.extend(mark);
    }

    fn number(&mut self, number: usize, len_bytes: usize) {
        self.bytes.extend(self.form.number(number as i64, len_bytes));
    }

    fn strings(&mut self, strings: &[&str]) {
        self.number(strings.len(), 4);
        for string in strings {
            self.bytes.extend(string.bytes().chain([0]));
        }
    }
}

/// Two scenes, of which the second is open, and what Blender puts around them.
pub(crate) fn small_blend(form: Form) -> Vec<u8> {
    let global = [&[0; 4][..], &form.number(0x2000, form.address_bytes)].concat();
    [
        form.header(),
        form.block(*b"GLOB", 0x10, &global),
        form.block(*b"SC\0\0", 0x1000, &form.scene("One")),
        form.block(*b"DATA", 0x20, b"whatever"),
        form.block(*b"SC\0\0", 0x2000, &form.scene("Two")),
        form.block(*b"DNA1", 0x30, &form.dna()),
        form.block(*b"ENDB", 0, b""),
    ]
    .concat()
}
