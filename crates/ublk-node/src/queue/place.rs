//! Where a JavaScript object keeps its queue, and from where its thread takes it back when it ends: V8 lets go of the
//! object only later, and until then the device would wait for the queue.

use super::gone;
use std::cell::{Ref, RefCell, RefMut};
use std::rc::{Rc, Weak};
use ublk_core::device::Seated;

// Boxed: it moves with every call.
type Slot = RefCell<Option<Box<Seated>>>;

thread_local! {
    /// All queues that this thread serves.
    static PLACES: RefCell<Vec<Weak<Slot>>> = const { RefCell::new(Vec::new()) };
}

/// See the [module](self).
pub struct Place(Rc<Slot>);

impl Place {
    pub fn new(seated: Seated) -> Self {
        let slot = Rc::new(RefCell::new(Some(Box::new(seated))));
        PLACES.with_borrow_mut(|places| {
            places.retain(|place| place.strong_count() > 0);
            places.push(Rc::downgrade(&slot));
        });
        Self(slot)
    }

    pub fn take(&self) -> Option<Box<Seated>> {
        self.0.borrow_mut().take()
    }

    pub fn put_back(&self, seated: Box<Seated>) {
        *self.0.borrow_mut() = Some(seated);
    }

    pub fn borrow(&self) -> Ref<'_, Option<Box<Seated>>> {
        self.0.borrow()
    }

    pub fn borrow_mut(&self) -> RefMut<'_, Option<Box<Seated>>> {
        self.0.borrow_mut()
    }
}

/// Gives up every queue of this thread, which is about to end or to wait for its devices' end.
pub fn leave_all() {
    for place in PLACES.take() {
        let seated = place.upgrade().and_then(|slot| slot.borrow_mut().take());
        if let Some(seated) = seated {
            seated.fail(&gone());
        }
    }
}
