//! The methods to zero or discard a range of a file. Only a try shows what a medium supports: file systems fail with
//! various error numbers, and a block device's support may change.

use crate::queue::{Flags, Op, Piece};

pub const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// One method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// fallocate(2) with this mode.
    Allocate(i32),
    /// Zeroes are written as data, which every medium supports.
    Write,
}

/// The methods for a request, the best first. Keeping or releasing the space is optional; reading as zeroes is not.
fn ways(what: &Piece) -> &'static [Way] {
    match what.op {
        Op::Discard => &[Way::Allocate(PUNCH)],
        _ if what.flags.has(Flags::NO_UNMAP) => &[Way::Allocate(ZERO), Way::Allocate(PUNCH), Way::Write],
        _ => &[Way::Allocate(PUNCH), Way::Allocate(ZERO), Way::Write],
    }
}

/// The fallocate(2) modes that the medium was found not to support.
#[derive(Debug, Default)]
pub struct Ways {
    unable: [Option<i32>; 2],
}

impl Ways {
    /// The first of the request's methods, from index `from` on, that may work, and its index.
    pub fn next(&self, what: &Piece, from: usize) -> Option<(usize, Way)> {
        let able = |way: &Way| match way {
            Way::Allocate(mode) => !self.unable.contains(&Some(*mode)),
            Way::Write => true,
        };
        ways(what).iter().copied().enumerate().skip(from).find(|(_, way)| able(way))
    }

    /// A method failed. One that the medium does not support is not tried again for later requests; requests in flight
    /// detect that themselves.
    pub fn failed(&mut self, way: Way, errno: i32) {
        if let Way::Allocate(mode) = way
            && cannot(errno)
            && !self.unable.contains(&Some(mode))
            && let Some(room) = self.unable.iter_mut().find(|room| room.is_none())
        {
            *room = Some(mode);
        }
    }
}

/// Whether an error number of fallocate(2) means that the medium does not support the mode.
pub fn cannot(errno: i32) -> bool {
    matches!(
        errno,
        libc::EOPNOTSUPP
            | libc::ENOSYS
            | libc::ENOTTY
            | libc::EINVAL
            | libc::ENODEV
            | libc::EPERM
            | libc::ESPIPE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Descriptor;

    fn what(op: Op, no_unmap: bool) -> Piece {
        let flags = if no_unmap { Flags::NO_UNMAP } else { Flags::NONE };
        Piece { flags, ..Descriptor::new(op, 0, 4096).piece() }
    }

    /// The methods that a request tries when all fail with `errno`.
    fn tried(ways: &mut Ways, what: &Piece, errno: i32) -> Vec<Way> {
        let (mut tried, mut at) = (Vec::new(), 0);
        while let Some((number, way)) = ways.next(what, at) {
            ways.failed(way, errno);
            tried.push(way);
            at = number + 1;
        }
        tried
    }

    const KEEP: Way = Way::Allocate(ZERO);
    const GIVE: Way = Way::Allocate(PUNCH);

    #[test]
    fn zeroes_end_with_zeroes_that_are_written_whatever_the_medium_says() {
        for errno in [libc::EOPNOTSUPP, libc::EINVAL, libc::ENOTTY, libc::ENOSYS, libc::ENOSPC, libc::EIO] {
            let mut ways = Ways::default();
            assert_eq!(tried(&mut ways, &what(Op::WriteZeroes, true), errno), [KEEP, GIVE, Way::Write]);
            let mut ways = Ways::default();
            assert_eq!(tried(&mut ways, &what(Op::WriteZeroes, false), errno), [GIVE, KEEP, Way::Write]);
            // A discard never writes zeroes as data.
            let mut ways = Ways::default();
            assert_eq!(tried(&mut ways, &what(Op::Discard, false), errno), [GIVE]);
        }
    }

    #[test]
    fn what_a_medium_cannot_do_is_asked_for_once_and_what_failed_for_another_reason_again() {
        let (zeroes, mut ways) = (what(Op::WriteZeroes, true), Ways::default());
        ways.failed(KEEP, libc::EINVAL);
        assert_eq!(ways.next(&zeroes, 0), Some((1, GIVE)));
        ways.failed(GIVE, libc::ENOSPC);
        assert_eq!(ways.next(&zeroes, 0), Some((1, GIVE)));
    }

    #[test]
    fn a_request_in_flight_goes_on_when_another_one_has_found_out_before_it() {
        let (zeroes, mut ways) = (what(Op::WriteZeroes, true), Ways::default());
        let started: Vec<_> = (0..2).map(|_| ways.next(&zeroes, 0).unwrap()).collect();
        for (number, way) in started {
            ways.failed(way, libc::EOPNOTSUPP);
            assert_eq!(ways.next(&zeroes, number + 1), Some((1, GIVE)));
        }
    }
}
