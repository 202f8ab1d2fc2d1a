//! What the threads of a queue have in common if each of them may get any tag. The first thread does what must be done once,
//! and the others wait for it.

use super::Buffers;
use crate::error::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// See the [module](self).
#[derive(Clone, Default)]
pub struct ThreadCommon(Arc<Mutex<Once>>);

#[derive(Default)]
struct Once {
    buffers: Option<Buffers>,
    offered: bool,
}

impl ThreadCommon {
    /// Their buffers.
    pub fn buffers(&self, make: impl FnOnce() -> Result<Buffers>) -> Result<Buffers> {
        let mut once = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &once.buffers {
            Some(buffers) => Ok(buffers.clone()),
            None => Ok(once.buffers.insert(make()?).clone()),
        }
    }

    /// Has the tags offered to the driver.
    pub fn offer(&self, offer: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut once = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !once.offered {
            offer()?;
            once.offered = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::pages::Pages;
    use crate::queue::TagShare;

    #[test]
    fn common_buffers_are_made_once_and_stay_as_long_as_somebody_uses_them() {
        let common = ThreadCommon::default();
        let make = || Buffers::new(TagShare::WHOLE, 2, 4096, Pages::default());
        assert!(common.buffers(|| Err(Error::invalid("not now"))).is_err());
        let mut first = common.buffers(make).unwrap();
        let mut second = common.buffers(|| panic!("made already")).unwrap();
        // SAFETY: one clone uses it at a time.
        unsafe { first.slice(1, 4096) }.fill(1);
        drop(first);
        // SAFETY: as above.
        assert!(unsafe { second.slice(1, 4096) }.iter().all(|byte| *byte == 1));
        let pool = second.pool();
        drop((second, common));
        // SAFETY: within the pool, which nobody else has any more.
        assert!((0..pool.length()).all(|at| unsafe { pool.at(at).read() } == 0));
    }

    #[test]
    fn tags_are_offered_once_and_again_only_after_a_failure() {
        let common = ThreadCommon::default();
        assert!(common.offer(|| Err(Error::invalid("not now"))).is_err());
        let mut offers = 0;
        for _ in 0..2 {
            common
                .offer(|| {
                    offers += 1;
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(offers, 1);
    }
}
