//! What was changed on an overlay since one of its snapshots: what the layers above that have. Its snapshots are its
//! checkpoints. No record is kept for it, and none is lost.

use super::Overlay;
use super::index::Layer;
use crate::backend::{Changed, Changes, Checkpoint, Sink};
use crate::error::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// What changes are counted in, in bytes.
const BLOCK: u64 = 4096;

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
        let layer = self.snapshot_named(since)?;
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
                        return Ok(Changed { size, known: true, ranges, next: Some(range.start) });
                    }
                    _ => ranges.push(range),
                }
            }
            at += run;
        }
        Ok(Changed { size, known: true, ranges, next: None })
    }

    fn diff(&self, _since: Option<&str>, _sink: &mut (dyn Sink + Send), _: &dyn Fn() -> bool) -> Result<()> {
        Err(not_here("write diffs"))
    }
}
