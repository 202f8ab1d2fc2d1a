//! What was changed on an overlay since one of its snapshots: what the layers above that have. Its snapshots are its
//! checkpoints. No record is kept for it, and none is lost.

use super::Overlay;
use super::index::Layer;
use super::layers::{FIRST, Kept};
use crate::backend::reader::Reader;
use crate::backend::{Changed, Changes, Checkpoint, Sink};
use crate::error::{Error, ErrorKind, Result};
use crate::report::Reporter;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// What changes are counted in, in bytes.
const BLOCK: u64 = 4096;
/// How much a diff reads at a time, in bytes.
const PART: u32 = 256 << 10;
/// How many ranges a diff asks for at a time.
const AT_ONCE: usize = 1 << 15;

impl Overlay {
    /// The snapshots, the oldest first: the number of the layer that each has sealed, and its file.
    fn snapshots(&self) -> impl Iterator<Item = (Layer, &Path)> {
        (self.layers.lowest()..self.layers.top())
            .filter_map(|number| Some((number, self.layers.of(number).kept.as_ref()?.upper.path())))
    }

    /// The name of a snapshot: what its file's name has more than that of the upper, or all of it.
    fn name_of(&self, snapshot: &Path) -> String {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let upper = self.layers.written().kept.as_ref().map(|kept| name(kept.upper.path()));
        let found = name(snapshot);
        let more = upper.and_then(|upper| found.strip_prefix(&upper)?.strip_prefix('.').map(str::to_owned));
        more.unwrap_or(found)
    }

    /// The layer that a snapshot has sealed.
    fn snapshot_named(&self, name: &str) -> Result<Layer> {
        let names: Vec<_> = self.snapshots().map(|(number, path)| (number, self.name_of(path))).collect();
        names.iter().rev().find(|(_, its)| its == name).map(|(number, _)| *number).ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(_, name)| &**name).collect();
            let hint = if names.is_empty() {
                "make one first".into()
            } else {
                format!("there are {}", names.join(", "))
            };
            Error::new(ErrorKind::NotFound, format!("there is no snapshot {name}")).hint(hint)
        })
    }

    /// What the layers above that have, from an offset on: at most `most` ranges.
    fn changed_above(&self, layer: Layer, from: u64, most: usize) -> Changed {
        let size = self.size();
        let before = self.layers.of(layer).kept.as_ref().map_or(0, |kept| kept.upper.size());
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = from / BLOCK * BLOCK;
        while at < size {
            // What was added to the disk counts as changed.
            let (found, run) = if at < before {
                let (found, run) = self.index.find(at, size.min(before) - at);
                (found > layer, run)
            } else {
                (true, size - at)
            };
            if found {
                let range = at / BLOCK * BLOCK..(at + run).next_multiple_of(BLOCK).min(size);
                let count = ranges.len();
                match ranges.last_mut() {
                    Some(last) if last.end >= range.start => last.end = range.end,
                    _ if count == most => {
                        return Changed { size, known: true, ranges, next: Some(range.start) };
                    }
                    _ => ranges.push(range),
                }
            }
            at += run;
        }
        Changed { size, known: true, ranges, next: None }
    }

    /// Whether what was changed can be told: the layers are in files.
    pub(super) fn tells_changes(&self) -> bool {
        self.layers.written().kept.is_some()
    }
}

fn not_here(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the overlay does not {what}"))
        .hint("its snapshots are its checkpoints: make one, or create the disk with a change map")
}

impl Changes for Overlay {
    fn checkpoint(&self, _name: &str) -> Result<()> {
        Err(not_here("keep checkpoints"))
    }

    fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        let made = |path: &Path| {
            let changed = path.metadata().and_then(|found| found.modified()).ok()?;
            u64::try_from(changed.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
        };
        let checkpoint = |(_, path): (_, &Path)| Checkpoint {
            name: self.name_of(path),
            made: made(path).unwrap_or(0),
            known: true,
        };
        Ok(self.snapshots().map(checkpoint).collect())
    }

    fn remove_checkpoint(&self, _name: &str) -> Result<()> {
        Err(not_here("remove snapshots"))
    }

    fn changed(&self, since: &str, from: u64, most: usize) -> Result<Changed> {
        Ok(self.changed_above(self.snapshot_named(since)?, from, most))
    }

    /// From the snapshot, or from nothing, to the last snapshot: that does not change, so no request waits.
    fn diff(
        &self,
        since: Option<&str>,
        sink: &mut (dyn Sink + Send),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let since = since.map(|since| self.snapshot_named(since)).transpose()?;
        let (last, path) = self.snapshots().last().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the overlay has no snapshot, and no change map")
                .hint("make a snapshot: a diff without a change map is of the last one")
        })?;
        if since == Some(last) {
            let what = format!("the snapshot {} is the last one", self.name_of(path));
            return Err(Error::invalid(what)
                .hint("make another one: a diff without a change map ends with the last snapshot"));
        }
        self.finish_seal()?;
        let _below = self.keep_below()?;
        let snapshot = Arc::new(Self::in_file(self.base.clone(), path, None, true)?);
        // A flattened layer has none below it any more: then everything counts as changed.
        let before = since.and_then(|layer| self.layers.of(layer).kept.as_ref());
        let same = |kept: &Kept| before.is_some_and(|before| kept.upper.is_at(before.upper.path()));
        let found = snapshot.layers.all().position(|layer| layer.kept.as_ref().is_some_and(same));
        let layer = found.and_then(|at| (FIRST..).nth(at)).unwrap_or(0);
        snapshot.copy_changed(layer, sink, cancelled)
    }
}

impl Overlay {
    /// Passes what the layers above that have to `sink`, or everything if it is 0. Nobody writes to the disk.
    fn copy_changed(
        self: Arc<Self>,
        since: Layer,
        sink: &mut (dyn Sink + Send),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let failed =
            |error: std::io::Error| Error::system("cannot write the diff", &error).kind(ErrorKind::Backend);
        let size = self.size();
        sink.begin(size).map_err(failed)?;
        let unit = sink.unit();
        let mut reader = Reader::new(self.clone(), 1, PART, Reporter::new(|_| {}))?;
        let (mut at, mut from) = (0, Some(0));
        while let Some(next) = from {
            let part = if since == 0 { all(size) } else { self.changed_above(since, next, AT_ONCE) };
            for range in part.ranges {
                at = (range.start / unit * unit).max(at);
                let end = range.end.next_multiple_of(unit).min(size);
                while at < end {
                    if cancelled() {
                        return Err(was_cancelled());
                    }
                    let one = at..end.min(at + u64::from(PART));
                    let mut data = Vec::new();
                    let mut take = |_, more: &[u8]| data.extend_from_slice(more);
                    reader.read_unless(cancelled, std::slice::from_ref(&one), &mut take).map_err(
                        |errno| {
                            if errno == libc::ECANCELED {
                                return was_cancelled();
                            }
                            let error = std::io::Error::from_raw_os_error(errno);
                            Error::system(format!("cannot read the snapshot near byte {at}"), &error)
                                .kind(ErrorKind::Backend)
                        },
                    )?;
                    sink.put(at, &data).map_err(failed)?;
                    at = one.end;
                }
            }
            from = part.next;
        }
        Ok(())
    }
}

fn was_cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the diff was cancelled")
}

fn all(size: u64) -> Changed {
    Changed { size, known: true, ranges: std::iter::once(0..size).collect(), next: None }
}
