//! Cancelling a wait from another thread.

use crate::waker::{Waker, WeakWaker};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
struct Inner {
    cancelled: AtomicBool,
    /// Those that wait, and some that do not any more.
    listeners: Mutex<Vec<WeakWaker>>,
}

/// A token that ends the waits it was given to. Clones share one fate.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Inner>);

impl Cancel {
    /// Ends every wait that holds this token, now and later.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        let listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().filter_map(WeakWaker::upgrade).for_each(|waker| waker.wake());
    }

    /// Whether it was used.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Wakes `waker` when it is used, as long as others keep it: a token may be given to any number of waits.
    pub(crate) fn listen(&self, waker: &Waker) {
        let mut listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = false;
        listeners.retain(|listener| {
            let listener = listener.upgrade();
            known |= listener.as_ref().is_some_and(|listener| listener.fd() == waker.fd());
            listener.is_some()
        });
        if !known {
            listeners.push(waker.downgrade());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "needs eventfds")]
    fn a_token_keeps_nothing_of_waits_that_are_over() {
        let cancel = Cancel::default();
        let waiting = Waker::new().unwrap();
        cancel.listen(&waiting);
        for _ in 0..100 {
            cancel.listen(&Waker::new().unwrap());
            cancel.listen(&waiting);
        }
        let listeners = cancel.0.listeners.lock().unwrap();
        assert_eq!(listeners.iter().filter_map(WeakWaker::upgrade).count(), 1);
        assert!(listeners.len() <= 2);
    }
}
