//! Prints what .blend files say about themselves and need: `cargo run --example survey -- FILE…`.

fn main() {
    for path in std::env::args_os().skip(1) {
        println!("{}:", path.display());
        match framecrew_blend::survey(path.as_ref()) {
            Ok(survey) => {
                println!("{:#?}", survey.file);
                for reference in &survey.references {
                    let framecrew_blend::Reference { kind, owner, path, files, .. } = reference;
                    println!("{kind}\t{owner}\t{path}\t{files:?}");
                }
                for hazard in &survey.hazards {
                    println!("{hazard}");
                }
            }
            Err(error) => println!("{error}"),
        }
    }
}
