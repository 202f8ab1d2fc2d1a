//! Writes a diff as a [stream](super).

use super::{Aside, DATA, END, MOST, ZEROES, head, header, zero_runs};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use ublk_core::backend::Sink;

/// See the [module](self).
pub struct StreamDiff<W> {
    output: W,
    aside: Aside,
    interrupter: Option<Arc<dyn Fn() + Send + Sync>>,
    extents: u64,
    bytes: u64,
}

impl<W: Write> StreamDiff<W> {
    /// To this output.
    pub fn new(output: W, aside: Aside) -> Self {
        Self { output, aside, interrupter: None, extents: 0, bytes: 0 }
    }

    /// With what lets a write to the output fail that blocks.
    #[must_use]
    pub fn interrupted_by(self, interrupter: impl Fn() + Send + Sync + 'static) -> Self {
        Self { interrupter: Some(Arc::new(interrupter)), ..self }
    }

    /// All has been put, and everything was written to the output, which is returned.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&head(END, self.extents, self.bytes, &[]))?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn extent(&mut self, kind: u32, offset: u64, length: usize, data: &[u8]) -> io::Result<()> {
        let length = length as u64;
        self.output.write_all(&head(kind, offset, length, data))?;
        self.output.write_all(data)?;
        self.extents += 1;
        self.bytes += length;
        Ok(())
    }
}

impl<W: Write> Sink for StreamDiff<W> {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        self.output.write_all(&header(size))
    }

    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        for (zero, range) in zero_runs(data, 4096) {
            let at = offset + range.start as u64;
            if zero {
                self.extent(ZEROES, at, range.len(), &[])?;
                continue;
            }
            for (part, data) in (0_u64..).zip(data[range].chunks(MOST)) {
                self.extent(DATA, at + part * MOST as u64, data.len(), data)?;
            }
        }
        Ok(())
    }

    fn aside(&self) -> io::Result<File> {
        self.aside.file()
    }

    fn interrupter(&self) -> Box<dyn Fn() + Send + Sync> {
        let interrupter = self.interrupter.clone();
        Box::new(move || {
            if let Some(interrupt) = &interrupter {
                interrupt();
            }
        })
    }
}
