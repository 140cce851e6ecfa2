//! Renders the slices of one batch, from the slot that it was given to its end.

mod attempt;
mod context;
mod encode;
mod run;

pub(crate) use self::run::run;
