//! Pure: a job as people and programs read it. Nothing here knows a terminal, a clock or a file.

mod frame_lines;
mod json;
mod lines;
mod panel;
mod summary;
mod table;
mod warned;

pub use json::{escaped_json, json_line};
pub use lines::Lines;
pub use panel::Panel;
pub use summary::{failures, may_be_retried, retried, summary};
pub use table::Table;
pub use warned::Warned;
