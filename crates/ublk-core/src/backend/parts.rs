//! What composed disks have in common: the parts of a call, and properties of several disks together.

use super::{
    Alignment, Backend, Below, Completion, Discard, Extent, Io, PerCall, Properties, Segments, Step,
};
use crate::claim::{Place, Role, Which};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{CopyMode, Errno, Outcome};
use crate::request::count_of;
use std::sync::Arc;

/// Counts the parts of a call that wait for something, and keeps the first error.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    waiting: u32,
    error: Option<Errno>,
    length: u32,
}

impl Parts {
    /// Of a call for `length` bytes.
    pub fn new(length: u64) -> Self {
        Self { waiting: 0, error: None, length: count_of(length) }
    }

    /// One more part was started.
    pub fn started(&mut self, step: Step) {
        match step {
            Step::Pending => self.waiting += 1,
            Step::Done(outcome) => self.add(outcome),
        }
    }

    /// A part that waited went on.
    pub fn resumed(&mut self, step: Step) {
        if let Step::Done(outcome) = step {
            self.waiting -= 1;
            self.add(outcome);
        }
    }

    fn add(&mut self, outcome: Outcome) {
        self.error = self.error.or(outcome.err());
    }

    /// What becomes of the call.
    pub fn step(&self) -> Step {
        if self.waiting > 0 {
            return Step::Pending;
        }
        Step::Done(self.error.map_or(Ok(self.length), Err))
    }
}

/// How a call is served.
#[derive(Debug, Clone, Copy)]
pub enum State {
    /// By one of the disks.
    Passed(usize),
    /// In parts.
    Split(Parts),
}

impl Default for State {
    fn default() -> Self {
        Self::Passed(0)
    }
}

/// Goes on with a call after something that it waited for has completed.
pub fn resume(
    disks: &mut [Below],
    states: &mut PerCall<State>,
    io: &mut Io<'_>,
    completion: Completion,
) -> Step {
    match *states.of(io) {
        State::Passed(disk) => disks[disk].pass_on(io, completion),
        State::Split(mut parts) => {
            let disk = Below::of(io, &completion).and_then(|disk| disks.get_mut(disk));
            if let Some(part) = disk.and_then(|disk| disk.resume(io, completion)) {
                parts.resumed(part.step);
                *states.of(io) = State::Split(parts);
            }
            parts.step()
        }
    }
}

/// The properties of a disk of `size` bytes that is made of several.
pub fn together(disks: &[Arc<dyn Backend>], size: u64) -> Properties {
    let all: Vec<_> = disks.iter().map(|disk| disk.properties()).collect();
    let discards: Option<Vec<_>> = all.iter().map(|properties| properties.discard).collect();
    let least = |of: fn(&Discard) -> u64, all: &[Discard]| all.iter().map(of).min().unwrap_or(0);
    let discard = discards.filter(|all| !all.is_empty()).map(|all| Discard {
        granularity: all.iter().map(|discard| discard.granularity).max().unwrap_or(0),
        alignment: 0,
        max: least(|discard| discard.max, &all),
        max_write_zeroes: least(|discard| discard.max_write_zeroes, &all),
    });
    Properties {
        block_size: all.iter().map(|properties| properties.block_size).max().unwrap_or(512),
        write_cache: all.iter().any(|properties| properties.write_cache),
        discard,
        alignment: Alignment {
            start: all.iter().map(|properties| properties.alignment.start).max().unwrap_or(0),
            gap: all.iter().map(|properties| properties.alignment.gap).max().unwrap_or(0),
        },
        segments: all.iter().fold(Segments::default(), |limits, disk| limits.and(&disk.segments)),
        ..Properties::new(size)
    }
}

/// The largest chunk that is a whole part of `chunk`, and of `bytes`. 0, no chunk, of 0.
pub fn common_chunk(chunk: u32, bytes: u64) -> u32 {
    let (mut common, mut rest) = (u64::from(chunk), if chunk == 0 { 0 } else { bytes });
    while rest != 0 {
        (common, rest) = (rest, common % rest);
    }
    u32::try_from(common).unwrap_or(chunk) // it is not above `chunk`
}

/// How all of them can be given the data of requests.
pub fn copy_modes(disks: &[Arc<dyn Backend>]) -> Vec<CopyMode> {
    let mut modes = disks.first().map(|disk| disk.copy_modes()).unwrap_or_default();
    for disk in disks {
        let able = disk.copy_modes();
        modes.retain(|mode| able.contains(mode));
    }
    modes
}

/// The files of all of them.
pub fn places(disks: &[Arc<dyn Backend>]) -> Vec<Place<'_>> {
    disks.iter().flat_map(|disk| disk.places()).collect()
}

/// Closes all of them; the first failure is the one to tell.
pub fn close(disks: &[Arc<dyn Backend>]) -> Result<()> {
    disks.iter().map(|disk| disk.close()).fold(Ok(()), Result::and)
}

/// Checks that there are some, with blocks of one size.
pub fn check(kind: &str, disks: &[Arc<dyn Backend>]) -> Result<()> {
    let sizes: Vec<_> = disks.iter().map(|disk| disk.properties().block_size).collect();
    let Some(first) = sizes.first() else {
        return Err(Error::invalid(format!("a {kind} of no disks is not possible")).hint("name one or more"));
    };
    match sizes.iter().position(|size| size != first) {
        None => check_apart(kind, disks),
        Some(at) => Err(Error::invalid(format!(
            "the {kind}'s disks have blocks of different sizes: {first} bytes, and {} for number {}",
            sizes[at],
            at + 1
        ))
        .hint("make it of disks with blocks of one size, as all files without direct I/O have")),
    }
}

/// Whether several disks may have these bytes: those of a base, which is not written to.
fn is_shared(extent: &Extent<'_>) -> bool {
    extent.place.role == Role::Base && !extent.place.writable
}

/// Checks that no byte of a file belongs to two of the disks.
pub fn check_apart(kind: &str, disks: &[Arc<dyn Backend>]) -> Result<()> {
    let mut seen: Vec<(usize, Which, Extent<'_>)> = Vec::new();
    for (at, disk) in disks.iter().enumerate() {
        for extent in disk.extents(0..disk.properties().size) {
            let path = extent.place.path.display();
            let which = Which::of(extent.place.file).map_err(|error| {
                Error::system(format!("cannot open {path}"), &error).kind(ErrorKind::Backend)
            })?;
            let overlaps = |(_, other, earlier): &&(usize, Which, Extent<'_>)| {
                *other == which
                    && !(is_shared(earlier) && is_shared(&extent))
                    && earlier.range.start < extent.range.end
                    && extent.range.start < earlier.range.end
            };
            if let Some((other, ..)) = seen.iter().find(overlaps) {
                let (one, two) = (other + 1, at + 1);
                return Err(Error::invalid(format!(
                    "disks {one} and {two} of the {kind} have the same bytes of {path}"
                ))
                .hint("make it of different files, or of slices that do not overlap"));
            }
            seen.push((at, which, extent));
        }
    }
    Ok(())
}
