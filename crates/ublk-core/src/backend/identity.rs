//! What tells the content of a disk from another, in words that a person can compare.

use super::Backend;
use super::map_file::checksum;
use crate::claim::{Place, Role};
use crate::error::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt;

/// The size of a disk, and of each of its files the size and the last change. Neither paths nor inodes count: a copy
/// that was made with its time has the same content.
pub fn of_files<B: Backend + ?Sized>(disk: &B) -> Result<String> {
    let size = disk.properties().size;
    let files =
        disk.places().into_iter().filter(|place| place.role != Role::Map).map(|place| of_file(&place));
    let files: Vec<_> = files.collect::<Result<_>>()?;
    Ok(match &files[..] {
        [] => format!("{size} bytes"),
        [file] if disk.places().iter().all(|place| is_file(place)) => file.clone(),
        files => format!("{size} bytes in {}", files.join(" and ")),
    })
}

fn is_file(place: &Place<'_>) -> bool {
    place.file.metadata().is_ok_and(|found| found.is_file())
}

fn of_file(place: &Place<'_>) -> Result<String> {
    let found = place.file.metadata().map_err(|error| {
        Error::system(format!("cannot stat {}", place.path.display()), &error).kind(ErrorKind::Backend)
    })?;
    if !found.is_file() {
        return Ok("a block device".into()); // nobody knows when it was changed
    }
    let (seconds, rest) = (found.mtime(), found.mtime_nsec());
    Ok(format!("a file of {} bytes, changed at {seconds}.{rest:09}", found.len()))
}

/// The most bytes of an identity that a file keeps.
pub const MOST: usize = 1024;

/// An identity as a file keeps it: where it is longer, as of a disk that consists of many, its beginning and a checksum.
pub fn kept(whole: String) -> String {
    if whole.len() <= MOST {
        return whole;
    }
    let sum = checksum(whole.bytes());
    let rest = format!(" … ({} bytes, checksum {sum:016x})", whole.len());
    let end = (0..=MOST - rest.len()).rev().find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{rest}", &whole[..end])
}

/// Of a disk that consists of others.
pub fn together(what: &str, disks: &[std::sync::Arc<dyn Backend>]) -> Result<String> {
    let each: Vec<_> = disks.iter().map(|disk| disk.identity()).collect::<Result<_>>()?;
    Ok(format!("{what} of ({})", each.join("), (")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_identity_is_kept_as_its_beginning_and_a_checksum() {
        let short = "x".repeat(MOST);
        assert_eq!(kept(short.clone()), short);
        // Characters of two bytes, at both parities.
        for first in ["", "x"] {
            let long = format!("{first}{}", "ü".repeat(MOST));
            let other = format!("{first}{}u", "ü".repeat(MOST));
            assert!(kept(long.clone()).len() <= MOST);
            assert!(kept(long.clone()).chars().zip(long.chars()).take(450).all(|(one, other)| one == other));
            assert_ne!(kept(long), kept(other));
        }
    }
}
