//! Whether a disk is in use: the one check for removing, shrinking and reporting a disk.

use super::claim::{Claim, claim};
use super::sysfs;
use super::users::seen as seen_users;
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use std::fs::File;
use std::time::{Duration, Instant};

/// How long a short open of a disk, such as for the partition scan of the kernel or udev, may last.
pub(super) const GLANCE: Duration = Duration::from_millis(500);

/// Describes users that only the kernel knows.
const UNSEEN: &str = "the kernel says that it is in use; no visible mount or process explains it: perhaps \
                      lazily unmounted, or mounted in another namespace";

/// Whether a disk is in use.
pub(super) enum Usage {
    /// It is free, and while the claim is kept it cannot be mounted. Without a claim there is no disk, or the kernel
    /// was not asked.
    Free(Option<Claimed>),
    /// In use by these, one phrase each.
    Used(Vec<String>),
    /// No user is visible, but this number of requests is in flight.
    Waits(u64),
    /// No user is visible, and the kernel could not be asked, for this reason.
    Unknown(String),
}

/// A disk that cannot be mounted, swapped to or used by another device while this is kept.
pub struct Claimed(#[expect(dead_code, reason = "kept open")] File);

/// Looks for users of device `id`'s disk. If it finds none, and `ask` is set, asks the kernel.
pub(super) fn usage(id: u32, ask: bool) -> Usage {
    let seen = seen_users(id);
    if !seen.is_empty() {
        return Usage::Used(seen);
    }
    // open() waits for a lock that the kernel holds while it reads the partition table, and no signal ends that wait:
    // it is called after the requests were answered.
    match sysfs::activity(id) {
        Some(activity) if activity.waiting > 0 => return Usage::Waits(activity.waiting),
        _ if !ask => return Usage::Free(None),
        _ => {}
    }
    match claim(id) {
        Claim::Free(file) => Usage::Free(Some(Claimed(file))),
        Claim::NoDisk => Usage::Free(None),
        Claim::Unknown(error) => Usage::Unknown(format!("/dev/ublkb{id} cannot be opened to ask ({error})")),
        Claim::Taken => {
            let seen = seen_users(id); // a user may have appeared just now
            Usage::Used(if seen.is_empty() { vec![UNSEEN.to_owned()] } else { seen })
        }
    }
}

/// The users of device `id`'s disk, one phrase each, including those that only the kernel knows. Empty when it is free.
pub fn users(id: u32) -> Vec<String> {
    let until = Instant::now() + GLANCE;
    loop {
        match usage(id, true) {
            Usage::Used(users) => return users,
            Usage::Free(_) | Usage::Unknown(_) => return Vec::new(),
            Usage::Waits(requests) if Instant::now() >= until => return vec![waits(requests)],
            Usage::Waits(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Claims device `id`'s disk before it shrinks.
///
/// # Errors
/// Of kind [`ErrorKind::Busy`] if it is in use, or that is unknown.
pub fn claim_to_shrink(id: u32, cancel: &Cancel) -> Result<Option<Claimed>> {
    claim_unused(id, cancel, "shrinking it would cut them off", "unmount or close it, or shrink it anyway")
}

/// The same for a reset.
pub fn claim_to_reset(id: u32, cancel: &Cancel) -> Result<Option<Claimed>> {
    let harm = "a reset would change the disk under them";
    claim_unused(id, cancel, harm, "unmount or close it, or reset it anyway")
}

fn claim_unused(id: u32, cancel: &Cancel, harm: &str, instead: &'static str) -> Result<Option<Claimed>> {
    let until = Instant::now() + GLANCE;
    loop {
        let usage = usage(id, true);
        if let Usage::Free(claimed) = usage {
            return Ok(claimed);
        }
        if Instant::now() >= until || cancel.is_cancelled() {
            let by = by(&usage);
            let message = format!("/dev/ublkb{id} is in use ({by}): {harm}");
            let hint = Hint::from(instead).by(Remedy::Force);
            return Err(Error::new(ErrorKind::Busy, message).hint(hint).device(id));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Describes the users.
pub(super) fn in_use(id: u32, usage: &Usage) -> Error {
    Error::new(ErrorKind::Busy, format!("/dev/ublkb{id} is in use: {}", by(usage))).device(id)
}

fn by(usage: &Usage) -> String {
    match usage {
        Usage::Used(users) => users.join(", "),
        Usage::Waits(requests) => waits(*requests),
        Usage::Unknown(why) => why.clone(),
        // The driver reports that; it also counts openers that /proc does not show, such as mappings.
        Usage::Free(_) => UNSEEN.to_owned(),
    }
}

fn waits(requests: u64) -> String {
    format!("requests are in flight ({requests}), such as those of the kernel's partition scan")
}
