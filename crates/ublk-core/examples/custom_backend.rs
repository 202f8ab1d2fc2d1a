//! A backend of one's own: a read-only disk on which each block of 512 bytes begins with its own number. It needs root and
//! the ublk driver (`modprobe ublk_drv`):
//!
//! ```sh
//! cargo build --example custom_backend && sudo target/debug/examples/custom_backend
//! ```

#![allow(clippy::print_stdout)] // a program, not a library

use std::io::{Error as IoError, Read, Seek, SeekFrom};
use std::sync::Arc;
use ublk_core::backend::{Backend, Engine, Io, Op, Piece, Place, Properties, Site, Step};
use ublk_core::{Bound, Device, Error, Result, Spec};

const BLOCK: usize = 512;

/// Describes the disk. It is shared by all queues.
struct Numbers {
    blocks: u64,
}

impl Backend for Numbers {
    fn properties(&self) -> Properties {
        Properties::new(self.blocks * BLOCK as u64)
    }

    /// No file holds the disk's data.
    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    /// Called once for each queue, on the thread that serves it.
    fn engine(self: Arc<Self>, _site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(NumbersEngine))
    }
}

/// Serves the requests of one queue.
struct NumbersEngine;

impl Engine for NumbersEngine {
    /// An engine never blocks. This one answers at once; one that uses files returns `io.read_file(…)`, which is
    /// `Step::Pending`, and goes on in `Engine::resume`.
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        if piece.op != Op::Read {
            return Step::Done(Err(libc::EOPNOTSUPP));
        }
        let data = match io.data(&piece) {
            Ok(data) => data,
            Err(errno) => return Step::Done(Err(errno)),
        };
        data.fill(0);
        for (number, block) in (piece.offset / BLOCK as u64..).zip(data.chunks_mut(BLOCK)) {
            block[..8].copy_from_slice(&number.to_le_bytes());
        }
        Step::Done(Ok(piece.count()))
    }
}

fn main() -> Result<()> {
    let bound = Bound::standard();
    let spec = Spec { read_only: true, ..Spec::default() };
    let device = Device::create(&spec, Arc::new(Numbers { blocks: 2048 }), &bound, Arc::new(|_| {}))?;
    device.start(&bound)?;
    let path = format!("/dev/ublkb{}", device.id());
    println!(
        "block 2000 of {path} says {}",
        read(&path, 2000).map_err(|e| Error::system("cannot read the disk", &e))?
    );
    device.delete(false, &bound)
}

fn read(path: &str, block: u64) -> std::result::Result<u64, IoError> {
    let mut disk = std::fs::File::open(path)?;
    let mut number = [0; 8];
    disk.seek(SeekFrom::Start(block * BLOCK as u64))?;
    disk.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}
