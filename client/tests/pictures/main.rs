//! True pictures: what Framecrew draws is what plain Blender of the same version draws, or words say why not.
//!
//! `scenes/` makes small projects, a row each, with each Blender that is here. Every row is drawn by a node behind
//! its walls, with `--strict`, and by plain Blender as its command line does; the decoded pictures must be equal, file
//! by file, and the client must print no warning. Then each file that the row names is taken away, and the job must
//! fail by that file's name. Under `strace` it is also seen which files plain Blender opens, all of which must
//! have been sent, and which opens the walls refuse, of which there may be none.
//!
//! By hand: `FRAMECREW_PICTURES=a_font,tiles` draws these rows alone, and `FRAMECREW_PICTURES_IN=DIR` keeps
//! what they make in `DIR`.

#![cfg(all(unix, feature = "local"))]
#![allow(clippy::unwrap_used)]

mod blender;
mod compare;
mod crew;
mod opened;
mod row;
mod table;

#[path = "../support/mod.rs"]
mod support;

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_blender_3_4_are_those_that_it_draws_by_itself() {
    table::check("3.4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_blender_4_5_are_those_that_it_draws_by_itself() {
    table::check("4.5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_of_blender_5_0_are_those_that_it_draws_by_itself() {
    table::check("5.0").await;
}
