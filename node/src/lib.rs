//! Renders frames on one machine.
