//! What the fuzz target does.

use std::io::Cursor;

use crate::{rewrite::rewrite_from, survey::survey_limited};

/// Bytes that a file may have when it is decompressed: enough for every seed, and little to wait for.
const UNCOMPRESSED_BYTES_MAX: u64 = 8 << 20;

/// A .blend, and a copy of it with another path in each field.
pub fn blend_survey(data: &[u8]) {
    let Ok(survey) = survey_limited(Cursor::new(data), UNCOMPRESSED_BYTES_MAX) else { return };
    assert!(survey.file.scenes.is_empty() || survey.file.active().is_some());
    let fits = survey.references.iter().filter(|reference| reference.field.capacity() > 4);
    let texts: Vec<_> = fits.map(|reference| (reference.field, "//x".to_owned())).collect();
    let mut copy = Vec::new();
    // Fields may lie in each other in a damaged file.
    if rewrite_from(data, &mut copy, &texts).is_ok() {
        // It may refer to less now, where a path lay in something else; but it is whole.
        survey_limited(Cursor::new(&copy), 2 * UNCOMPRESSED_BYTES_MAX).expect("a broken copy");
    }
}

#[cfg(test)]
#[path = "../../fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Form, small_blend};

    #[test]
    fn the_seeds_of_blend_survey_hold() {
        let names: Vec<String> = (0..Form::ALL.len()).map(|form| format!("small-{form}")).collect();
        let small = names.iter().zip(Form::ALL).map(|(name, form)| (&**name, small_blend(form)));
        let mut seeds: Vec<_> = small.collect();
        let plain = seeds[0].1.clone();
        seeds.push(("zstd", zstd::encode_all(&*plain, 3).unwrap_or_default()));
        super::seeds::check("blend_survey", &seeds, blend_survey);
        // The fixtures are seeds as well.
        blend_survey(include_bytes!("../tests/fixtures/references-3.4.blend"));
    }
}
