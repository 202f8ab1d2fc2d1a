//! The order of a save: the data is durable before the map that names it is written.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Only tests change it.
static MAP_FIRST: AtomicBool = AtomicBool::new(false);

/// Whether a save syncs the data before it writes the map: always, but where a test has planted the fault that it does not.
pub fn is_data_first() -> bool {
    !cfg!(feature = "testing") || !MAP_FIRST.load(SeqCst)
}

/// Until it is dropped, all overlays and lazy disks of this process write their map before the data that it names is durable: a
/// fault, planted for what has to find it.
#[cfg(feature = "testing")]
pub struct MapFirst(());

#[cfg(feature = "testing")]
impl MapFirst {
    /// Plants it. One at a time.
    #[must_use]
    pub fn plant() -> Self {
        assert!(!MAP_FIRST.swap(true, SeqCst), "it is planted already");
        Self(())
    }
}

#[cfg(feature = "testing")]
impl Drop for MapFirst {
    fn drop(&mut self) {
        MAP_FIRST.store(false, SeqCst);
    }
}
