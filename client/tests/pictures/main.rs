//! Checks that Framecrew draws what plain Blender of the same version draws, or says why it does not.
//!
//! `scenes/` creates small projects, one for each row of the table, with each Blender on this machine. A node
//! behind its walls draws every row with `--strict`, and plain Blender draws it as its command line does. The
//! decoded pictures must be equal file by file, and the client must print no warning. Then each file that the row
//! names is taken away, and the job must fail and name that file. Under `strace` the test also checks that all
//! files that plain Blender opens were sent, and that the walls refuse none of the opens.
//!
//! For manual runs, `FRAMECREW_PICTURES=a_font,tiles` only draws these rows, and `FRAMECREW_PICTURES_IN=DIR` keeps
//! their files in `DIR`.

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
async fn pictures_equal_those_of_plain_blender_3_4() {
    table::check("3.4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_equal_those_of_plain_blender_4_5() {
    table::check("4.5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_equal_those_of_plain_blender_5_0() {
    table::check("5.0").await;
}
