//! The identity of a disk's file or block device, so that another one with the same name is recognized.

use super::Place;
use super::upper::disk_of;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The role of a file for its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Holds the disk's data.
    Disk,
    /// Holds data of a base, which the disk reads until it has written something else there.
    Base,
    /// Holds what was written over a base. A snapshot puts another file in its place, so its mark is what it says of itself.
    Upper,
    /// Says which chunks are present.
    Map,
    /// The same for a base.
    BaseMap,
}

impl Role {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Base => "base",
            Self::Upper => "upper",
            Self::Map => "map",
            Self::BaseMap => "base-map",
        }
    }

    /// The role with that name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Disk, Self::Base, Self::Upper, Self::Map, Self::BaseMap]
            .into_iter()
            .find(|role| role.name() == name)
    }

    /// The role of a file of an overlay's base, with that role for the base.
    #[must_use]
    pub fn below_overlay(self) -> Self {
        match self {
            Self::Disk | Self::Base | Self::Upper => Self::Base,
            Self::Map | Self::BaseMap => Self::BaseMap,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Disk => "the disk's file",
            Self::Base => "the disk's base",
            Self::Upper => "the disk's upper",
            Self::Map => "the map of the disk's file",
            Self::BaseMap => "the map of the disk's base",
        }
    }
}

/// The identity of a file or block device, unique within this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileId {
    /// Its role for the disk.
    pub role: Role,
    /// Its path when it was opened; it may have been renamed or replaced since.
    pub path: String,
    /// Identifies it: a regular file by device, inode and birth time, since inode numbers are reused; a block device by
    /// its number and disk sequence number.
    pub mark: String,
}

impl FileId {
    /// Identifies an open file.
    pub fn of(place: &Place<'_>) -> Result<Self> {
        let mark = if place.role == Role::Upper {
            disk_of(place.file)
        } else {
            mark(Some(place.file), Path::new(""))
        };
        let mark = mark.map_err(|error| failed(place.path, &error))?;
        Ok(Self { role: place.role, path: absolute(place.path), mark })
    }

    /// Identifies the file at a path.
    pub fn at(role: Role, path: &Path) -> Result<Self> {
        let mark = if role == Role::Upper {
            File::open(path).and_then(|file| disk_of(&file))
        } else {
            mark(None, path)
        };
        let mark = mark.map_err(|error| failed(path, &error))?;
        Ok(Self { role, path: absolute(path), mark })
    }
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::system(format!("cannot open {}", path.display()), error).kind(ErrorKind::Backend)
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}

/// The identity of an open file, or of the file at a path.
fn mark(file: Option<&File>, path: &Path) -> io::Result<String> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let (dir, flags) = match file {
        Some(file) => (file.as_raw_fd(), libc::AT_EMPTY_PATH),
        None => (libc::AT_FDCWD, 0),
    };
    // SAFETY: all-zero is a valid statx, and the call fills it in.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let wanted = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: a descriptor or AT_FDCWD, a path that ends with zero, and a buffer of the right type.
    if unsafe { libc::statx(dir, path.as_ptr(), flags, wanted, &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFBLK {
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        return Ok(format!("block device {major}:{minor}{}", sequence(major, minor)));
    }
    let born = if stat.stx_mask & libc::STATX_BTIME == 0 {
        String::new()
    } else {
        format!(", made at {}.{:09}", stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)
    };
    Ok(format!("inode {} of {}:{}{born}", stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor))
}

/// The kernel's disk sequence number (5.15): a loop device gets a new one with each file.
fn sequence(major: u32, minor: u32) -> String {
    let dir = format!("/sys/dev/block/{major}:{minor}");
    let found =
        ["diskseq", "../diskseq"].iter().find_map(|name| fs::read_to_string(format!("{dir}/{name}")).ok());
    found.map(|text| format!(", disk sequence {}", text.trim())).unwrap_or_default()
}

/// Checks that a backend has the files that its disk was created from, in the same order. A backend without files, such
/// as one written in JavaScript, is not checked.
pub fn check_same(found: &[FileId], recorded_files: &[FileId]) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    // An overlay that was flattened meanwhile needs its base no more.
    let count = |files: &[FileId], role| files.iter().filter(|file| file.role == role).count();
    let flattened = count(found, Role::Upper) > 0
        && count(found, Role::Base) == 0
        && count(recorded_files, Role::Base) > 0;
    for (at, recorded) in recorded_files.iter().enumerate() {
        let role = recorded.role;
        if flattened && matches!(role, Role::Base | Role::BaseMap) {
            continue;
        }
        let words = recorded.role.words();
        let has_role = |file: &&FileId| file.role == recorded.role;
        let earlier = recorded_files[..at].iter().filter(has_role).count();
        let Some(found) = found.iter().filter(has_role).nth(earlier) else {
            return Err(replaced(format!("{words} {} is missing in the backend", recorded.path)));
        };
        if found.mark != recorded.mark {
            return Err(replaced(format!(
                "{words} was replaced: {} is {}; the disk was made from {}{}",
                found.path,
                found.mark,
                recorded.mark,
                if found.path == recorded.path { String::new() } else { format!(", {}", recorded.path) },
            )));
        }
    }
    Ok(())
}

fn replaced(message: String) -> Error {
    Error::new(ErrorKind::Backend, message)
        .hint(Hint::from("put that file back, or accept this one").by(Remedy::OtherFile))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(role: Role, path: &str, mark: &str) -> FileId {
        FileId { role, path: path.into(), mark: mark.into() }
    }

    #[test]
    fn another_file_of_the_same_name_is_told_and_the_same_one_moved_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&path, "one").unwrap();
        let before = FileId::at(Role::Disk, &path).unwrap();
        let file = File::open(&path).unwrap();
        fs::rename(&path, &moved).unwrap();
        fs::write(&path, "two").unwrap();
        let place = Place { role: Role::Disk, path: &moved, file: &file, writable: true, claimed: true };
        check_same(&[FileId::of(&place).unwrap()], std::slice::from_ref(&before)).unwrap();
        let error = check_same(&[FileId::at(Role::Disk, &path).unwrap()], &[before]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Backend);
        assert!(error.message.starts_with("the disk's file was replaced: "), "{error}");
    }

    #[test]
    fn an_inode_that_is_used_again_is_another_file() {
        let (one, two) = ("inode 12 of 8:1, made at 5.000000000", "inode 12 of 8:1, made at 6.000000000");
        assert!(check_same(&[id(Role::Disk, "/a", one)], &[id(Role::Disk, "/a", two)]).is_err());
    }

    #[test]
    fn what_a_backend_lacks_is_told_unless_it_has_no_files_at_all() {
        let recorded = [id(Role::Disk, "/a", "1"), id(Role::Map, "/a.map", "2")];
        check_same(&recorded, &recorded).unwrap();
        check_same(&[], &recorded).unwrap();
        check_same(&recorded, &recorded[..1]).unwrap();
        let error = check_same(&recorded[..1], &recorded).unwrap_err();
        assert_eq!(error.message, "the map of the disk's file /a.map is missing in the backend");
    }

    #[test]
    fn the_files_of_a_base_that_is_not_needed_any_more_may_be_missing() {
        let upper = id(Role::Upper, "/a.cow", "2");
        let recorded = [id(Role::Base, "/a", "1"), id(Role::BaseMap, "/a.map", "3"), upper.clone()];
        check_same(std::slice::from_ref(&upper), &recorded).unwrap();
        // The disk's own map is still needed, and compared.
        let tracked = [&recorded[..], &[id(Role::Map, "/a.track", "5")]].concat();
        check_same(&[upper.clone(), id(Role::Map, "/a.track", "5")], &tracked).unwrap();
        let error = check_same(std::slice::from_ref(&upper), &tracked).unwrap_err();
        assert_eq!(error.message, "the map of the disk's file /a.track is missing in the backend");
        let error = check_same(&[upper.clone(), id(Role::Map, "/a.track", "6")], &tracked).unwrap_err();
        assert!(error.message.starts_with("the map of the disk's file was replaced"), "{error}");
        // A base without files has none that could be missing.
        let error = check_same(std::slice::from_ref(&upper), &[upper.clone(), id(Role::Map, "/a", "1")]);
        assert!(error.is_err());
        let error = check_same(&[id(Role::Upper, "/b.cow", "4")], &recorded).unwrap_err();
        assert!(error.message.starts_with("the disk's upper was replaced"), "{error}");
        let error = check_same(&[id(Role::Base, "/b", "4"), upper], &recorded).unwrap_err();
        assert!(error.message.starts_with("the disk's base was replaced"), "{error}");
    }

    #[test]
    fn each_of_several_files_is_compared_in_its_place() {
        let (one, two) = (id(Role::Disk, "/a", "1"), id(Role::Disk, "/b", "2"));
        let recorded = [one.clone(), two.clone()];
        check_same(&recorded, &recorded).unwrap();
        let other = id(Role::Disk, "/b", "3");
        let error = check_same(&[one.clone(), other], &recorded).unwrap_err();
        assert_eq!(error.message, "the disk's file was replaced: /b is 3; the disk was made from 2");
        let error = check_same(&[two, one.clone()], &recorded).unwrap_err();
        assert_eq!(error.message, "the disk's file was replaced: /b is 2; the disk was made from 1, /a");
        let error = check_same(&[one], &recorded).unwrap_err();
        assert_eq!(error.message, "the disk's file /b is missing in the backend");
    }
}
