//! The part of the local file that has what was read: chunks of segments' data. A segment never changes, so neither does a chunk.

use std::collections::HashMap;

/// Blocks of a chunk.
pub const CHUNK: u32 = 16;

/// A chunk: the number of its segment, and its own within the segment's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The segment's number in the table.
    pub segment: u32,
    /// From 0.
    pub chunk: u32,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    key: Option<Key>,
    /// How many requests read it, or fill it.
    pins: u32,
    /// Since the clock passed it.
    used: bool,
}

/// Which chunks are in which slots.
#[derive(Debug)]
pub struct Cache {
    found: HashMap<Key, u32>,
    slots: Vec<Slot>,
    hand: usize,
}

impl Cache {
    /// With this number of slots.
    pub fn new(slots: u32) -> Self {
        Self { found: HashMap::new(), slots: vec![Slot::default(); slots as usize], hand: 0 }
    }

    /// The slot of a chunk.
    pub fn find(&mut self, key: Key) -> Option<u32> {
        let slot = *self.found.get(&key)?;
        self.slots[slot as usize].used = true;
        Some(slot)
    }

    /// A slot for a chunk that is about to come, pinned; `evicted` is told which slot has nothing any more. `None`: all are
    /// pinned.
    pub fn reserve(&mut self) -> Option<u32> {
        for _ in 0..2 * self.slots.len() {
            let at = self.hand;
            self.hand = (at + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if slot.pins > 0 {
                continue;
            }
            if std::mem::take(&mut slot.used) && slot.key.is_some() {
                continue;
            }
            if let Some(key) = slot.key.take() {
                self.found.remove(&key);
            }
            slot.pins = 1;
            return u32::try_from(at).ok();
        }
        None
    }

    /// A reserved slot has the chunk.
    pub fn fill(&mut self, slot: u32, key: Key) {
        let place = &mut self.slots[slot as usize];
        place.pins -= 1;
        // Somebody else may have brought it.
        if self.found.contains_key(&key) {
            return;
        }
        (place.key, place.used) = (Some(key), true);
        self.found.insert(key, slot);
    }

    /// A reserved slot has nothing after all.
    pub fn give_up(&mut self, slot: u32) {
        self.slots[slot as usize].pins -= 1;
    }

    /// Puts a chunk into a slot, as an earlier server had it.
    pub fn restore(&mut self, slot: u32, key: Key) {
        if let Some(place) = self.slots.get_mut(slot as usize)
            && place.key.is_none()
            && !self.found.contains_key(&key)
        {
            place.key = Some(key);
            self.found.insert(key, slot);
        }
    }

    /// The slot is read: it keeps its chunk until it is [unpinned](Self::unpin).
    pub fn pin(&mut self, slot: u32) {
        self.slots[slot as usize].pins += 1;
    }

    /// The reverse.
    pub fn unpin(&mut self, slot: u32) {
        self.slots[slot as usize].pins -= 1;
    }

    /// A segment is gone.
    pub fn forget(&mut self, segment: u32, blocks: u32) {
        for chunk in 0..blocks.div_ceil(CHUNK) {
            if let Some(slot) = self.found.remove(&Key { segment, chunk }) {
                self.slots[slot as usize].key = None;
            }
        }
    }

    /// How many chunks there are.
    pub fn count(&self) -> usize {
        self.found.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(chunk: u32) -> Key {
        Key { segment: 1, chunk }
    }

    #[test]
    fn what_is_used_stays_for_a_round_and_what_is_pinned_stays() {
        let mut cache = Cache::new(3);
        for chunk in 0..3 {
            let slot = cache.reserve().unwrap();
            cache.fill(slot, key(chunk));
        }
        let pinned = cache.find(key(0)).unwrap();
        cache.pin(pinned);
        for chunk in 3..20 {
            let slot = cache.reserve().unwrap();
            assert_ne!(slot, pinned);
            cache.fill(slot, key(chunk));
        }
        assert_eq!((cache.find(key(0)), cache.count()), (Some(pinned), 3));
        let rest = [cache.reserve(), cache.reserve()];
        assert!(rest.iter().all(Option::is_some) && cache.reserve().is_none());
        cache.unpin(pinned);
        assert_eq!(cache.reserve(), Some(pinned));
        assert_eq!(cache.count(), 0);
    }

    #[test]
    fn a_segment_that_is_gone_is_not_found() {
        let mut cache = Cache::new(4);
        cache.restore(2, key(1));
        cache.restore(2, key(5));
        cache.restore(9, key(6));
        assert_eq!((cache.count(), cache.find(key(1))), (1, Some(2)));
        cache.forget(1, 17);
        assert_eq!((cache.find(key(1)), cache.count()), (None, 0));
    }
}
