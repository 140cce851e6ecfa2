//! Opens a store by its URL.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Archive, Identity, Ledger, StoreError,
    memory::MemoryStore,
    sqlite::{SqliteStore, database_in, is_lost},
};

/// Where a store is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A file.
    Sqlite(PathBuf),
    /// This process, and no longer than it.
    Memory,
}

impl Location {
    /// The store of a data folder.
    pub(crate) fn in_folder(data: &Path) -> Self {
        Self::Sqlite(database_in(data))
    }

    /// Parses `sqlite:///PATH`, a plain path, or `memory:`. Paths are taken as they are, without escapes.
    pub(crate) fn parse(url: &str) -> Result<Self, StoreError> {
        match url.split_once(':') {
            Some(("sqlite", path)) => {
                Ok(Self::Sqlite(path.strip_prefix("//").unwrap_or(path).into()))
            }
            Some(("memory", "")) => Ok(Self::Memory),
            // A single letter is a drive of Windows.
            Some((scheme, _)) if scheme.len() > 1 && is_scheme(scheme) => {
                Err(StoreError::UnknownUrl(url.to_owned()))
            }
            _ => Ok(Self::Sqlite(url.into())),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// How a store is opened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Bytes that new jobs leave free; the store's own number unless given.
    pub(crate) reserve_bytes: Option<u64>,
    /// Whether the data folder holds blobs: then a store that does not exist was lost.
    pub(crate) has_blobs: bool,
}

/// A store, in a new epoch.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) archive: Arc<dyn Archive>,
    pub(crate) identity: Identity,
}

/// Opens a store, or creates it.
///
/// # Errors
/// [`StoreError::Lost`] when its database is gone and the blobs are not.
pub(crate) async fn open(location: &Location, options: Options) -> Result<Opened, StoreError> {
    let path = match location {
        Location::Sqlite(path) => path,
        Location::Memory => {
            let store = Arc::new(MemoryStore::new());
            let identity = store.identity();
            return Ok(Opened { ledger: store.clone(), archive: store, identity });
        }
    };
    if is_lost(path, options.has_blobs) {
        return Err(StoreError::Lost);
    }
    let (store, identity) = SqliteStore::open(path).await?;
    let store = match options.reserve_bytes {
        Some(bytes) => store.with_reserve(bytes),
        None => store,
    };
    Ok(Opened { ledger: Arc::new(store.for_driver()), archive: Arc::new(store), identity })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_store_is_named_by_a_url_or_a_plain_path() {
        for (url, path) in [
            ("sqlite:///data/framecrew.db", "/data/framecrew.db"),
            ("sqlite:framecrew.db", "framecrew.db"),
            ("/data/a:b.db", "/data/a:b.db"),
            ("C:\\data\\framecrew.db", "C:\\data\\framecrew.db"),
        ] {
            assert_eq!(Location::parse(url).unwrap(), Location::Sqlite(path.into()), "{url}");
        }
        assert_eq!(Location::parse("memory:").unwrap(), Location::Memory);
        let error = Location::parse("postgres://host/db").unwrap_err().to_string();
        assert!(error.contains("postgres://host/db") && error.contains("sqlite:///"), "{error}");
    }
}
