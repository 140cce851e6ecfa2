//! Reads what a .blend says about itself, without Blender.
