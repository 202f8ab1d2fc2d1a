//! Serves one queue of a disk that an NBD server has.

use super::link::Link;
use super::protocol::{COMMAND_FUA, COMMAND_NO_HOLE, Command, ExportFlags, Request};
use crate::backend::{Completion, Engine, Io, Key, LineId, Piece, Step};
use crate::queue::{Flags, Op};
use std::cell::RefCell;
use std::rc::Rc;

/// A call waits for one answer.
const ANSWERED: Key = 0;

pub struct NbdEngine {
    pub link: Rc<RefCell<Link>>,
    pub line: LineId,
    pub flags: ExportFlags,
    /// As [`Site::durable`](crate::backend::Site::durable).
    pub durable: bool,
}

impl Engine for NbdEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let flushes = self.flags.has(ExportFlags::SEND_FLUSH);
        let command = match piece.op {
            Op::Read => Command::Read,
            Op::Write => Command::Write,
            Op::Flush if !flushes => return Step::Done(Ok(0)),
            Op::Flush => Command::Flush,
            Op::Discard => Command::Trim,
            Op::WriteZeroes => Command::WriteZeroes,
            Op::Other(_) => return Step::Done(Err(libc::EOPNOTSUPP)),
        };
        let changes = matches!(command, Command::Write | Command::WriteZeroes);
        let durable = changes && (self.durable || piece.flags.has(Flags::FUA));
        let fua = durable && self.flags.has(ExportFlags::SEND_FUA);
        let keeps = command == Command::WriteZeroes && piece.flags.has(Flags::NO_UNMAP);
        let flags = if fua { COMMAND_FUA } else { 0 } | if keeps { COMMAND_NO_HOLE } else { 0 };
        let Ok(length) = u32::try_from(piece.length) else { return Step::Done(Err(libc::EINVAL)) };
        let data = match command {
            Command::Read | Command::Write => match io.stretch(&piece) {
                Ok(data) => Some(data),
                Err(errno) => return Step::Done(Err(errno)),
            },
            _ => None,
        };
        let request = Request { command, flags, cookie: 0, offset: piece.offset, length };
        let (token, then_flush) = (io.token(ANSWERED), durable && !fua && flushes);
        if let Err(errno) = self.link.borrow_mut().ask(request, token, data, then_flush) {
            return Step::Done(Err(errno));
        }
        io.line_is_due(self.line);
        Step::Pending
    }

    fn resume(&mut self, _: &mut Io<'_>, completion: Completion) -> Step {
        match completion.result {
            done @ 0.. => Step::Done(Ok(done.cast_unsigned())),
            errno => Step::Done(Err(-errno)),
        }
    }
}
