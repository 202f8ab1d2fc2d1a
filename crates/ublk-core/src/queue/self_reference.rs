//! A value, and what borrows from it, in one structure.

use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Dereferences to the borrower. Dropped, it drops the borrower before the owner.
pub struct SelfReference<Owner, Borrower> {
    // No plain field: a function that takes or drops a structure by value may rely on the references in its fields to be good
    // until it returns, and the owner would be freed before that. What is in a MaybeUninit, nobody relies on.
    borrower: MaybeUninit<Borrower>,
    // No Box, to which nothing but the Box itself may refer when it is moved.
    owner: NonNull<Owner>,
}

impl<Owner: 'static, Borrower> SelfReference<Owner, Borrower> {
    /// Keeps `owner` at one place, and beside it what `borrow` makes of it there.
    ///
    /// # Safety
    /// The references do not live as long as their type says, but as long as the structure: they stay within the borrower.
    pub unsafe fn new<Failure>(
        owner: Owner,
        borrow: impl FnOnce(&'static Owner) -> Result<Borrower, Failure>,
    ) -> Result<Self, Failure> {
        let place = NonNull::from(Box::leak(Box::new(owner)));
        // SAFETY: it was made just now, is shared from here on, and is freed when its borrower is gone: in drop(), or below,
        // where there never was one.
        match borrow(unsafe { place.as_ref() }) {
            Ok(borrower) => Ok(Self { borrower: MaybeUninit::new(borrower), owner: place }),
            Err(failure) => {
                // SAFETY: made by a Box; what has failed keeps no reference, by the caller's promise.
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
        // SAFETY: each is there, and is dropped once, here: first what refers to the other.
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

    /// As a ring has its numbers in memory that both sides write.
    struct Owner {
        number: Cell<u32>,
        log: Log,
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            self.log.borrow_mut().push("owner");
        }
    }

    /// As the halves of a ring refer to it.
    struct Borrower {
        own: u32,
        whole: &'static Owner,
        again: &'static Cell<u32>,
    }

    impl Drop for Borrower {
        fn drop(&mut self) {
            // As the half of a ring does: it leaves its number there.
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
