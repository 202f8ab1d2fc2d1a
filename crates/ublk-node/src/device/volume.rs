//! Disks that an object store has.

use super::Device;
use crate::volume::StoredVolume;
use napi_derive::napi;

#[napi]
impl Device {
    /// How it stands with the disk's volume in an object store; `null` if it has none.
    #[napi]
    pub fn volume(&self) -> Option<StoredVolume> {
        self.contents.volume.get().and_then(|tell| tell())
    }
}
