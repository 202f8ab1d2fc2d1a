//! The numbers of the protocol, and what a client sends. Source: the protocol's document, `doc/proto.md` of
//! NetworkBlockDevice/nbd.

/// What a server says first: `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Before each option, and, in the first greeting, what distinguishes newstyle: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before a simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// Before a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The handshake's flags, of server and client.
pub const FIXED_NEWSTYLE: u16 = 1;
pub const NO_ZEROES: u16 = 2;

/// Options.
pub const OPT_ABORT: u32 = 2;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED_REPLY: u32 = 8;

/// Replies to options. Those with the highest bit are errors.
pub const REP_ACK: u32 = 1;
pub const REP_INFO: u32 = 3;
pub const REP_ERROR: u32 = 1 << 31;

/// The kinds of information about an export.
pub const INFO_EXPORT: u16 = 0;
pub const INFO_BLOCK_SIZE: u16 = 3;

/// What a server says of an export: its transmission flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportFlags(pub u16);

impl ExportFlags {
    pub const HAS_FLAGS: Self = Self(1);
    pub const READ_ONLY: Self = Self(1 << 1);
    pub const SEND_FLUSH: Self = Self(1 << 2);
    pub const SEND_FUA: Self = Self(1 << 3);
    pub const ROTATIONAL: Self = Self(1 << 4);
    pub const SEND_TRIM: Self = Self(1 << 5);
    pub const SEND_WRITE_ZEROES: Self = Self(1 << 6);
    pub const CAN_MULTI_CONN: Self = Self(1 << 8);

    /// Whether all of these are set.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// Commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
}

/// The command's flags.
pub const COMMAND_FUA: u16 = 1;
pub const COMMAND_NO_HOLE: u16 = 1 << 1;

/// Chunks of structured replies. Those with the highest bit are errors.
pub const CHUNK_NONE: u16 = 0;
pub const CHUNK_DATA: u16 = 1;
pub const CHUNK_HOLE: u16 = 2;
pub const CHUNK_ERROR: u16 = 1 << 15 | 1;
pub const CHUNK_ERROR_OFFSET: u16 = 1 << 15 | 2;
/// No other chunk follows.
pub const CHUNK_DONE: u16 = 1;

/// Bytes of a request's header.
pub const REQUEST_LENGTH: usize = 28;

/// A request, without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub command: Command,
    pub flags: u16,
    /// The client's name for it.
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

impl Request {
    /// As it is sent.
    pub fn encode(&self) -> [u8; REQUEST_LENGTH] {
        let mut bytes = [0; REQUEST_LENGTH];
        let command = self.command as u16;
        bytes[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&command.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }
}

/// The error number of this system for one of the protocol's, which are those of Linux as far as it has some.
pub fn errno_of(error: u32) -> i32 {
    match error {
        1 => libc::EPERM,
        5 => libc::EIO,
        12 => libc::ENOMEM,
        22 => libc::EINVAL,
        28 => libc::ENOSPC,
        75 => libc::EOVERFLOW,
        95 => libc::EOPNOTSUPP,
        108 => libc::ESHUTDOWN,
        _ => libc::EIO,
    }
}

/// The big-endian numbers at the beginning of `bytes`.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_28_bytes_in_network_order() {
        let request = Request {
            command: Command::WriteZeroes,
            flags: COMMAND_FUA | COMMAND_NO_HOLE,
            cookie: 0x0102_0304_0506_0708,
            offset: 1 << 40,
            length: 4096,
        };
        let bytes = request.encode();
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 3, 0, 6]);
        assert_eq!(bytes[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[16..], [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 16, 0]);
    }
}
