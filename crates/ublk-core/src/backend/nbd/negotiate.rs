//! The handshake: newstyle, until the server has told of the export. Pure: it reads and writes any stream, whose owner bounds
//! the time. What a server may make a client keep or read is bounded here.

use super::protocol::{
    ExportFlags, FIXED_NEWSTYLE, INFO_BLOCK_SIZE, INFO_EXPORT, INIT_MAGIC, NO_ZEROES, OPT_ABORT, OPT_GO,
    OPT_STRUCTURED_REPLY, OPTION_MAGIC, OPTION_REPLY_MAGIC, REP_ACK, REP_ERROR, REP_INFO, u16_at, u32_at,
    u64_at,
};
use std::io::{self, Read, Write};

/// Bytes: the longest name of an export.
pub const LONGEST_NAME: usize = 4096;
/// Bytes: the longest reply to an option that is read.
const LONGEST_REPLY: u32 = 64 << 10;
/// How many replies to one option are read.
const MOST_REPLIES: usize = 64;
/// What a client has to assume if the server tells no limit.
const USUAL_MOST: u32 = 32 << 20;

/// What a server says about an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    pub flags: ExportFlags,
    /// Whether replies are structured.
    pub structured: bool,
    pub blocks: Blocks,
}

/// The sizes of requests that an export takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Every offset and length is a multiple of this: a power of two.
    pub least: u32,
    /// Requests of this size cost least; a power of two.
    pub preferred: u32,
    /// The most data of a request.
    pub most: u32,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Refusal {
    /// The stream has failed.
    Io(io::Error),
    /// The server refuses: in its words, or ours.
    Refused(String),
    /// It speaks something else.
    Strange(&'static str),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Negotiates with the server at the other end until it serves the export.
pub fn negotiate(stream: &mut (impl Read + Write), name: &str, structured: bool) -> Result<Export, Refusal> {
    let greeting = exactly::<18>(stream)?;
    let (magic, second) = (u64_at(&greeting, 0), u64_at(&greeting, 8));
    if magic != Some(INIT_MAGIC) {
        return Err(Refusal::Strange("it is no NBD server"));
    }
    let flags = u16_at(&greeting, 16).unwrap_or_default();
    if second != Some(OPTION_MAGIC) || flags & FIXED_NEWSTYLE == 0 {
        return Err(Refusal::Strange("it speaks an old form of the protocol, which has no options"));
    }
    let ours = FIXED_NEWSTYLE | flags & NO_ZEROES;
    stream.write_all(&u32::from(ours).to_be_bytes())?;
    let structured = structured && ask(stream, OPT_STRUCTURED_REPLY, &[], |_, _| Ok(()))?.is_ok();
    let mut found = Found::default();
    let mut wants = Vec::with_capacity(name.len() + 8);
    #[expect(clippy::cast_possible_truncation, reason = "at most LONGEST_NAME")]
    wants.extend((name.len().min(LONGEST_NAME) as u32).to_be_bytes());
    wants.extend(name.bytes().take(LONGEST_NAME));
    wants.extend(1_u16.to_be_bytes());
    wants.extend(INFO_BLOCK_SIZE.to_be_bytes());
    if let Err(why) = ask(stream, OPT_GO, &wants, |_, data| found.told(data))? {
        let _ = stream.write_all(&option(OPT_ABORT, &[])); // it is only polite
        return Err(Refusal::Refused(why));
    }
    let (size, flags) = found.export.ok_or(Refusal::Strange("it did not tell the size of the export"))?;
    if !flags.has(ExportFlags::HAS_FLAGS) {
        return Err(Refusal::Strange("it did not tell what the export can do"));
    }
    let blocks = found.blocks.unwrap_or(Blocks { least: 1, preferred: 4096, most: USUAL_MOST });
    Ok(Export { size, flags, structured, blocks })
}

#[derive(Default)]
struct Found {
    export: Option<(u64, ExportFlags)>,
    blocks: Option<Blocks>,
}

impl Found {
    fn told(&mut self, data: &[u8]) -> Result<(), Refusal> {
        match u16_at(data, 0) {
            Some(INFO_EXPORT) => {
                let (Some(size), Some(flags), 12) = (u64_at(data, 2), u16_at(data, 10), data.len()) else {
                    return Err(Refusal::Strange("it told the size of the export in a wrong form"));
                };
                self.export = Some((size, ExportFlags(flags)));
            }
            Some(INFO_BLOCK_SIZE) => {
                let (Some(least), Some(preferred), Some(most), 14) =
                    (u32_at(data, 2), u32_at(data, 6), u32_at(data, 10), data.len())
                else {
                    return Err(Refusal::Strange("it told its block sizes in a wrong form"));
                };
                let powers = least.is_power_of_two() && preferred.is_power_of_two();
                if !powers || least > 1 << 16 || most < least {
                    return Err(Refusal::Strange("its block sizes make no sense"));
                }
                self.blocks = Some(Blocks { least, preferred, most });
            }
            Some(_) => {} // nothing that was asked for
            None => return Err(Refusal::Strange("it told something empty of the export")),
        }
        Ok(())
    }
}

/// Sends an option, and reads what is replied to it until the end. `Err` in the result: the server's refusal, in its words.
fn ask(
    stream: &mut (impl Read + Write),
    what: u32,
    data: &[u8],
    mut info: impl FnMut(u32, &[u8]) -> Result<(), Refusal>,
) -> Result<Result<(), String>, Refusal> {
    stream.write_all(&option(what, data))?;
    for _ in 0..MOST_REPLIES {
        let header = exactly::<20>(stream)?;
        let (magic, to) = (u64_at(&header, 0), u32_at(&header, 8));
        if magic != Some(OPTION_REPLY_MAGIC) || to != Some(what) {
            return Err(Refusal::Strange("it replied to something that was not asked"));
        }
        let kind = u32_at(&header, 12).unwrap_or_default();
        let length = u32_at(&header, 16).unwrap_or_default();
        if length > LONGEST_REPLY {
            return Err(Refusal::Strange("it replied with too many bytes to an option"));
        }
        let mut data = Vec::new();
        let read = Read::by_ref(stream).take(length.into()).read_to_end(&mut data)?;
        if read != length as usize {
            return Err(Refusal::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        match kind {
            REP_ACK => return Ok(Ok(())),
            REP_INFO => info(kind, &data)?,
            kind if kind & REP_ERROR != 0 => return Ok(Err(refusal(kind, &data))),
            _ => return Err(Refusal::Strange("it replied something unknown to an option")),
        }
    }
    Err(Refusal::Strange("it replied too often to an option"))
}

fn option(what: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(data.len() + 16);
    bytes.extend(OPTION_MAGIC.to_be_bytes());
    bytes.extend(what.to_be_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "the option is short")]
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// What an error means, with the server's words if it has some, in one printable line.
fn refusal(kind: u32, data: &[u8]) -> String {
    let means = match kind & !REP_ERROR {
        1 => "it does not know what was asked",
        2 => "its rules forbid it",
        3 => "it found the request wrong",
        4 => "its platform cannot do it",
        5 => "it demands TLS, which is not supported",
        6 => "it has no such export",
        7 => "it is shutting down",
        8 => "it demands that its block sizes are used",
        9 => "the name is too long for it",
        _ => "for a reason that it has no known number for",
    };
    let said = String::from_utf8_lossy(&data[..data.len().min(200)]);
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if said.trim().is_empty() { means.into() } else { format!("{means} ({:?})", said.trim()) }
}

fn exactly<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a server sends, whatever it is asked.
    struct Deaf<'a> {
        says: &'a [u8],
        heard: Vec<u8>,
    }

    impl Read for Deaf<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.says.read(into)
        }
    }

    impl Write for Deaf<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn greeting() -> Vec<u8> {
        [&INIT_MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &3_u16.to_be_bytes()].concat()
    }

    fn reply(to: u32, kind: u32, data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap();
        let numbers = [to, kind, length].map(u32::to_be_bytes).concat();
        [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &numbers, data].concat()
    }

    fn export(size: u64, flags: u16) -> Vec<u8> {
        let told = [&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
        reply(OPT_GO, REP_INFO, &told)
    }

    fn blocks(least: u32, preferred: u32, most: u32) -> Vec<u8> {
        let told = [&[0, 3][..], &[least, preferred, most].map(u32::to_be_bytes).concat()].concat();
        reply(OPT_GO, REP_INFO, &told)
    }

    fn with(says: &[Vec<u8>]) -> Result<Export, Refusal> {
        negotiate(&mut Deaf { says: &says.concat(), heard: Vec::new() }, "disk", true)
    }

    #[test]
    fn a_server_tells_size_flags_and_block_sizes() {
        let ack = |to| reply(to, REP_ACK, &[]);
        let says = [
            greeting(),
            ack(OPT_STRUCTURED_REPLY),
            blocks(512, 4096, 1 << 25),
            export(1 << 30, 0x10d),
            ack(OPT_GO),
        ];
        let blocks = Blocks { least: 512, preferred: 4096, most: 1 << 25 };
        let found = with(&says).unwrap();
        assert_eq!(found, Export { size: 1 << 30, flags: ExportFlags(0x10d), structured: true, blocks });
        let mut stream = Deaf { says: &says.concat(), heard: Vec::new() };
        negotiate(&mut stream, "disk", true).unwrap();
        let go = [&4_u32.to_be_bytes()[..], b"disk", &[0, 1, 0, 3]].concat();
        let asked = [&3_u32.to_be_bytes()[..], &option(OPT_STRUCTURED_REPLY, &[]), &option(OPT_GO, &go)];
        assert_eq!(stream.heard, asked.concat());
    }

    #[test]
    fn a_server_without_structured_replies_or_block_sizes_is_served_all_the_same() {
        let unknown = reply(OPT_STRUCTURED_REPLY, REP_ERROR | 1, b"");
        let found = with(&[greeting(), unknown, export(512, 1), reply(OPT_GO, REP_ACK, &[])]).unwrap();
        assert_eq!((found.structured, found.blocks.most), (false, 32 << 20));
    }

    #[test]
    fn what_a_server_refuses_is_told_in_one_line() {
        let ack = reply(OPT_STRUCTURED_REPLY, REP_ACK, &[]);
        let refused = with(&[greeting(), ack, reply(OPT_GO, REP_ERROR | 6, b"no\n'disk'\x1b[31m")]);
        let Err(Refusal::Refused(why)) = refused else { panic!("{refused:?}") };
        assert_eq!(why, "it has no such export (\"no 'disk' [31m\")");
    }

    #[test]
    fn other_servers_are_recognized() {
        let ssh = b"SSH-2.0-OpenSSH_9.2p1 Debian".to_vec();
        assert!(matches!(with(&[ssh]), Err(Refusal::Strange("it is no NBD server"))));
        let old =
            [&INIT_MAGIC.to_be_bytes()[..], &0x0000_4202_8186_1253_u64.to_be_bytes(), &[0; 140]].concat();
        assert!(matches!(with(&[old]), Err(Refusal::Strange(_))));
        assert!(matches!(with(&[greeting()]), Err(Refusal::Io(_))));
        let long = reply(OPT_STRUCTURED_REPLY, REP_ACK, &[0; 70_000]);
        assert!(matches!(with(&[greeting(), long]), Err(Refusal::Strange(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_understood_without_a_panic(
            tail in prop::collection::vec(any::<u8>(), 0..400),
            cut in 0_usize..200,
            flips in prop::collection::vec((0_usize..200, any::<u8>()), 0..6),
        ) {
            let ack = |to| reply(to, REP_ACK, &[]);
            let mut says = [
                greeting(), ack(OPT_STRUCTURED_REPLY), blocks(1, 4096, 1 << 25), export(1 << 20, 1), ack(OPT_GO),
            ].concat();
            for (at, with) in flips {
                if let Some(byte) = says.get_mut(at) {
                    *byte ^= with;
                }
            }
            says.truncate(cut);
            says.extend(tail);
            let mut stream = Deaf { says: &says, heard: Vec::new() };
            if let Ok(export) = negotiate(&mut stream, "", true) {
                prop_assert!(export.blocks.least.is_power_of_two() && export.blocks.least <= export.blocks.most);
            }
            // It asks for little, whatever it hears.
            prop_assert!(stream.heard.len() < 128);
        }
    }
}
