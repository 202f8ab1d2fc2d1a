//! What becomes of a request.

use super::{Descriptor, Op};
use crate::abi;

/// The positive error number with which a request is answered.
pub type Errno = i32;
/// A request's outcome: bytes done (0 for anything but reads and writes), or an error number. A read may be
/// done in part and is continued; a write only whole.
pub type Outcome = std::result::Result<u32, Errno>;

/// The driver's form of an outcome. The driver asks again for the missing rest of a read, in whole sectors, but treats any
/// write as a whole one: a partial write is an I/O error. So is a read of nothing, for which the driver would ask forever, and
/// an outcome larger than the request, which is a bug of the backend.
pub(super) fn result_of(what: &Descriptor, outcome: Outcome) -> i32 {
    let done = match outcome {
        Err(errno) => return -errno.clamp(1, 4095),
        Ok(done) => u64::from(done),
    };
    #[expect(clippy::cast_possible_truncation, reason = "not above the request's length, at most 32 MiB")]
    match what.op {
        Op::Read if done > what.length || done < abi::SECTOR => -libc::EIO,
        Op::Read => (done - done % abi::SECTOR) as i32,
        Op::Write if done != what.length => -libc::EIO,
        Op::Write => done as i32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(op: Op, length: u64) -> Descriptor {
        Descriptor::new(op, 0, length)
    }

    #[test]
    fn the_rest_of_a_read_is_asked_for_again_in_whole_sectors() {
        let read = what(Op::Read, 4096);
        for (done, result) in [(4096, 4096), (512, 512), (4095, 3584), (513, 512)] {
            assert_eq!(result_of(&read, Ok(done)), result);
        }
    }

    #[test]
    fn outcomes_that_would_loop_or_lose_data_or_overrun_become_io_errors() {
        for done in [0, 511, 4097, u32::MAX] {
            assert_eq!(result_of(&what(Op::Read, 4096), Ok(done)), -libc::EIO);
        }
        for done in [0, 512, 4095, 4097, u32::MAX] {
            assert_eq!(result_of(&what(Op::Write, 4096), Ok(done)), -libc::EIO);
        }
        assert_eq!(result_of(&what(Op::Write, 4096), Ok(4096)), 4096);
    }

    #[test]
    fn errors_are_error_numbers_whatever_the_backend_says() {
        let read = |length| what(Op::Read, length);
        assert_eq!(result_of(&read(4096), Err(libc::ENOSPC)), -libc::ENOSPC);
        assert_eq!(result_of(&read(4096), Err(0)), -1);
        assert_eq!(result_of(&what(Op::Flush, 0), Ok(7)), 0);
    }
}
