//! Where a thread keeps the queues that it serves, by number. It takes them back from there when it ends: V8 lets go of
//! their objects only later, and until then the devices would wait.

use super::gone;
use super::served::Served;
use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::{Rc, Weak};

// Boxed: it moves with every call.
type Slot = RefCell<Option<Box<Served>>>;

thread_local! {
    static PLACES: RefCell<Vec<(u32, Weak<Slot>)>> = const { RefCell::new(Vec::new()) };
    static LAST: Cell<u32> = const { Cell::new(0) };
}

/// See the [module](self).
pub struct Place {
    number: u32,
    slot: Rc<Slot>,
}

impl Place {
    pub fn new(served: Served) -> Self {
        let slot = Rc::new(RefCell::new(Some(Box::new(served))));
        let number = LAST.get().wrapping_add(1);
        LAST.set(number);
        PLACES.with_borrow_mut(|places| {
            places.retain(|(_, slot)| slot.strong_count() > 0);
            places.push((number, Rc::downgrade(&slot)));
        });
        Self { number, slot }
    }

    /// That of the number, on this thread.
    pub fn of(number: u32) -> Option<Self> {
        PLACES.with_borrow(|places| {
            let (_, slot) = places.iter().find(|(other, _)| *other == number)?;
            slot.upgrade().map(|slot| Self { number, slot })
        })
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn take(&self) -> Option<Box<Served>> {
        self.slot.borrow_mut().take()
    }

    pub fn put_back(&self, served: Box<Served>) {
        *self.slot.borrow_mut() = Some(served);
    }

    pub fn borrow(&self) -> Ref<'_, Option<Box<Served>>> {
        self.slot.borrow()
    }

    pub fn borrow_mut(&self) -> RefMut<'_, Option<Box<Served>>> {
        self.slot.borrow_mut()
    }
}

/// Gives up every queue of this thread, which is about to end or to wait for its devices' end.
pub fn leave_all() {
    for (_, place) in PLACES.take() {
        let served = place.upgrade().and_then(|slot| slot.borrow_mut().take());
        if let Some(served) = served {
            served.end(Some(&gone()));
        }
    }
}
