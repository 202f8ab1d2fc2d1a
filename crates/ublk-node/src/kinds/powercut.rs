//! A disk whose power can be cut: it keeps every version of what was written.

use super::bytes::Bytes;
use super::plan::{Base, Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use ublk_core::backend::{Backend, File, Found, LogMemory, Memory, Readable, RecordedLog, Recorder, Storage};
use ublk_core::claim::Role;
use ublk_core::error::{Error, ErrorKind, Result};

/// See the [module](self).
pub const KIND: Kind = Kind { name: "powercut", below: Below::Nothing, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// What was there before; by default zeroes.
    over: Option<Base>,
    /// Without that: how large it is; by default as large as `replay` needs.
    size: Option<Bytes>,
    /// What is never torn, in bytes.
    unit: u32,
    /// The file with the data of the log, which is created; by default it is in memory.
    log: Option<String>,
    /// The most bytes that are recorded.
    #[serde(rename = "logMax")]
    log_max: Bytes,
    /// The log with which its record begins, in the format of dm-log-writes.
    replay: Option<String>,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        if how.existing {
            return Err(Error::new(ErrorKind::Unsupported, "a powercut disk cannot be taken over")
                .hint("what was written to it was lost with its server"));
        }
        let recorded = self.replay.as_ref().map(|path| RecordedLog::open(Path::new(path))).transpose()?;
        let base = match (&self.over, self.size, &recorded) {
            (Some(over), None, _) => over.0.open(&how.reading())?,
            (None, Some(size), _) => Arc::new(Memory::new(size.0)?),
            (None, None, Some(recorded)) => Arc::new(Memory::new(recorded.disk_size()?)?),
            _ => return Err(Error::invalid("a powercut disk needs a size or another disk, and not both")),
        };
        let mut file = None;
        let data: Arc<dyn Readable> = match &self.log {
            None => Arc::new(LogMemory::new(self.log_max.0)?),
            Some(path) => {
                let (new, found) = File::open_or_create(Path::new(path), self.log_max.0, false)?;
                if found == Found::Used {
                    return Err(Error::new(ErrorKind::Exists, format!("{path} exists already"))
                        .hint("name a file for the log that does not exist yet"));
                }
                file.insert(Arc::new(new)).clone()
            }
        };
        let recorder = Recorder::new(base, data, self.unit)?;
        // A disk in memory begins as zeroes.
        let recorder = Arc::new(if self.over.is_none() { recorder.over_zeroes() } else { recorder });
        if let Some(recorded) = &recorded {
            recorder.replay(recorded)?;
        }
        // Until here, the file goes again if anything fails.
        if let Some(file) = file {
            file.begin()?;
        }
        how.contents
            .recorder
            .set(Arc::downgrade(&recorder))
            .map_err(|_| Error::invalid("more than one disk of a stack records").hint("one can"))?;
        Ok(recorder)
    }

    fn files(&self) -> Vec<(Role, String)> {
        let base = self.over.as_ref().map(|over| over.0.files()).unwrap_or_default();
        let base = base.into_iter().map(|(role, path)| (role.below_overlay(), path));
        base.chain(self.log.iter().map(|path| (Role::Disk, path.clone()))).collect()
    }
}
