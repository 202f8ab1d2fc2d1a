//! The size of the disk, and that of the export, which may have grown or shrunk.

use super::super::connect::Connection;
use super::super::negotiate::Export;
use super::super::protocol::ExportFlags;
use super::{CONNECT, Hub, told};
use crate::error::{Error, ErrorKind, Result};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

impl Hub {
    /// Bytes: the disk's size.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// The disk has another size, which the export has, too.
    pub fn resized(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    /// Whether the export that a server has now can be used as that of the disk.
    pub(super) fn fits(&self, now: &Export) -> std::result::Result<(), String> {
        if (Export { size: self.export.size, ..*now }) != self.export {
            return Err("it can do other things now".into());
        }
        let (has, disk) = (now.size, self.size());
        if has < disk {
            return Err(format!("it has {has} bytes now, fewer than the disk, which has {disk}"));
        }
        Ok(())
    }

    /// Checks that the export has this size now, and sees that all connections are of one that has. The server may know of it only
    /// on new connections: these are made while nothing is lost, since one that was made before tells that the server went on.
    pub fn become_sized(self: &Arc<Self>, size: u64) -> Result<()> {
        let at = &self.uri.place;
        let failed = |why: String| Error::new(ErrorKind::Backend, format!("the NBD server at {at} {why}"));
        let limit = CONNECT.min(self.timeout);
        let connection = Connection::new(&self.uri, limit, self.timeout)
            .map_err(|why| failed(format!("cannot be asked for its size: {}", told(&why))))?;
        let has = connection.export.size;
        if has != size {
            connection.close();
            return Err(failed(format!("has {has} bytes, not {size}"))
                .hint("the disk can only be resized to what the export has: resize that first"));
        }
        let until = Instant::now() + limit;
        let mut state = self.state();
        if size <= state.seen || state.members.is_empty() {
            connection.close();
            return Ok(());
        }
        if !state.broken {
            if let Some(idle) = state.idle.take() {
                idle.close();
            }
            state.witness = Some(connection);
            self.begin_again(&mut state, format!("the export at {at} has grown: it is connected to again"));
        }
        while state.broken || state.seen < size {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed("is not connected".into()));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Whether a connection, older than what was given up, makes durable what was answered there.
    pub(super) fn makes_durable(&self, mut witness: Connection) -> bool {
        let done = self.export.flags.has(ExportFlags::CAN_MULTI_CONN)
            && witness.flush(Instant::now() + CONNECT).is_ok();
        witness.close();
        done
    }
}
