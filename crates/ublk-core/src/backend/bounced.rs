//! Serves the queue of a device in a copy mode that the backend does not have: its engine works on the tags' buffers, as if the
//! driver had copied, and what goes between these and the requests is done here. It costs a copy with `user`, and two with
//! `zero`. A device whose disk changes its backend needs that: its copy mode is fixed.

use super::{Backend, Below, Completion, CopyMode, Engine, Io, Key, PerCall, Piece, Site, Slot, Step};
use crate::error::{Error, Result};
use crate::queue::{Errno, Op};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The data of the current call was moved in the ring.
const MOVED: Key = 0;

/// An engine of a backend for a site whose copy mode the backend does not have.
pub fn engine(backend: Arc<dyn Backend>, site: &mut Site) -> Result<Box<dyn Engine>> {
    let copy = site.copy_mode();
    let file = (copy == CopyMode::Zero).then(|| memory(site)).transpose()?;
    site.set_copy_mode(CopyMode::Copy);
    let below = site.below(backend);
    site.set_copy_mode(copy);
    let calls = PerCall::new(site.depth());
    Ok(Box::new(Bounced { below: below?, file, max_io: site.max_io().into(), calls }))
}

/// A file in memory with room for the data of each tag. The ring copies the pages of requests to it, and from it.
fn memory(site: &mut Site) -> Result<(File, Slot)> {
    let failed = |error: std::io::Error| Error::system("cannot make a file in memory", &error);
    let file = memfd_create(c"ublk-bounce", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let file = File::from(file);
    file.set_len(u64::from(site.depth()) * u64::from(site.max_io())).map_err(failed)?;
    let slot = site.file(file.as_fd());
    Ok((file, slot))
}

#[derive(Debug, Clone, Copy, Default)]
enum Call {
    /// The disk below has it.
    #[default]
    Below,
    /// A write whose data comes.
    Comes(Piece),
    /// A read whose data goes.
    Goes(Piece),
    /// The disk below has a read of this.
    Reads(Piece),
}

struct Bounced {
    below: Below,
    /// With zero copy.
    file: Option<(File, Slot)>,
    max_io: u64,
    calls: PerCall<Call>,
}

impl Bounced {
    /// Where the data of a piece is in the file.
    fn place(&self, io: &Io<'_>, piece: &Piece) -> u64 {
        u64::from(io.request.ticket.tag) * self.max_io + piece.at as u64
    }

    fn pass(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        let reads = piece.op == Op::Read && !io.is_shared();
        *self.calls.of(io) = if reads { Call::Reads(piece) } else { Call::Below };
        let step = io.copied(|io| self.below.pass(io, piece));
        self.done(io, step)
    }

    fn done(&mut self, io: &mut Io<'_>, step: Step) -> Step {
        let (Step::Done(Ok(done)), Call::Reads(piece)) = (step, *self.calls.of(io)) else { return step };
        let piece = piece.part(0, u64::from(done).min(piece.length));
        let moved = self.goes(io, &piece);
        match moved {
            Ok(true) => step,
            Ok(false) => {
                *self.calls.of(io) = Call::Goes(piece);
                Step::Pending
            }
            Err(errno) => Step::Done(Err(errno)),
        }
    }

    /// Moves the data of a read from the buffer to its request. Whether that is done, or is with the answer.
    fn goes(&mut self, io: &mut Io<'_>, piece: &Piece) -> std::result::Result<bool, Errno> {
        let at = self.place(io, piece);
        let Some((file, slot)) = &self.file else { return io.move_buffer(piece).map(|()| true) };
        io.move_bounced(file.as_fd(), piece, at, false)?;
        // It goes from the file into the request's pages.
        match io.read_file(*slot, &piece.to(at), MOVED) {
            Step::Pending => Ok(false),
            Step::Done(outcome) => outcome.map(|_| true),
        }
    }
}

impl Engine for Bounced {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if piece.op != Op::Write || io.is_shared() {
            return self.pass(io, piece);
        }
        let at = self.place(io, &piece);
        let Some((_, slot)) = &self.file else {
            return match io.hold(&piece) {
                Ok(_) => self.pass(io, piece),
                Err(errno) => Step::Done(Err(errno)),
            };
        };
        *self.calls.of(io) = Call::Comes(piece);
        io.write_file(*slot, &piece.to(at), false, MOVED)
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        match *self.calls.of(io) {
            Call::Below | Call::Reads(_) => {
                let step = io.copied(|io| self.below.pass_on(io, completion));
                self.done(io, step)
            }
            Call::Comes(piece) => {
                if let Err(errno) = moved(completion, &piece) {
                    return Step::Done(Err(errno));
                }
                let at = self.place(io, &piece);
                let Some((file, _)) = &self.file else { return Step::Done(Err(libc::EIO)) };
                match io.move_bounced(file.as_fd(), &piece, at, true) {
                    Ok(()) => self.pass(io, piece),
                    Err(errno) => Step::Done(Err(errno)),
                }
            }
            Call::Goes(piece) => Step::Done(moved(completion, &piece).map(|()| piece.count())),
        }
    }
}

fn moved(completion: Completion, piece: &Piece) -> std::result::Result<(), Errno> {
    match usize::try_from(completion.result) {
        Ok(bytes) if bytes == piece.data_length() => Ok(()),
        Ok(_) => Err(libc::EIO),
        Err(_) => Err(-completion.result),
    }
}
