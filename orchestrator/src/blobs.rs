//! Content-addressed bytes over an object store: a local directory.
