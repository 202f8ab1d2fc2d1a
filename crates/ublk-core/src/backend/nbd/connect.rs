//! Connections: made and negotiated within a bounded time, by threads that may block.

use super::negotiate::{Export, Refusal, negotiate};
use super::protocol::{Command, REQUEST_LENGTH, Request, errno_of};
use super::replies::{Asked, Decoder, Event};
use super::uri::{Place, Uri};
use std::io::{self, IoSlice, Read, Write};
use std::mem::size_of;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A negotiated connection.
pub struct Connection {
    /// A stream socket of any family: what std's type does is the same for all of them.
    socket: TcpStream,
    pub export: Export,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Connection> for OwnedFd {
    fn from(connection: Connection) -> Self {
        connection.socket.into()
    }
}

impl Connection {
    /// Connects to the server and negotiates, in `limit` at most, apart from looking up a name. `silence`: for how long the other
    /// machine may be silent before the connection counts as lost.
    pub fn new(uri: &Uri, limit: Duration, silence: Duration) -> Result<Self, Refusal> {
        let until = Instant::now() + limit;
        let socket = match &uri.place {
            Place::Unix(path) => connect_unix(path, limit)?,
            Place::Tcp(host, port) => connect_tcp(host, *port, until, silence)?,
        };
        let mut bounded = Bounded { socket: &socket, until };
        // Holes of structured replies spare the network. Here each of their chunks costs servers and us some more system calls.
        let export = negotiate(&mut bounded, &uri.export, matches!(uri.place, Place::Tcp(..)))?;
        // From here on the ring waits for the socket.
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        Ok(Self { socket, export })
    }

    /// One that was used for requests, all of which are answered.
    pub fn again(socket: OwnedFd, export: Export) -> Self {
        Self { socket: socket.into(), export }
    }

    /// Asks for something without data to read, and waits for the answer until that time.
    pub fn call(&mut self, what: &Request, data: [&[u8]; 2], until: Instant) -> io::Result<()> {
        let mut bounded = Bounded { socket: &self.socket, until };
        let header: [u8; REQUEST_LENGTH] = what.encode();
        let mut parts = [IoSlice::new(&header), IoSlice::new(data[0]), IoSlice::new(data[1])];
        let mut parts = &mut parts[..];
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let sent = bounded.write_vectored(parts)?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut parts, sent);
        }
        let asked = |cookie| (cookie == what.cookie).then_some(Asked { offset: what.offset, reads: 0 });
        let (mut decoder, mut failed) = (Decoder::new(self.export.structured), 0);
        let mut room = [0; 256];
        loop {
            let come = bounded.read(&mut room)?;
            if come == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut input = &room[..come];
            while let Some(event) =
                decoder.next(&mut input, &asked).map_err(|violation| io::Error::other(violation.0))?
            {
                let Event::End { error, last, .. } = event else {
                    return Err(io::Error::other("it sent data that nobody asked for"));
                };
                failed = if failed == 0 { error } else { failed };
                if last && failed == 0 {
                    return Ok(());
                }
                if last {
                    return Err(io::Error::from_raw_os_error(errno_of(failed)));
                }
            }
        }
    }

    /// Has the server make durable all that was answered, until that time.
    pub fn flush(&mut self, until: Instant) -> io::Result<()> {
        let flush = Request { command: Command::Flush, flags: 0, cookie: 0, offset: 0, length: 0 };
        self.call(&flush, [&[], &[]], until)
    }

    /// Whether the server has not ended it, as far as is known without waiting. For one without requests.
    pub fn is_open(&self) -> bool {
        let _ = self.socket.set_nonblocking(true);
        let looked = self.socket.peek(&mut [0]);
        let _ = self.socket.set_nonblocking(false);
        matches!(looked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Says goodbye, without waiting.
    pub fn close(self) {
        let goodbye = Request { command: Command::Disconnect, flags: 0, cookie: 0, offset: 0, length: 0 };
        let _ = self.socket.set_nonblocking(true);
        let _ = (&self.socket).write(&goodbye.encode()); // the server sees the end of the connection, too
    }
}

/// A socket whose every wait ends at a time.
struct Bounded<'a> {
    socket: &'a TcpStream,
    until: Instant,
}

impl Bounded<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

fn in_time(result: io::Result<usize>) -> io::Result<usize> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })
}

impl Read for Bounded<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        in_time((&mut &*self.socket).read(into))
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        // Not writev(2), which raises SIGPIPE.
        let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
        in_time((&mut &*self.socket).write(first))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect_tcp(host: &str, port: u16, until: Instant, silence: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                watch(&socket, silence)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Has the kernel end a connection to a machine that does not answer any more.
fn watch(socket: &TcpStream, silence: Duration) -> io::Result<()> {
    let seconds = i32::try_from(silence.as_secs()).unwrap_or(i32::MAX).clamp(3, 3600);
    set(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, (seconds / 3).max(1))?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, (seconds / 3).max(1))?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 2)?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, seconds.saturating_mul(1000))
}

#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
fn set(socket: &TcpStream, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: an open socket, and an int that the call only reads.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// std's `UnixStream` would wait for ever where the server accepts no connection.
#[expect(clippy::cast_possible_truncation, reason = "a small number, and a few bytes")]
fn connect_unix(path: &Path, limit: Duration) -> io::Result<TcpStream> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else has.
    let socket = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    socket.set_write_timeout(Some(limit))?; // connect(2) minds it
    // SAFETY: all zeroes is an address of no family.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]); // signed on some machines
    }
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: an open socket, and an address that the call only reads.
    if unsafe { libc::connect(fd, (&raw const address).cast(), length) } == 0 {
        return Ok(socket);
    }
    in_time(Err(io::Error::last_os_error())).map(|_| socket)
}
