//! A disk that QEMU's block layer opens, through a server of its own.

use super::bytes::Bytes;
use super::nbd::{TIMEOUT, options};
use super::plan::{Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use ublk_core::backend::{Backend, Nbd, Qemu};
use ublk_core::claim::Role;
use ublk_core::error::Result;
use ublk_core::queue::CopyMode;

/// See the [module](self).
pub const KIND: Kind = Kind {
    name: "qemu",
    below: Below::Anything,
    usual: Some(("qemu", &[CopyMode::Copy])),
    read: read::<Options>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Options {
    /// A block driver and its options.
    options: String,
    /// A file with a key or a password.
    key_file: Option<PathBuf>,
    /// Whether no page cache is used.
    #[serde(default)]
    direct: bool,
    /// Where relative paths begin.
    directory: PathBuf,
    /// Where the helper's socket is.
    run_dir: PathBuf,
    /// Tells the disk from others of the same.
    instance: String,
    /// Whether the images are claimed while they are served. Default: yes.
    exclusive: Option<bool>,
    /// As for `nbd`.
    timeout: Option<u32>,
    journal: Option<Bytes>,
}

impl Options {
    fn disk(&self) -> Qemu {
        Qemu {
            options: self.options.clone(),
            key_file: self.key_file.clone(),
            direct: self.direct,
            directory: self.directory.clone(),
            run_dir: self.run_dir.clone(),
            instance: self.instance.clone(),
            unclaimed: self.exclusive == Some(false),
        }
    }
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let options = options(how, self.timeout.unwrap_or(TIMEOUT), self.journal);
        let nbd = Nbd::qemu(&self.disk(), options)?;
        nbd.listed(&how.contents.nbd);
        Ok(Arc::new(nbd))
    }

    fn files(&self) -> Vec<(Role, String)> {
        let images = self.disk().images(false).into_iter();
        images.map(|image| (image.role, image.path.to_string_lossy().into_owned())).collect()
    }
}
