//! What the fuzz targets start from, kept beside them in `seeds`. Every target runs on it as a test, so that it
//! stays honest; `FRAMECREW_WRITE_SEEDS=1` writes the files anew. What a fuzzer finds is added by hand.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

/// Runs the body of `target` on all its seeds.
pub(crate) fn check(target: &str, seeds: &[(&str, Vec<u8>)], body: impl Fn(&[u8])) {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let all = crates.map(|at| at.join("proto/fuzz")).find(|at| at.is_dir()).unwrap().join("seeds");
    let folder = all.join(target);
    if std::env::var_os("FRAMECREW_WRITE_SEEDS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, content) in seeds {
            fs::write(folder.join(name), content).unwrap();
        }
    }
    for (name, content) in seeds {
        let kept = fs::read(folder.join(name)).unwrap_or_default();
        assert!(kept == *content, "{target}/{name} is not as it would be written");
    }
    for file in fs::read_dir(&folder).unwrap() {
        body(&fs::read(file.unwrap().path()).unwrap());
    }
}
