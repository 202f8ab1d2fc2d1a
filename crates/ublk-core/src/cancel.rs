//! Cancelling a wait from another thread.

use crate::waker::Waker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
struct Inner {
    cancelled: AtomicBool,
    listeners: Mutex<Vec<Waker>>,
}

/// A token that ends the waits it was given to. Clones share one fate.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Inner>);

impl Cancel {
    /// Ends every wait that holds this token, now and later.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        for waker in self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            waker.wake();
        }
    }

    /// Whether it was used.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Wakes `waker` when it is used.
    pub(crate) fn listen(&self, waker: &Waker) {
        let mut listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if !listeners.iter().any(|known| known.fd() == waker.fd()) {
            listeners.push(waker.clone());
        }
    }
}
