//! Disks that NBD servers have.

use super::Device;
use crate::number::number;
use napi_derive::napi;
use ublk_core::backend::NbdStanding;

/// How it stands with the connections of such a disk.
#[napi(object)]
pub struct ServerConnection {
    /// How many servers have a part of the disk.
    pub servers: f64,
    /// With how many of them there is a connection.
    pub connected: f64,
    /// How often a connection was lost, and made again.
    pub lost: f64,
    pub reconnects: f64,
    /// How often writes may have been lost that a server had answered.
    pub losses: f64,
    /// Writes that were answered since the last flush.
    pub unflushed: f64,
    /// What the journals keep, in bytes and writes, and the most bytes that they can.
    pub journal_bytes: f64,
    pub journal_writes: f64,
    pub journal_max: f64,
}

impl From<NbdStanding> for ServerConnection {
    fn from(now: NbdStanding) -> Self {
        Self {
            servers: number(now.servers),
            connected: number(now.connected),
            lost: number(now.lost),
            reconnects: number(now.reconnects),
            losses: number(now.losses),
            unflushed: number(now.unflushed),
            journal_bytes: number(now.journal_bytes),
            journal_writes: number(now.journal_writes),
            journal_max: number(now.journal_max),
        }
    }
}

#[napi]
impl Device {
    /// How it stands with the disk's NBD servers; `null` if it has none.
    #[napi]
    pub fn connection(&self) -> Option<ServerConnection> {
        self.contents.nbd.standing().map(ServerConnection::from)
    }
}
