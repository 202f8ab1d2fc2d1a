//! What the URL of a store says.

use super::{StoreError, StoreErrorKind};
use std::fmt;

/// Which kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// A directory.
    File,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Which kind.
    pub scheme: Scheme,
    /// The bucket or container; empty for a directory.
    pub bucket: String,
    /// What all keys begin with, without slashes at its ends; of a directory, its absolute path.
    pub prefix: String,
}

impl Address {
    /// Reads `s3://bucket/prefix` and the like. An error does not repeat the URL, in which a secret may be by mistake.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        let refused = |message: &str| StoreError::new(StoreErrorKind::Refused, message);
        const FORMS: &str = "the URL of an object store is s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or \
                             file:///DIRECTORY";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| refused(FORMS))?;
        let scheme = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            "file" => Scheme::File,
            _ => return Err(refused(FORMS)),
        };
        if rest.contains(['?', '#']) {
            return Err(refused(
                "the URL of an object store has no part after ? or #: endpoint, region and credentials come from the \
                 environment",
            ));
        }
        if rest.chars().any(|char| char.is_control() || char == '\\') {
            return Err(refused("the URL of an object store has no control characters and no \\"));
        }
        if scheme == Scheme::File {
            let directory = rest.trim_end_matches('/');
            if !rest.starts_with('/') || directory.is_empty() || directory.split('/').any(|part| part == "..")
            {
                return Err(refused("the URL of a directory is file:///DIRECTORY, an absolute path"));
            }
            return Ok(Self { scheme, bucket: String::new(), prefix: directory.to_owned() });
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return Err(refused(
                "the URL of an object store must not contain credentials: they come from the environment",
            ));
        }
        if bucket.is_empty()
            || !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        {
            return Err(refused("the name of a bucket has letters, digits, dots, hyphens and underscores"));
        }
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty() && !is_key(prefix) {
            return Err(refused(
                "the prefix of an object store has no empty parts, and none that begin with a dot",
            ));
        }
        Ok(Self { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    /// The full key of what has this one below the prefix.
    pub(super) fn full(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
            Scheme::File => return write!(f, "file://{}", self.prefix),
        };
        match self.prefix.as_str() {
            "" => write!(f, "{scheme}://{}", self.bucket),
            prefix => write!(f, "{scheme}://{}/{prefix}", self.bucket),
        }
    }
}

/// Whether a key is one that every store takes as it is, and a directory as well: parts between slashes, none empty, none
/// that begins with a dot, and of each 200 bytes at most.
pub(super) fn is_key(key: &str) -> bool {
    let part_is_fine = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.len() <= 200 && !part.contains(is_bad)
    };
    key.len() <= 800 && key.split('/').all(part_is_fine)
}

fn is_bad(char: char) -> bool {
    char.is_control() || char == '\\'
}

/// The key, if [`is_key`].
pub(super) fn checked(key: &str) -> Result<&str, StoreError> {
    if is_key(key) {
        return Ok(key);
    }
    Err(StoreError::new(StoreErrorKind::Refused, format!("{key:?} cannot be a key")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_said_again() {
        for (url, said) in [
            ("s3://disks", "s3://disks"),
            ("s3://disks/", "s3://disks"),
            ("s3://disks/a/b/", "s3://disks/a/b"),
            ("gs://my-bucket.example/x y", "gs://my-bucket.example/x y"),
            ("az://container/ä", "az://container/ä"),
            ("file:///var/lib/disks/", "file:///var/lib/disks"),
        ] {
            assert_eq!(Address::parse(url).unwrap().to_string(), said, "{url}");
        }
        let address = Address::parse("s3://disks/a/b").unwrap();
        assert_eq!(address.full("log/1"), "a/b/log/1");
        assert_eq!(Address::parse("s3://disks").unwrap().full("log/1"), "log/1");
    }

    #[test]
    fn other_urls_are_refused_in_one_line_without_their_text() {
        for url in [
            "disks",
            "http://planted/x",
            "s3:/planted",
            "s3://",
            "s3:///planted",
            "s3://key:planted@disks/x",
            "s3://disks/x?secret=planted",
            "s3://disks/x#planted",
            "s3://disks/a//planted",
            "s3://disks/../planted",
            "s3://disks/.planted",
            "s3://dis ks/planted",
            "s3://disks/pla\nnted",
            "file://planted",
            "file:///",
            "file:///a/../planted",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Refused, "{url}");
            assert!(!error.message.contains("planted") && error.message.len() > 20, "{error}");
        }
    }

    #[test]
    fn keys_are_paths_that_every_store_takes() {
        for key in ["a", "log/00000001/00000002", "snap/a name"] {
            assert!(is_key(key), "{key}");
        }
        for key in ["", "/a", "a/", "a//b", ".", "a/..", "a/.new", "a\nb", "a\\b", &"a".repeat(201)] {
            assert!(!is_key(key), "{key}");
            assert_eq!(checked(key).unwrap_err().kind, StoreErrorKind::Refused);
        }
    }
}
