//! A disk that an NBD server has, through the queue's own ring. Each queue has a connection of its own.

mod asked;
mod connect;
mod engine;
mod fence;
mod helper;
mod hub;
mod incoming;
mod journal;
mod link;
mod negotiate;
mod outgoing;
mod protocol;
mod qemu;
mod replies;
mod silence;
mod standing;
#[cfg(test)]
mod tests;
mod uri;

pub use hub::Options as NbdOptions;
pub use qemu::Qemu;
pub use standing::{Servers as NbdServers, Standing as NbdStanding};

use super::{Backend, Discard, Engine, Properties, Site};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::number::to_usize;
use engine::NbdEngine;
use helper::Helper;
use hub::Hub;
use link::Link;
use negotiate::{Blocks, Export};
use protocol::ExportFlags;
use std::cell::RefCell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use uri::Uri;

/// Bytes: the most that is discarded at once, which is aligned for any block size.
const MOST_DISCARD: u64 = 1 << 30;
/// The largest request of any device.
const LARGEST: u32 = 1 << crate::abi::sys::UBLK_IO_BUF_BITS;

/// An export of an NBD server.
pub struct Nbd {
    hub: Arc<Hub>,
}

impl Nbd {
    /// Connects to the server that the URI names, within ten seconds (and the time that looking up a name takes), and
    /// negotiates. The first queue takes this connection.
    pub fn open(uri: &str, options: NbdOptions) -> Result<Self> {
        Self::of(Hub::open(Uri::parse(uri)?, None, options)?)
    }

    /// The same of a server of the disk's own, which is started for it, unless the disk exists and its server runs still. It
    /// ends with the disk.
    pub fn qemu(what: &Qemu, options: NbdOptions) -> Result<Self> {
        let helper = Helper::new(what.program(options.read_only))?;
        Self::of(Hub::open(helper.uri().clone(), Some(helper), options)?)
    }

    fn of(hub: Hub) -> Result<Self> {
        let Export { size, flags, blocks: Blocks { least, .. }, .. } = hub.export;
        let refused = |why: String| {
            Error::new(ErrorKind::Backend, format!("the NBD server at {} {why}", hub.uri.place))
        };
        if flags.has(ExportFlags::READ_ONLY) && !hub.read_only {
            let hint = crate::hint::Hint::from("make the disk read-only").by(Remedy::ReadOnly);
            return Err(refused("serves the export for reading only".into()).hint(hint));
        }
        if least > 4096 {
            return Err(refused(format!("has blocks of {least} bytes, and a disk at most 4096")));
        }
        if !size.is_multiple_of(u64::from(least.max(512))) {
            return Err(refused(format!("has {size} bytes, no multiple of its blocks")));
        }
        Ok(Self { hub: Arc::new(hub) })
    }

    /// Has a list name its server.
    pub fn listed(&self, servers: &NbdServers) {
        servers.add(&self.hub);
    }

    /// Checks that this is a URI of an NBD server.
    pub fn check_uri(uri: &str) -> Result<()> {
        Uri::parse(uri).map(drop)
    }
}

impl Backend for Nbd {
    fn properties(&self) -> Properties {
        let Export { flags, blocks: Blocks { least, preferred, most }, .. } = self.hub.export;
        let size = self.hub.size();
        let block_size = least.max(512);
        let able = |flag, most| if flags.has(flag) { most } else { 0 };
        let max = able(ExportFlags::SEND_TRIM, MOST_DISCARD);
        let max_write_zeroes = able(ExportFlags::SEND_WRITE_ZEROES, MOST_DISCARD);
        let discards = !self.hub.read_only && (max > 0 || max_write_zeroes > 0);
        Properties {
            size,
            block_size,
            write_cache: flags.has(ExportFlags::SEND_FLUSH),
            discard: discards.then_some(Discard {
                granularity: preferred.clamp(block_size, 1 << 20),
                alignment: 0,
                max,
                max_write_zeroes,
            }),
            // No request crosses a multiple of it, so none is longer.
            chunk: if most < LARGEST { 1 << most.max(block_size).ilog2() } else { 0 },
            optimal_io: if preferred > block_size { preferred } else { 0 },
            ..Properties::new(size)
        }
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.hub.helper().map_or_else(Vec::new, |helper| helper.images().places())
    }

    fn is_in_files(&self) -> bool {
        true // it is at the server
    }

    fn identity(&self) -> Result<String> {
        let (uri, size) = (&self.hub.uri, self.hub.size());
        Ok(format!("{size} bytes of {:?} at the NBD server {}", uri.export, uri.place))
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        if to_usize(site.max_io().into()) > self.hub.longest_write() {
            return Err(Error::new(ErrorKind::Invalid, "the journal is smaller than the largest request"));
        }
        let joined = self.hub.join(site.reporter())?;
        let slot = site.file(joined.socket.as_fd());
        let link = Rc::new(RefCell::new(Link::new(self.hub.clone(), joined, slot)));
        let line = site.line(link.clone());
        link.borrow().told_by(site.completer(), line);
        let (flags, durable) = (self.hub.export.flags, site.durable());
        Ok(Box::new(NbdEngine { link, line, flags, durable }))
    }

    /// To the size that its export has. What that has beyond the old end is the server's matter: it reads as zeroes where the export
    /// has grown.
    fn resize(&self, from: u64, to: u64) -> Result<()> {
        self.resize_told(from, to, &|_| Ok(()))
    }

    fn resize_told(&self, from: u64, to: u64, tell: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        self.hub.become_sized(to)?;
        if to < from {
            tell(to)?;
            self.hub.resized(to);
            return Ok(());
        }
        self.hub.resized(to);
        tell(to).inspect_err(|_| self.hub.resized(from))
    }

    fn let_go(&self) {
        // What fails here is found by the next server, which flushes when it connects.
        let _ = self.hub.finish();
        self.hub.helper().inspect(|helper| helper.leave());
    }

    fn close(&self) -> Result<()> {
        let finished = self.hub.finish();
        let ended = self.hub.helper().map_or(Ok(()), Helper::end);
        finished.and(ended)
    }
}
