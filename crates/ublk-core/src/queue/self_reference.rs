//! An owner and a value that borrows from it, in one structure.

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Dereferences to the borrower. Dropped, it drops the borrower before the owner.
pub struct SelfReference<Owner, Borrower> {
    // Not a plain field: when a structure is passed by value, the compiler may assume that references in its fields
    // stay valid until the function returns, but drop() frees the owner before. Within MaybeUninit it may not assume
    // that.
    borrower: MaybeUninit<Borrower>,
    // Not a Box: moving a Box invalidates other references to its content.
    owner: NonNull<Owner>,
}

impl<Owner: 'static, Borrower> SelfReference<Owner, Borrower> {
    /// Stores `owner` at a fixed address, together with the value that `borrow` makes from it.
    ///
    /// # Safety
    /// The references must stay within the borrower: despite their type they live only as long as the structure.
    pub unsafe fn new<Failure>(
        owner: Owner,
        borrow: impl FnOnce(&'static Owner) -> Result<Borrower, Failure>,
    ) -> Result<Self, Failure> {
        let place = NonNull::from(Box::leak(Box::new(owner)));
        // SAFETY: it was just created, is only shared from here on, and is freed after its borrower: in drop(), or
        // below if there is none.
        match borrow(unsafe { place.as_ref() }) {
            Ok(borrower) => Ok(Self { borrower: MaybeUninit::new(borrower), owner: place }),
            Err(failure) => {
                // SAFETY: allocated by a Box; after a failure no reference remains, by the caller's promise.
                drop(unsafe { Box::from_raw(place.as_ptr()) });
                Err(failure)
            }
        }
    }
}

impl<Owner, Borrower> Deref for SelfReference<Owner, Borrower> {
    type Target = Borrower;
    #[inline]
    fn deref(&self) -> &Borrower {
        // SAFETY: initialized by new(), and until drop().
        unsafe { self.borrower.assume_init_ref() }
    }
}

impl<Owner, Borrower> DerefMut for SelfReference<Owner, Borrower> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Borrower {
        // SAFETY: as above.
        unsafe { self.borrower.assume_init_mut() }
    }
}

impl<Owner, Borrower> Drop for SelfReference<Owner, Borrower> {
    fn drop(&mut self) {
        // SAFETY: both are initialized, and are dropped only here: first the borrower.
        unsafe {
            self.borrower.assume_init_drop();
            drop(Box::from_raw(self.owner.as_ptr()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    type Log = Rc<RefCell<Vec<&'static str>>>;

    /// Like a ring, whose counters are in memory that both sides write.
    struct Owner {
        number: Cell<u32>,
        log: Log,
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            self.log.borrow_mut().push("owner");
        }
    }

    /// Like the halves of a ring, which refer to it.
    struct Borrower {
        own: u32,
        whole: &'static Owner,
        again: &'static Cell<u32>,
    }

    impl Drop for Borrower {
        fn drop(&mut self) {
            // Like half a ring, which stores its counter on drop.
            self.again.set(self.own);
            assert_eq!(self.whole.number.get(), self.own);
            self.whole.log.borrow_mut().push("borrower");
        }
    }

    fn made(log: &Log) -> SelfReference<Owner, Borrower> {
        let owner = Owner { number: Cell::new(1), log: log.clone() };
        // SAFETY: the references stay in the borrower.
        unsafe {
            SelfReference::new(owner, |owner| {
                Ok::<_, ()>(Borrower { own: owner.number.get(), whole: owner, again: &owner.number })
            })
        }
        .unwrap()
    }

    /// The owner is freed before this returns.
    fn dropped_within<T>(value: T, log: &Log) -> usize {
        drop(value);
        log.borrow().len()
    }

    #[test]
    fn it_is_used_moved_and_dropped_in_order() {
        let log = Log::default();
        let mut it = made(&log);
        it.own += 1;
        it.again.set(7);
        let mut moved = Box::new(it);
        moved.own += 1;
        assert_eq!((moved.own, moved.whole.number.get()), (3, 7));
        assert_eq!(dropped_within(*moved, &log), 2);
        assert_eq!(*log.borrow(), ["borrower", "owner"]);
    }

    #[test]
    fn an_owner_that_cannot_be_borrowed_from_is_dropped() {
        let log = Log::default();
        let owner = Owner { number: Cell::new(1), log: log.clone() };
        // SAFETY: there is no borrower.
        let made = unsafe { SelfReference::new(owner, |owner| Err::<(), _>(owner.number.get())) };
        assert_eq!(made.err(), Some(1));
        assert_eq!(*log.borrow(), ["owner"]);
    }
}
