//! Where a disk is in its life, for layers that make requests wait on purpose: the kernel waits for requests when a disk
//! appears and when it is removed, and no signal ends these waits.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The kernel makes the disk, and reads it to look for partitions.
    Appearing,
    /// The disk is usable.
    Live,
    /// Another server takes the disk over: requests that wait are to be served now.
    Leaving,
    /// The disk is being removed: requests that wait are to end now.
    Ending,
}

/// Called with each stage that a disk enters. Whether it wants to be called again.
type Listener = Box<dyn Fn(Stage) -> bool + Send>;

struct Inner {
    now: Stage,
    listeners: Vec<Listener>,
}

/// The stages of a disk while it is served, and who is told of them.
#[derive(Clone)]
pub struct Stages(Arc<Mutex<Inner>>);

impl Stages {
    /// A disk at this stage.
    pub fn at(now: Stage) -> Self {
        Self(Arc::new(Mutex::new(Inner { now, listeners: Vec::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls a function with the present stage, and with each further one, as long as it returns true.
    pub fn listen(&self, listener: impl Fn(Stage) -> bool + Send + 'static) {
        let mut inner = self.lock();
        if listener(inner.now) {
            inner.listeners.push(Box::new(listener));
        }
    }

    /// The disk enters a stage.
    pub fn enter(&self, stage: Stage) {
        let mut inner = self.lock();
        inner.now = stage;
        inner.listeners.retain(|listener| listener(stage));
    }
}

impl Default for Stages {
    /// For an engine that no device has: a disk that is usable.
    fn default() -> Self {
        Self::at(Stage::Live)
    }
}

impl fmt::Debug for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stages").field(&self.lock().now).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_called_with_the_present_stage_and_each_further_one_until_it_has_enough() {
        let (stages, seen) = (Stages::at(Stage::Appearing), Arc::<Mutex<Vec<Stage>>>::default());
        let sees = seen.clone();
        stages.listen(move |stage| {
            sees.lock().unwrap().push(stage);
            stage != Stage::Leaving
        });
        stages.enter(Stage::Live);
        stages.enter(Stage::Leaving);
        stages.enter(Stage::Ending);
        assert_eq!(*seen.lock().unwrap(), [Stage::Appearing, Stage::Live, Stage::Leaving]);
    }
}
