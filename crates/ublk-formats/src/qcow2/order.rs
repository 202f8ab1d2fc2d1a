//! The order in which an image's writes become durable.
//!
//! imago writes blocks of reference counts before the mappings that need them, and the other way round when it frees
//! clusters, but it neither waits for one to be durable before it writes the other, nor does it write the count of a new
//! table before the pointer to that table. Here, at the only place through which imago writes, both are made up for:
//!
//! - Data that imago copies, and reference counts, are durable before mappings are written. Mappings are durable before
//!   smaller reference counts are written.
//! - Before a pointer to a new table is written, to the L1 table or the refcount table, the count of that table's cluster
//!   is written if it is still 0, and everything is durable.
//!
//! If the order is kept, an image whose server was killed, or whose machine lost power, at any time, has no errors: at
//! most clusters that are counted and not used.

use super::header::{Header, Table};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Where an L1 entry, an entry of the refcount table, and an L2 entry have an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What a write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of the disk, or a table to which nothing points yet.
    Data = 1,
    /// A block of reference counts.
    Counts = 2,
    /// An L2 table.
    Mappings = 4,
    /// The header, or an entry of the L1 table or the refcount table.
    Pointer = 8,
}

/// See the [module](self).
pub struct Order {
    file: Arc<File>,
    cluster_bits: u32,
    refcount_order: u32,
    l1: Table,
    refcounts: Table,
    /// The offsets of the blocks of reference counts, as in the refcount table.
    blocks: Vec<u64>,
    is_block: HashSet<u64>,
    l2: HashSet<u64>,
    /// The kinds of writes since the last sync.
    unsynced: u8,
    /// Data and counts are made durable by each write, so that mappings can be written without a sync of the whole file.
    durably: bool,
    failed: bool,
    /// The image is open: its header is not written as a whole any more.
    opened: bool,
    /// Gets every write, for tests.
    #[cfg(test)]
    pub watch: Option<Watch>,
    /// Keeps no order, to see that the tests notice.
    #[cfg(test)]
    pub careless: bool,
}

#[cfg(test)]
pub type Watch = Box<dyn FnMut(Event<'_>) + Send>;

/// What happens to the file.
#[cfg(test)]
pub enum Event<'a> {
    /// Whether it is durable when it is done, where it is, and what.
    Write(bool, u64, &'a [u8]),
    Zero(u64, u64),
    Lengthen(u64),
    Sync,
}

impl Order {
    /// Of an image that nobody else writes to. `durably`: mappings are written often.
    pub fn new(file: Arc<File>, header: &Header, durably: bool) -> io::Result<Self> {
        let mut order = Self {
            file,
            cluster_bits: header.cluster_bits,
            refcount_order: header.refcount_order,
            l1: header.l1,
            refcounts: header.refcounts,
            blocks: Vec::new(),
            is_block: HashSet::new(),
            l2: HashSet::new(),
            unsynced: 0,
            durably,
            failed: false,
            opened: false,
            #[cfg(test)]
            watch: None,
            #[cfg(test)]
            careless: false,
        };
        let l2 = order.read_table(header.l1)?;
        order.l2 = l2.iter().copied().filter(|at| *at > 0).collect();
        order.read_refcounts()?;
        order.check_tables(l2.into_iter().filter(|at| *at > 0))?;
        Ok(order)
    }

    /// Refuses an image whose tables are not where a table can be, or that counts them wrongly: imago would write to them,
    /// or never find what it looks for.
    fn check_tables(&self, l2: impl Iterator<Item = u64>) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let cluster = 1 << self.cluster_bits;
        let mut seen = HashSet::new();
        let one = |at| (at, cluster);
        let table = |table: Table| (table.offset, table.entries * 8);
        let blocks = self.blocks.iter().copied().filter(|at| *at > 0);
        let tables = [one(0), table(self.l1), table(self.refcounts)].into_iter();
        for (at, bytes) in tables.chain(blocks.map(one)).chain(l2.map(one)) {
            let damaged = |what| io::Error::other(format!("it is damaged: the table at byte {at:#x} {what}"));
            if !at.is_multiple_of(cluster) || at >= length {
                return Err(damaged("is not in the file"));
            }
            for part in (at..at + bytes).step_by(usize::try_from(cluster).map_err(io::Error::other)?) {
                if !seen.insert(part) {
                    return Err(damaged("overlaps another one"));
                }
                let counter = self.counter(part).ok_or_else(|| damaged("is not counted"))?;
                if self.read_count(&counter)? != 1 {
                    return Err(damaged("is not counted once"));
                }
            }
        }
        Ok(())
    }

    fn read_refcounts(&mut self) -> io::Result<()> {
        self.blocks = self.read_table(self.refcounts)?;
        self.is_block = self.blocks.iter().copied().filter(|at| *at > 0).collect();
        Ok(())
    }

    /// The offsets in a table; the file may end before it.
    fn read_table(&self, table: Table) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; usize::try_from(table.entries * 8).map_err(io::Error::other)?];
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], table.offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes.chunks_exact(8).map(|entry| number(entry) & OFFSET).collect())
    }

    /// Whether data of the disk may be at this offset: nothing that is known to be a table is there.
    pub fn may_be_data(&self, offset: u64) -> bool {
        self.kind(offset) == Kind::Data
    }

    fn kind(&self, offset: u64) -> Kind {
        let cluster = offset >> self.cluster_bits << self.cluster_bits;
        if cluster == 0 || self.l1.has(offset) || self.refcounts.has(offset) {
            Kind::Pointer
        } else if self.is_block.contains(&cluster) {
            Kind::Counts
        } else if self.l2.contains(&cluster) {
            Kind::Mappings
        } else {
            Kind::Data
        }
    }

    /// imago has opened the image.
    pub fn opened(&mut self) {
        self.opened = true;
    }

    /// Refuses to write data over a table, where mappings of a damaged image lead.
    fn check_form(&self, kind: Kind, offset: u64, length: usize) -> io::Result<()> {
        let form = (offset, length as u64);
        let cluster = 1 << self.cluster_bits;
        let fits = match kind {
            Kind::Data => true,
            Kind::Counts | Kind::Mappings => offset.is_multiple_of(cluster) && form.1 == cluster,
            // Fields of the header: the disk's size, and where the two tables are.
            Kind::Pointer if offset < cluster => {
                matches!(form, (24, 8) | (36, 12) | (48, 12)) || !self.opened
            }
            Kind::Pointer => length == 8,
        };
        if fits {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the image is damaged: its data is where a table is, at byte {offset:#x}"
        )))
    }

    /// Writes what imago wants to write.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let kind = self.kind(offset);
        self.check_form(kind, offset, data.len())?;
        #[cfg(test)]
        let kind = if self.careless { Kind::Data } else { kind };
        if kind == Kind::Pointer {
            self.count_target(offset, data)?;
        }
        self.wait_for_earlier(kind)?;
        if kind == Kind::Counts && self.unsynced & Kind::Mappings as u8 != 0 && self.frees(offset, data)? {
            self.sync()?;
        }
        self.put(kind, offset, data)?;
        if kind == Kind::Pointer {
            self.learn_pointer(offset, data)?;
        }
        Ok(())
    }

    /// Fills a range of data with zeroes.
    pub fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.check()?;
        if let kind @ (Kind::Counts | Kind::Mappings | Kind::Pointer) = self.kind(offset) {
            self.check_form(kind, offset, 0)?;
        }
        self.lengthen(offset.saturating_add(length))?;
        if self.is_hole(offset, length) || self.punch(offset, length).is_ok() {
            return Ok(());
        }
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        let mut done = 0;
        while done < length {
            let part = (length - done).min(ZEROES.len() as u64);
            #[expect(clippy::cast_possible_truncation, reason = "less than the array has")]
            self.put(Kind::Data, offset + done, &ZEROES[..part as usize])?;
            done += part;
        }
        Ok(())
    }

    /// Makes the file at least that long: no mapping may lead behind its end.
    fn lengthen(&mut self, end: u64) -> io::Result<()> {
        /// Bytes: a new length has to be durable before the next mappings are written.
        const STEP: u64 = 16 << 20;
        if end <= self.file.metadata()?.len() {
            return Ok(());
        }
        let end = if self.durably { end.next_multiple_of(STEP) } else { end };
        self.file.set_len(end)?;
        self.unsynced |= Kind::Data as u8;
        #[cfg(test)]
        self.tell(Event::Lengthen(end));
        Ok(())
    }

    /// Whether the file has no data there.
    fn is_hole(&self, offset: u64, length: u64) -> bool {
        let Ok(from) = libc::off_t::try_from(offset) else { return false };
        // SAFETY: plain numbers and an open descriptor.
        match unsafe { libc::lseek(self.file.as_raw_fd(), from, libc::SEEK_DATA) } {
            -1 => io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO),
            at => at.cast_unsigned() >= offset + length,
        }
    }

    /// Makes a hole, which reads as zeroes.
    pub fn punch(&mut self, offset: u64, length: u64) -> io::Result<()> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (from, length_) = (offset.cast_signed(), length.cast_signed());
        loop {
            // SAFETY: plain numbers and an open descriptor.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), PUNCH, from, length_) } == 0 {
                self.unsynced |= Kind::Data as u8;
                #[cfg(test)]
                self.tell(Event::Zero(offset, length));
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Makes all writes durable. A failure is final: nobody knows what is durable then.
    pub fn sync(&mut self) -> io::Result<()> {
        self.check()?;
        if let Err(error) = self.file.sync_data() {
            self.failed = true;
            return Err(error);
        }
        self.unsynced = 0;
        #[cfg(test)]
        self.tell(Event::Sync);
        Ok(())
    }

    /// Whether the cluster at this offset is free: it is not counted in the file.
    pub fn is_free(&self, offset: u64) -> bool {
        self.counter(offset).is_some_and(|counter| self.read_count(&counter).is_ok_and(|count| count == 0))
    }

    fn check(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    fn wait_for_earlier(&mut self, kind: Kind) -> io::Result<()> {
        let earlier = match kind {
            Kind::Data => 0,
            Kind::Counts => Kind::Pointer as u8,
            Kind::Mappings => Kind::Data as u8 | Kind::Counts as u8 | Kind::Pointer as u8,
            Kind::Pointer => u8::MAX,
        };
        if self.unsynced & earlier == 0 { self.check() } else { self.sync() }
    }

    fn put(&mut self, kind: Kind, offset: u64, data: &[u8]) -> io::Result<()> {
        let durably = self.durably && kind != Kind::Mappings;
        let mut done = 0;
        while done < data.len() {
            let (rest, at) = (&data[done..], offset + done as u64);
            let part = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
            let flags = if durably { libc::RWF_DSYNC } else { 0 };
            // SAFETY: the vector names bytes that are borrowed here, and the call only reads them.
            let written =
                unsafe { libc::pwritev2(self.file.as_raw_fd(), &raw const part, 1, at.cast_signed(), flags) };
            match usize::try_from(written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        if !durably {
            self.unsynced |= kind as u8;
        }
        #[cfg(test)]
        self.tell(Event::Write(durably, offset, data));
        Ok(())
    }

    #[cfg(test)]
    fn tell(&mut self, event: Event<'_>) {
        if let Some(watch) = &mut self.watch {
            watch(event);
        }
    }

    /// Whether counts become smaller by a write.
    fn frees(&self, offset: u64, data: &[u8]) -> io::Result<bool> {
        let mut old = vec![0; data.len()];
        read_all(&self.file, &mut old, offset)?;
        let field = (1_usize << self.refcount_order).div_ceil(8);
        let mut fields = old.chunks(field).zip(data.chunks(field));
        // Several counts in a byte: a bit that is cleared may be a part of one that grows, which costs a sync too many.
        Ok(fields.any(|(old, new)| if self.refcount_order < 3 { old[0] & !new[0] != 0 } else { new < old }))
    }

    /// Counts the table to which a pointer is about to be written.
    fn count_target(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let is_entry = data.len() == 8 && (self.l1.has(offset) || self.refcounts.has(offset));
        let target = if is_entry { number(data) & OFFSET } else { 0 };
        // A block of counts may count itself; the table does not have it yet.
        let Some(counter) = self.counter(target).filter(|_| target > 0) else { return Ok(()) };
        if self.read_count(&counter)? > 0 {
            return Ok(());
        }
        let mut bytes = [0; 8];
        let field = &mut bytes[..counter.length];
        read_all(&self.file, field, counter.at)?;
        field[counter.length - 1] |= 1 << counter.shift;
        self.wait_for_earlier(Kind::Counts)?;
        let (length, at) = (counter.length, counter.at);
        self.put(Kind::Counts, at, &bytes[..length])
    }

    /// Where the count of the cluster at this offset is.
    fn counter(&self, offset: u64) -> Option<Counter> {
        let width = 1_u64 << self.refcount_order; // bits
        let in_block = (8_u64 << self.cluster_bits) / width;
        let cluster = offset >> self.cluster_bits;
        let block = *self.blocks.get(usize::try_from(cluster / in_block).ok()?)?;
        if block == 0 {
            return None;
        }
        let bit = cluster % in_block * width;
        let (length, shift) = if width >= 8 { (width / 8, 0) } else { (1, bit % 8) };
        Some(Counter {
            at: block + bit / 8,
            length: usize::try_from(length).ok()?,
            shift: u32::try_from(shift).ok()?,
            mask: if width >= 8 { u64::MAX } else { (1 << width) - 1 },
        })
    }

    fn read_count(&self, counter: &Counter) -> io::Result<u64> {
        let mut bytes = [0; 8];
        let field = &mut bytes[..counter.length];
        read_all(&self.file, field, counter.at)?;
        Ok(number(field) >> counter.shift & counter.mask)
    }

    /// A pointer was written: what it points to is a table from now on.
    fn learn_pointer(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        const REFCOUNT_TABLE: u64 = 48; // in the header
        if offset <= REFCOUNT_TABLE && offset + data.len() as u64 >= REFCOUNT_TABLE + 12 {
            #[expect(clippy::cast_possible_truncation, reason = "within the header")]
            let field = &data[(REFCOUNT_TABLE - offset) as usize..];
            let entries = number(&field[8..12]) << self.cluster_bits >> 3;
            self.refcounts = Table { offset: number(&field[..8]), entries };
            return self.read_refcounts();
        }
        if data.len() != 8 {
            return Ok(());
        }
        let target = number(data) & OFFSET;
        if self.l1.has(offset) {
            self.l2.insert(target);
        } else if self.refcounts.has(offset)
            && let Ok(index) = usize::try_from((offset - self.refcounts.offset) / 8)
            && let Some(block) = self.blocks.get_mut(index)
        {
            *block = target;
            self.is_block.insert(target);
        }
        Ok(())
    }
}

/// Where a reference count is in the file.
struct Counter {
    at: u64,
    /// Bytes: of the field that has it.
    length: usize,
    /// Where it is in that field.
    shift: u32,
    mask: u64,
}

fn read_all(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    match file.read_exact_at(bytes, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            bytes.fill(0);
            Ok(())
        }
        result => result,
    }
}

/// A number, the most significant byte first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
