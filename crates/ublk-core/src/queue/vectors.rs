//! The places of scattered data, for operations that name more than one. Each tag has a fixed number of them.

use libc::iovec;

/// See the [module](self).
pub struct Vectors {
    /// The kernel reads them while it submits an operation. They stay as long as the buffers.
    all: Box<[iovec]>,
    /// By tag: how many are in use.
    used: Box<[u16]>,
    each: u16,
}

impl Vectors {
    /// `each` for every tag of `depth`.
    pub fn new(depth: u16, each: u16) -> Self {
        let none = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let all = vec![none; usize::from(depth) * usize::from(each)].into();
        Self { all, used: vec![0; depth.into()].into(), each }
    }

    /// Whether there are any.
    #[inline]
    pub fn any(&self) -> bool {
        self.each > 0
    }

    /// No operation that uses the tag's is in the ring any more.
    pub fn free(&mut self, tag: u16) {
        self.used[usize::from(tag)] = 0;
    }

    /// Stores those of `places`, address and length, for which the tag has room: where they are, and how many.
    pub fn store(&mut self, tag: u16, places: impl Iterator<Item = (*mut u8, usize)>) -> (*const iovec, u32) {
        let used = &mut self.used[usize::from(tag)];
        let start = usize::from(tag) * usize::from(self.each);
        let room = &mut self.all[start + usize::from(*used)..start + usize::from(self.each)];
        let mut count = 0;
        for (vector, (address, length)) in room.iter_mut().zip(places) {
            *vector = iovec { iov_base: address.cast(), iov_len: length };
            count += 1;
        }
        *used += count;
        (room.as_ptr(), count.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(number: usize) -> impl Iterator<Item = (*mut u8, usize)> {
        (0..number).map(|at| (std::ptr::without_provenance_mut(at * 100), 10))
    }

    #[test]
    fn a_tag_uses_its_own_places_and_no_more_than_it_has() {
        let mut vectors = Vectors::new(3, 4);
        let (first, count) = vectors.store(1, places(3));
        assert_eq!(count, 3);
        assert_eq!(vectors.store(1, places(3)), (first.wrapping_add(3), 1));
        assert_eq!(vectors.store(1, places(1)).1, 0);
        assert_eq!(vectors.store(2, places(9)), (first.wrapping_add(4), 4));
        let kept: Vec<_> =
            vectors.all[4..8].iter().map(|vector| (vector.iov_base as usize, vector.iov_len)).collect();
        assert_eq!(kept, [(0, 10), (100, 10), (200, 10), (0, 10)]);
        vectors.free(1);
        assert_eq!(vectors.store(1, places(1)).0, first);
        assert_eq!(vectors.store(2, places(1)).1, 0);
    }
}
