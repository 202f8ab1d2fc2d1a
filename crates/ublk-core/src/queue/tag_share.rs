//! The tags of a queue that one thread serves: all of them, or every n-th one.

/// See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagShare {
    /// Below `of`: it has the tags with this remainder modulo `of`.
    pub index: u16,
    /// How many parts the queue has.
    pub of: u16,
}

impl TagShare {
    /// All tags.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    /// Its tags, of a queue of that depth.
    pub fn tags(self, depth: u16) -> impl Iterator<Item = u16> {
        (self.index..depth).step_by(self.of.into())
    }

    /// How many tags it has.
    pub fn count(self, depth: u16) -> u16 {
        depth.saturating_sub(self.index).div_ceil(self.of)
    }

    /// The position of `tag` among them, from 0; `None` if it belongs to another share.
    #[inline]
    pub fn place(self, tag: u16) -> Option<u16> {
        if self.of == 1 {
            return Some(tag); // asked for with every request
        }
        (tag % self.of == self.index).then_some(tag / self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_queue_have_each_of_its_tags_once() {
        for (depth, of) in [(1, 1), (128, 1), (4, 4), (7, 3), (128, 5)] {
            let mut owners = vec![0; depth.into()];
            for index in 0..of {
                let part = TagShare { index, of };
                for (place, tag) in (0..).zip(part.tags(depth)) {
                    assert_eq!(part.place(tag), Some(place));
                    owners[usize::from(tag)] += 1;
                }
                assert_eq!(part.tags(depth).count(), usize::from(part.count(depth)));
                assert_eq!(
                    (0..depth).filter(|tag| part.place(*tag).is_some()).count(),
                    usize::from(part.count(depth))
                );
            }
            assert!(owners.iter().all(|owners| *owners == 1), "{owners:?}");
        }
    }
}
