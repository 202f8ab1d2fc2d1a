//! Makes sense of what a server sends once it serves the export. Pure: it gets bytes as they come, and says what they mean. It
//! keeps no data and allocates nothing.

use super::protocol::{
    CHUNK_DATA, CHUNK_DONE, CHUNK_ERROR, CHUNK_ERROR_OFFSET, CHUNK_HOLE, CHUNK_MAGIC, CHUNK_NONE,
    SIMPLE_MAGIC, u16_at, u32_at, u64_at,
};

/// Bytes: the longest header with the numbers that follow it.
const LONGEST: usize = 32;
/// Bytes: the longest text of an error that is passed over.
const LONGEST_TEXT: u32 = 4096;

/// What the bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Data follows of the read with this cookie, for this range of the disk: the next `length` bytes, which are not passed
    /// to the decoder.
    Data { cookie: u64, offset: u64, length: u32, last: bool },
    /// This range of the disk reads as zeroes.
    Hole { cookie: u64, offset: u64, length: u32, last: bool },
    /// It has failed, by the protocol's number; or with 0: it has ended.
    End { cookie: u64, error: u32, last: bool },
}

/// Why a connection cannot be used any more: the server has sent what the protocol does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation(pub &'static str);

/// What the client asked for with a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub offset: u64,
    /// Bytes that are to be read; 0: it is no read.
    pub reads: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Decoder {
    structured: bool,
    /// The beginning of a reply that has not come as a whole.
    head: [u8; LONGEST],
    have: usize,
    /// Bytes of an error's text that are to come.
    text: u32,
}

impl Decoder {
    /// For a connection on which replies to reads are structured, or none is.
    pub fn new(structured: bool) -> Self {
        Self { structured, head: [0; LONGEST], have: 0, text: 0 }
    }

    /// The meaning of the next bytes; `None`: there are too few. What was used is taken off `input`. `asked` says what the
    /// client has asked for with a cookie, if it still waits for that.
    pub fn next(
        &mut self,
        input: &mut &[u8],
        asked: &dyn Fn(u64) -> Option<Asked>,
    ) -> Result<Option<Event>, Violation> {
        if self.text > 0 {
            let passed = input.len().min(self.text as usize);
            *input = &input[passed..];
            #[expect(clippy::cast_possible_truncation, reason = "at most `text`")]
            let passed = passed as u32;
            self.text -= passed;
            if self.text > 0 {
                return Ok(None);
            }
        }
        loop {
            let wanted = self.wanted()?;
            let more = wanted - self.have;
            if more > 0 {
                let come = input.len().min(more);
                self.head[self.have..self.have + come].copy_from_slice(&input[..come]);
                *input = &input[come..];
                self.have += come;
                if come < more {
                    return Ok(None);
                }
                continue; // now it is known how much belongs to it
            }
            self.have = 0;
            return self.event(asked).map(Some);
        }
    }

    /// How many bytes there have to be of what has begun.
    fn wanted(&self) -> Result<usize, Violation> {
        let head = &self.head[..self.have];
        let Some(magic) = u32_at(head, 0) else { return Ok(4) };
        match magic {
            SIMPLE_MAGIC => Ok(16),
            CHUNK_MAGIC if !self.structured => Err(Violation("a structured reply, for which nobody asked")),
            CHUNK_MAGIC => {
                let (Some(kind), Some(length)) = (u16_at(head, 6), u32_at(head, 16)) else { return Ok(20) };
                let rest = match kind {
                    CHUNK_NONE if length == 0 => 0,
                    CHUNK_DATA if length > 8 => 8,
                    CHUNK_HOLE if length == 12 => 12,
                    CHUNK_ERROR_OFFSET | CHUNK_ERROR if length >= 6 => 6,
                    kind if kind & 1 << 15 != 0 && length >= 6 => 6,
                    _ => return Err(Violation("a chunk of a reply in a form that is not known")),
                };
                Ok(20 + rest)
            }
            _ => Err(Violation("bytes where a reply has to begin")),
        }
    }

    fn event(&mut self, asked: &dyn Fn(u64) -> Option<Asked>) -> Result<Event, Violation> {
        const SHORT: Violation = Violation("a reply that is too short");
        let head = &self.head;
        let cookie = u64_at(head, 8).ok_or(SHORT)?;
        let Asked { offset: from, reads } = asked(cookie).ok_or(Violation("a reply to nothing"))?;
        if u32_at(head, 0) == Some(SIMPLE_MAGIC) {
            let error = u32_at(head, 4).ok_or(SHORT)?;
            if reads > 0 && error == 0 {
                if self.structured {
                    return Err(Violation("a simple reply to a read"));
                }
                return Ok(Event::Data { cookie, offset: from, length: reads, last: true });
            }
            return Ok(Event::End { cookie, error, last: true });
        }
        let (flags, kind) = (u16_at(head, 4).ok_or(SHORT)?, u16_at(head, 6).ok_or(SHORT)?);
        let (length, last) = (u32_at(head, 16).ok_or(SHORT)?, flags & CHUNK_DONE != 0);
        let within = |offset: u64, length: u32| {
            let into = offset.checked_sub(from).filter(|into| *into < reads.into());
            let fits = into.is_some_and(|into| u64::from(length) <= u64::from(reads) - into);
            if fits && length > 0 { Ok(()) } else { Err(Violation("data beyond what was asked for")) }
        };
        match kind {
            CHUNK_NONE if last => Ok(Event::End { cookie, error: 0, last }),
            CHUNK_NONE => Err(Violation("an empty chunk that is not the last")),
            CHUNK_DATA => {
                let (offset, length) = (u64_at(head, 20).ok_or(SHORT)?, length - 8);
                within(offset, length)?;
                Ok(Event::Data { cookie, offset, length, last })
            }
            CHUNK_HOLE => {
                let (offset, length) = (u64_at(head, 20).ok_or(SHORT)?, u32_at(head, 28).ok_or(SHORT)?);
                within(offset, length)?;
                Ok(Event::Hole { cookie, offset, length, last })
            }
            _ => {
                let error = u32_at(head, 20).ok_or(SHORT)?;
                self.text = length - 6;
                if self.text > LONGEST_TEXT + 8 {
                    return Err(Violation("an error with too much text"));
                }
                if error == 0 {
                    return Err(Violation("an error that is none"));
                }
                Ok(Event::End { cookie, error, last })
            }
        }
    }
}

/// Which bytes of a read have come. Chunks may come in any order, but not twice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Covered {
    /// Disjoint ranges that do not touch, in order.
    ranges: [(u32, u32); MOST_RANGES],
    count: usize,
}

/// How many ranges of a read may be there with gaps between them.
const MOST_RANGES: usize = 8;

impl Covered {
    /// Bytes from `from` on have come. Fails if some were there before, or there are too many gaps.
    pub fn add(&mut self, from: u32, length: u32) -> Result<(), Violation> {
        let to = from.checked_add(length).ok_or(Violation("data beyond what was asked for"))?;
        let ranges = &mut self.ranges;
        let at = ranges[..self.count].iter().position(|range| range.0 >= from).unwrap_or(self.count);
        let before = at.checked_sub(1).map(|before| ranges[before]);
        let after = (at < self.count).then(|| ranges[at]);
        if before.is_some_and(|before| before.1 > from) || after.is_some_and(|after| after.0 < to) {
            return Err(Violation("the same data twice"));
        }
        match (before.is_some_and(|before| before.1 == from), after.is_some_and(|after| after.0 == to)) {
            (true, true) => {
                ranges[at - 1].1 = ranges[at].1;
                ranges.copy_within(at + 1..self.count, at);
                self.count -= 1;
            }
            (true, false) => ranges[at - 1].1 = to,
            (false, true) => ranges[at].0 = from,
            (false, false) => {
                if self.count == MOST_RANGES {
                    return Err(Violation("a read in too many pieces, out of order"));
                }
                ranges.copy_within(at..self.count, at + 1);
                ranges[at] = (from, to);
                self.count += 1;
            }
        }
        Ok(())
    }

    /// Whether all of a read of that length has come.
    pub fn all(&self, length: u32) -> bool {
        length == 0 || (self.count == 1 && self.ranges[0] == (0, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ASKED: Asked = Asked { offset: 1 << 20, reads: 8192 };

    fn simple(error: u32, cookie: u64) -> Vec<u8> {
        [&SIMPLE_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
    }

    fn chunk(flags: u16, kind: u16, cookie: u64, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap();
        [
            &CHUNK_MAGIC.to_be_bytes()[..],
            &flags.to_be_bytes(),
            &kind.to_be_bytes(),
            &cookie.to_be_bytes(),
            &length.to_be_bytes(),
            data,
        ]
        .concat()
    }

    /// What a decoder says to bytes that come in pieces of `step`; it passes over data.
    fn events(bytes: &[u8], step: usize, structured: bool) -> Result<Vec<Event>, Violation> {
        let asked = |cookie: u64| match cookie {
            1 => Some(ASKED),
            2 => Some(Asked { offset: 0, reads: 0 }),
            _ => None,
        };
        let (mut decoder, mut events, mut data) = (Decoder::new(structured), Vec::new(), 0_usize);
        for piece in bytes.chunks(step.max(1)) {
            let mut input = piece;
            loop {
                let passed = input.len().min(data);
                (input, data) = (&input[passed..], data - passed);
                if data > 0 {
                    break;
                }
                match decoder.next(&mut input, &asked)? {
                    Some(event) => events.push(event),
                    None => break,
                }
                if let Some(Event::Data { length, .. }) = events.last() {
                    data = *length as usize;
                }
            }
        }
        Ok(events)
    }

    #[test]
    fn simple_replies_have_the_data_behind_them() {
        let bytes = [simple(0, 1), vec![7; 8192], simple(0, 2), simple(28, 1)].concat();
        for step in [1, 3, 16, 100, 100_000] {
            let found = events(&bytes, step, false).unwrap();
            let data = Event::Data { cookie: 1, offset: 1 << 20, length: 8192, last: true };
            let end = |cookie, error| Event::End { cookie, error, last: true };
            assert_eq!(found, [data, end(2, 0), end(1, 28)]);
        }
    }

    #[test]
    fn structured_replies_have_data_holes_and_errors() {
        let at = |offset: u64| (offset + (1 << 20)).to_be_bytes();
        let bytes = [
            chunk(0, CHUNK_DATA, 1, &[&at(4096)[..], &[1; 4096]].concat()),
            chunk(0, CHUNK_HOLE, 1, &[&at(0)[..], &4096_u32.to_be_bytes()].concat()),
            chunk(1, CHUNK_NONE, 1, &[]),
            chunk(1, CHUNK_ERROR, 1, &[&5_u32.to_be_bytes()[..], &[0, 3], b"bad"].concat()),
            simple(0, 2),
        ]
        .concat();
        for step in [1, 3, 16, 100, 100_000] {
            let found = events(&bytes, step, true).unwrap();
            assert_eq!(
                found,
                [
                    Event::Data { cookie: 1, offset: (1 << 20) + 4096, length: 4096, last: false },
                    Event::Hole { cookie: 1, offset: 1 << 20, length: 4096, last: false },
                    Event::End { cookie: 1, error: 0, last: true },
                    Event::End { cookie: 1, error: 5, last: true },
                    Event::End { cookie: 2, error: 0, last: true },
                ]
            );
        }
    }

    #[test]
    fn what_the_protocol_does_not_allow_ends_the_connection() {
        let at = |offset: u64| (offset + (1 << 20)).to_be_bytes();
        let hole = |offset: u64, length: u32| [&at(offset)[..], &length.to_be_bytes()].concat();
        for (bytes, structured) in [
            (simple(0, 9), false),
            (simple(0, 1), true),
            (chunk(1, CHUNK_NONE, 1, &[]), false),
            (chunk(0, CHUNK_NONE, 1, &[]), true),
            (chunk(1, 77, 1, &[0; 8]), true),
            (chunk(1, CHUNK_HOLE, 1, &hole(4096, 4097)), true),
            (chunk(1, CHUNK_HOLE, 1, &hole(8192, 1)), true),
            (chunk(1, CHUNK_HOLE, 1, &hole(0, 0)), true),
            (chunk(1, CHUNK_HOLE, 2, &hole(0, 1)), true),
            (chunk(1, CHUNK_ERROR, 1, &[0; 6]), true),
            (chunk(1, CHUNK_ERROR, 1, &[1; 8000]), true),
            (b"HTTP/1.1 400 Bad Request".to_vec(), true),
        ] {
            assert!(events(&bytes, 100_000, structured).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_refused_in_whatever_pieces_they_come(
            bytes in prop::collection::vec(prop_oneof![
                Just(CHUNK_MAGIC.to_be_bytes().to_vec()),
                Just(simple(0, 1)), Just(simple(5, 2)),
                (0_u16..2, 0_u16..4, 0_u64..3, prop::collection::vec(any::<u8>(), 0..40))
                    .prop_map(|(flags, kind, cookie, data)| chunk(flags, kind, cookie, &data)),
                (Just(0_u64), 0_u64..3, 0_u64..9000, 1_u32..9000).prop_map(|(_, cookie, offset, length)| {
                    let data = [&(offset + (1 << 20)).to_be_bytes()[..], &length.to_be_bytes()].concat();
                    chunk(1, CHUNK_HOLE, cookie, &data)
                }),
                prop::collection::vec(any::<u8>(), 0..30),
            ], 0..12),
            step in 1_usize..64,
            structured in any::<bool>(),
        ) {
            let bytes = bytes.concat();
            let (whole, pieces) = (events(&bytes, usize::MAX, structured), events(&bytes, step, structured));
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn what_has_come_is_known_exactly(pieces in prop::collection::vec((0_u32..32, 1_u32..12), 0..12)) {
            let (mut covered, mut model) = (Covered::default(), [false; 64]);
            for (from, length) in pieces {
                let range = from as usize..(from + length) as usize;
                let twice = model[range.clone()].iter().any(|there| *there);
                match covered.add(from, length) {
                    Ok(()) => {
                        prop_assert!(!twice);
                        model[range].fill(true);
                    }
                    Err(Violation(why)) => prop_assert!(twice || why.contains("too many"), "{why}"),
                }
                for length in 1..32 {
                    let all = model[..length as usize].iter().all(|there| *there)
                        && !model[length as usize..].iter().any(|there| *there);
                    prop_assert_eq!(covered.all(length), all);
                }
            }
        }
    }
}
