//! The `BlobStore` service.
