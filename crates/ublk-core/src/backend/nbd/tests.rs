//! The backend with a server of the tests, which loses connections, and what it has not flushed, as it is told.

use super::protocol::{
    CHUNK_DATA, CHUNK_DONE, CHUNK_HOLE, CHUNK_MAGIC, Command, INIT_MAGIC, OPT_GO, OPT_STRUCTURED_REPLY,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, REP_ACK, REP_ERROR, REP_INFO, SIMPLE_MAGIC, u16_at, u32_at, u64_at,
};
use super::{Nbd, NbdOptions};
use crate::backend::testing::Bench;
use crate::backend::{Backend, Flags, Op};
use crate::number::to_usize;
use crate::queue::{Descriptor, Outcome};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

mod silence;
mod sized;
mod standing;

const SIZE: usize = 1 << 20;

/// What the server has, and how it is to behave.
struct Shop {
    /// What it answers with, and what a crash leaves.
    now: Mutex<Vec<u8>>,
    durable: Mutex<Vec<u8>>,
    structured: bool,
    /// What it tells on new connections; on each, it serves what it has told there.
    size: AtomicU64,
    flags: std::sync::atomic::AtomicU16,
    /// After how many more requests it ends all connections, and loses what was not flushed.
    crash_after: Mutex<Option<u32>>,
    connections: Mutex<Vec<UnixStream>>,
    /// It ends every new connection at once.
    closed: AtomicBool,
    /// It does nothing with requests that it has read, nor with new connections.
    stopped: AtomicBool,
    /// Milliseconds: for so long it does nothing with requests that it had read when it goes on.
    slow: AtomicU64,
    /// How many writes it has done.
    writes: AtomicU64,
}

struct Server {
    shop: Arc<Shop>,
    uri: String,
    _dir: tempfile::TempDir,
}

const FLUSH: u16 = 1 | 1 << 2;
const FUA: u16 = 1 << 3;
const ALL: u16 = FLUSH | FUA | 1 << 5 | 1 << 6 | 1 << 8;

/// Waits for the next client.
type Accept = Box<dyn Fn() -> io::Result<UnixStream> + Send>;

impl Server {
    /// One with structured replies is asked for them over a network alone.
    fn new(structured: bool, flags: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (accept, uri): (Accept, _) = if structured {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            // What this type of stream does is the same for all sockets.
            let accept = move || Ok(UnixStream::from(OwnedFd::from(listener.accept()?.0)));
            (Box::new(accept), format!("nbd://127.0.0.1:{port}/disk"))
        } else {
            let listener = UnixListener::bind(&path).unwrap();
            let accept = move || Ok(listener.accept()?.0);
            (Box::new(accept), format!("nbd+unix:///disk?socket={}", path.display()))
        };
        let shop = Arc::new(Shop {
            now: Mutex::new(vec![0; 2 * SIZE]),
            durable: Mutex::new(vec![0; 2 * SIZE]),
            structured,
            size: AtomicU64::new(SIZE as u64),
            flags: flags.into(),
            crash_after: Mutex::default(),
            connections: Mutex::default(),
            closed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            slow: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        });
        let serving = shop.clone();
        thread::spawn(move || {
            loop {
                let (Ok(stream), shop) = (accept(), serving.clone()) else { return };
                if shop.closed.load(SeqCst) {
                    continue;
                }
                let other = stream.try_clone().unwrap();
                shop.connections.lock().unwrap().push(stream.try_clone().unwrap());
                thread::spawn(move || {
                    let ended = shop.serve(stream);
                    let _ = other.shutdown(std::net::Shutdown::Both);
                    ended
                });
            }
        });
        Self { shop, uri, _dir: dir }
    }

    fn open(&self, journal: u64) -> Arc<Nbd> {
        let timeout = Duration::from_secs(20);
        let options = NbdOptions { read_only: false, existing: false, timeout, journal };
        Arc::new(Nbd::open(&self.uri, options).unwrap())
    }
}

impl Shop {
    fn crash(&self) {
        let durable = self.durable.lock().unwrap().clone();
        *self.now.lock().unwrap() = durable;
        for stream in self.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        self.wait_while_stopped();
        let size = self.size.load(SeqCst);
        let numbers = [&INIT_MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &[0, 3]].concat();
        stream.write_all(&numbers)?;
        stream.read_exact(&mut [0; 4])?;
        loop {
            let mut head = [0; 16];
            stream.read_exact(&mut head)?;
            let (option, length) = (u32_at(&head, 8).unwrap(), u32_at(&head, 12).unwrap());
            let mut data = vec![0; length as usize];
            stream.read_exact(&mut data)?;
            let mut reply = |kind: u32, data: &[u8]| {
                let length = u32::try_from(data.len()).unwrap();
                let numbers = [option, kind, length].map(u32::to_be_bytes).concat();
                stream.write_all(&[&OPTION_REPLY_MAGIC.to_be_bytes()[..], &numbers, data].concat())
            };
            match option {
                OPT_STRUCTURED_REPLY if self.structured => reply(REP_ACK, &[])?,
                OPT_GO => {
                    let told =
                        [&[0, 0][..], &size.to_be_bytes(), &self.flags.load(SeqCst).to_be_bytes()].concat();
                    reply(REP_INFO, &told)?;
                    reply(REP_ACK, &[])?;
                    break;
                }
                _ => reply(REP_ERROR | 1, &[])?,
            }
        }
        while self.request(&mut stream, to_usize(size))? {}
        Ok(())
    }

    /// Whether it had to.
    fn wait_while_stopped(&self) -> bool {
        let stopped = self.stopped.load(SeqCst);
        while self.stopped.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        stopped
    }

    fn request(&self, stream: &mut UnixStream, size: usize) -> io::Result<bool> {
        let mut head = [0; 28];
        stream.read_exact(&mut head)?;
        let (flags, command) = (u16_at(&head, 4).unwrap(), u16_at(&head, 6).unwrap());
        let (offset, length) = (to_usize(u64_at(&head, 16).unwrap()), u32_at(&head, 24).unwrap() as usize);
        let cookie: [u8; 8] = head[8..16].try_into().unwrap();
        let mut data = vec![0; if command == Command::Write as u16 { length } else { 0 }];
        stream.read_exact(&mut data)?;
        if self.wait_while_stopped() {
            thread::sleep(Duration::from_millis(self.slow.load(SeqCst)));
        }
        {
            let mut left = self.crash_after.lock().unwrap();
            if let Some(count) = left.as_mut() {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    *left = None;
                    // Still locked: no other connection's request comes between.
                    self.crash();
                    return Ok(false);
                }
            }
        }
        let (mut now, range) = (self.now.lock().unwrap(), offset..offset + length);
        let simple = [&SIMPLE_MAGIC.to_be_bytes()[..], &[0; 4], &cookie].concat();
        if range.end > size {
            stream.write_all(&[&SIMPLE_MAGIC.to_be_bytes()[..], &[0, 0, 0, 22], &cookie].concat())?;
            return Ok(true);
        }
        match command {
            0 if self.structured => {
                // The second half first, and zeroes as a hole.
                let half = length / 2 / 512 * 512;
                for (at, end, done) in [(half, length, half == 0), (0, half, true)] {
                    let bytes = &now[offset + at..offset + end];
                    if bytes.is_empty() {
                        continue;
                    }
                    let place = ((offset + at) as u64).to_be_bytes();
                    let zeroes = bytes.iter().all(|byte| *byte == 0);
                    let long = u32::try_from(bytes.len()).unwrap().to_be_bytes();
                    let (kind, data) = if zeroes {
                        (CHUNK_HOLE, [&place[..], &long].concat())
                    } else {
                        (CHUNK_DATA, [&place[..], bytes].concat())
                    };
                    let flag = if done { CHUNK_DONE } else { 0 };
                    let head = [
                        &CHUNK_MAGIC.to_be_bytes()[..],
                        &flag.to_be_bytes(),
                        &kind.to_be_bytes(),
                        &cookie,
                        &u32::try_from(data.len()).unwrap().to_be_bytes(),
                    ];
                    stream.write_all(&[head.concat(), data].concat())?;
                }
                return Ok(true);
            }
            0 => stream.write_all(&[&simple, &now[range]].concat())?,
            1 => {
                now[range.clone()].copy_from_slice(&data);
                self.writes.fetch_add(1, SeqCst);
            }
            2 => return Ok(false),
            3 => self.durable.lock().unwrap().copy_from_slice(&now),
            4 | 6 => now[range.clone()].fill(0),
            _ => panic!("command {command}"),
        }
        if flags & 1 != 0 {
            let range = offset..offset + length;
            self.durable.lock().unwrap()[range.clone()].copy_from_slice(&now[range]);
        }
        if command != 0 {
            stream.write_all(&simple)?;
        }
        Ok(true)
    }
}

/// Serves until these tags are answered.
fn finish(bench: &mut Bench, tags: &[u16]) -> Vec<(u16, Outcome)> {
    let (mut answers, until) = (Vec::new(), Instant::now() + Duration::from_secs(30));
    while answers.len() < tags.len() {
        assert!(Instant::now() < until, "nothing comes");
        let new = bench.turn();
        if new.is_empty() {
            thread::sleep(Duration::from_micros(100));
        }
        answers.extend(new);
    }
    answers.sort_unstable_by_key(|(tag, _)| *tag);
    answers
}

fn ask(bench: &mut Bench, tag: u16, what: Descriptor) -> Outcome {
    match bench.start(tag, what) {
        Some(outcome) => outcome,
        None => finish(bench, &[tag])[0].1,
    }
}

fn write(bench: &mut Bench, tag: u16, offset: u64, byte: u8, length: usize) -> Outcome {
    bench.buffer(tag)[..length].fill(byte);
    ask(bench, tag, Descriptor::new(Op::Write, offset, length as u64))
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn what_is_written_is_read_with_simple_and_structured_replies() {
    for structured in [false, true] {
        let server = Server::new(structured, ALL);
        let mut bench = Bench::new(server.open(0), 4, 256 << 10);
        for (at, length) in [(0, 4096), (4096, 200 << 10), (1 << 19, 256 << 10), (512, 512)] {
            let byte = u8::try_from(at >> 12).unwrap_or(7) | 1;
            assert_eq!(write(&mut bench, 0, at, byte, length), Ok(u32::try_from(length).unwrap()));
            bench.buffer(1).fill(9);
            let read = Descriptor::new(Op::Read, at, length as u64);
            assert_eq!(ask(&mut bench, 1, read), Ok(u32::try_from(length).unwrap()));
            assert!(bench.buffer(1)[..length].iter().all(|found| *found == byte), "{at} {structured}");
        }
        assert_eq!(ask(&mut bench, 0, Descriptor::new(Op::WriteZeroes, 0, 8192)), Ok(0));
        bench.buffer(2).fill(9);
        assert_eq!(ask(&mut bench, 2, Descriptor::new(Op::Read, 0, 16384)), Ok(16384));
        assert!(bench.buffer(2)[..8192].iter().all(|found| *found == 0));
        assert!(bench.buffer(2)[8192..16384].iter().all(|found| *found == 1));
        assert_eq!(ask(&mut bench, 0, Descriptor::new(Op::Flush, 0, 0)), Ok(0));
        assert_eq!(*server.shop.now.lock().unwrap(), *server.shop.durable.lock().unwrap());
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_durable_write_is_durable_with_a_server_that_can_only_flush() {
    for flags in [FLUSH, FLUSH | FUA] {
        let server = Server::new(false, flags);
        let mut bench = Bench::without_write_cache(server.open(0), 4, 4096);
        assert_eq!(write(&mut bench, 0, 0, 5, 4096), Ok(4096));
        assert_eq!(server.shop.durable.lock().unwrap()[..4096], [5; 4096]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn after_a_lost_connection_the_next_flush_fails_once_if_writes_were_not_flushed() {
    let server = Server::new(true, ALL);
    let mut bench = Bench::new(server.open(0), 4, 4096);
    let flush = Descriptor::new(Op::Flush, 0, 0);
    assert_eq!(write(&mut bench, 0, 0, 1, 4096), Ok(4096));
    server.shop.crash();
    // The request that finds it out is sent again.
    assert_eq!(write(&mut bench, 0, 4096, 2, 4096), Ok(4096));
    assert_eq!(ask(&mut bench, 1, flush), Err(libc::EIO));
    assert_eq!(ask(&mut bench, 1, flush), Ok(0));
    server.shop.crash();
    assert_eq!(write(&mut bench, 0, 8192, 3, 4096), Ok(4096));
    assert_eq!(ask(&mut bench, 1, flush), Ok(0), "all was flushed before");
}

/// Each of them has a client that is told that its writes are kept.
#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn flushes_of_all_queues_that_were_under_way_fail_when_writes_may_be_lost() {
    let server = Server::new(true, ALL);
    let disk = server.open(0);
    let mut benches = [(); 2].map(|()| Bench::new(disk.clone(), 4, 4096));
    let flush = Descriptor::new(Op::Flush, 0, 0);
    for (at, bench) in (0..).zip(&mut benches) {
        assert_eq!(write(bench, 0, at * 4096, 1, 4096), Ok(4096));
    }
    *server.shop.crash_after.lock().unwrap() = Some(1);
    for bench in &mut benches {
        assert_eq!(bench.start(1, flush), None);
    }
    let (mut answers, until) = ([None; 2], Instant::now() + Duration::from_secs(30));
    while answers.contains(&None) {
        assert!(Instant::now() < until, "nothing comes");
        for (bench, answer) in benches.iter_mut().zip(&mut answers) {
            if let Some((_, outcome)) = bench.turn().first() {
                *answer = Some(*outcome);
            }
        }
        thread::sleep(Duration::from_micros(100));
    }
    assert_eq!(answers, [Some(Err(libc::EIO)); 2]);
    for bench in &mut benches {
        assert_eq!(ask(bench, 1, flush), Ok(0));
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_journal_brings_back_what_a_server_has_lost() {
    let server = Server::new(true, ALL);
    let mut bench = Bench::new(server.open(64 << 10), 4, 4096);
    for round in 0..60_u8 {
        assert_eq!(write(&mut bench, 0, u64::from(round) * 4096, round + 1, 4096), Ok(4096));
        if round % 7 == 0 {
            server.shop.crash();
        }
    }
    assert_eq!(ask(&mut bench, 1, Descriptor::new(Op::Flush, 0, 0)), Ok(0));
    let durable = server.shop.durable.lock().unwrap();
    for round in 0..60_usize {
        assert_eq!(usize::from(durable[round * 4096]), round + 1);
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn requests_wait_for_a_server_that_comes_back_and_fail_after_their_time() {
    let server = Server::new(false, ALL);
    let options = |timeout| NbdOptions { read_only: false, existing: false, timeout, journal: 0 };
    let disk = Arc::new(Nbd::open(&server.uri, options(Duration::from_millis(400))).unwrap());
    let mut bench = Bench::new(disk, 4, 4096);
    assert_eq!(write(&mut bench, 0, 0, 1, 4096), Ok(4096));
    server.shop.closed.store(true, SeqCst);
    server.shop.crash();
    assert_eq!(write(&mut bench, 0, 0, 2, 4096), Err(libc::EIO));
    server.shop.closed.store(false, SeqCst);
    let until = Instant::now() + Duration::from_secs(20);
    while write(&mut bench, 0, 0, 3, 4096).is_err() {
        assert!(Instant::now() < until, "it does not come back");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_server_that_comes_back_as_another_one_is_not_used() {
    let server = Server::new(false, ALL);
    let options = |timeout| NbdOptions { read_only: false, existing: false, timeout, journal: 0 };
    let disk = Arc::new(Nbd::open(&server.uri, options(Duration::from_millis(300))).unwrap());
    let mut bench = Bench::new(disk, 4, 4096);
    assert_eq!(write(&mut bench, 0, 0, 1, 4096), Ok(4096));
    server.shop.flags.store(FLUSH, SeqCst);
    server.shop.crash();
    assert_eq!(write(&mut bench, 0, 0, 2, 4096), Err(libc::EIO));
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_disk_of_a_server_without_multi_conn_has_one_queue() {
    let server = Server::new(false, FLUSH);
    let disk = server.open(0);
    let _first = Bench::new(disk.clone(), 4, 4096);
    let waker = crate::queue::Waker::new().unwrap();
    let (completer, reporter) = (crate::queue::Completer::new(waker), crate::report::Reporter::new(|_| {}));
    let mut site = crate::backend::Site::new(4, 4096, false, completer, reporter);
    let refused = disk.engine(&mut site).map(drop).unwrap_err();
    assert!(refused.to_string().contains("CAN_MULTI_CONN"), "{refused}");
}

/// With many requests in flight, over crashes at any request: with a journal nothing fails and nothing is lost; without one,
/// each flush that succeeds keeps its promise.
#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn crashes_under_load_lose_nothing_silently() {
    for (journal, seed) in [(0, 1_u64), (96 << 10, 2), (0, 3), (96 << 10, 4)] {
        let server = Server::new(seed % 2 == 0, ALL);
        let mut bench = Bench::new(server.open(journal), 16, 8192);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        // Each tag has a range of its own, so that the order of its writes is known.
        let mut model = [[0_u8; 8]; 15];
        for round in 0..40_u8 {
            if next(3) == 0 {
                *server.shop.crash_after.lock().unwrap() = Some(u32::try_from(next(20)).unwrap() + 1);
            }
            let (mut tags, mut answers) = (Vec::new(), Vec::new());
            for tag in 0..15_u16 {
                let block = to_usize(next(8));
                let offset = (usize::from(tag) * 8 + block) as u64 * 8192;
                let byte = round.wrapping_mul(3) | 1;
                bench.buffer(tag).fill(byte);
                model[usize::from(tag)][block] = byte;
                let mut what = Descriptor::new(Op::Write, offset, 8192);
                if next(5) == 0 {
                    what.flags = Flags::FUA;
                }
                match bench.start(tag, what) {
                    Some(outcome) => answers.push((tag, outcome)),
                    None => tags.push(tag),
                }
            }
            answers.extend(finish(&mut bench, &tags));
            assert!(answers.iter().all(|(_, outcome)| *outcome == Ok(8192)), "{answers:?}");
            let flushed = ask(&mut bench, 15, Descriptor::new(Op::Flush, 0, 0));
            assert!(flushed.is_ok() || journal == 0);
            if flushed.is_err() {
                // As a client would: it writes everything once more.
                for (tag, blocks) in (0_u64..).zip(&model) {
                    for (block, byte) in (0_u64..).zip(blocks) {
                        write(&mut bench, 0, (tag * 8 + block) * 8192, *byte, 8192).unwrap();
                    }
                }
                continue;
            }
            let durable = server.shop.durable.lock().unwrap();
            for (tag, blocks) in model.iter().enumerate() {
                for (block, byte) in blocks.iter().enumerate() {
                    let at = (tag * 8 + block) * 8192;
                    assert!(
                        durable[at..at + 8192].iter().all(|found| found == byte),
                        "tag {tag} block {block}"
                    );
                }
            }
        }
    }
}
