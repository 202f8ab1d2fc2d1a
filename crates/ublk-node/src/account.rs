//! What happened to a disk until its power failed, for JavaScript.

use crate::number::number;
use napi_derive::napi;
use ublk_core::backend::account::{Account, Cell, Entry, HeatMap, LeftOut, Loss, Standing, Sum};
use ublk_core::backend::{Flags, Op};

/// See [`Account`].
#[napi(object)]
pub struct CrashAccount {
    /// The name of the model.
    pub model: String,
    /// The size of the disk, in bytes.
    pub size: f64,
    /// What it never tears, in bytes.
    pub unit: f64,
    /// The moment of the cut.
    pub cut: f64,
    /// The moment when the last flush came that was answered.
    pub since: Option<f64>,
    /// What happened, the earliest first.
    pub entries: Vec<AccountEntry>,
    /// All writes, by what became of them.
    pub sums: Vec<AccountSum>,
    /// How many flushes were answered.
    pub flushes: f64,
    /// How many marks were set.
    pub marks: f64,
    /// What was written where.
    pub heat: AccountHeat,
}

/// A write, discard, write-zeroes, flush or mark, or some of them that are not named. What a kind does not have is not there.
#[napi(object)]
#[derive(Default)]
pub struct AccountEntry {
    /// What it is.
    #[napi(ts_type = "'write' | 'discard' | 'write-zeroes' | 'flush' | 'mark' | 'left-out'")]
    pub kind: String,
    /// The moment of its start.
    pub start: f64,
    /// Of a write: the moment of its answer, if that is before the cut.
    pub done: Option<f64>,
    /// The number of a write in the log.
    pub number: Option<f64>,
    /// Where a write begins, in bytes.
    pub offset: Option<f64>,
    /// Its length, in bytes.
    pub length: Option<f64>,
    /// Whether it had FUA.
    pub fua: Option<bool>,
    /// Whether a file system wrote structures of its own.
    pub meta: Option<bool>,
    /// What a write had been promised.
    #[napi(ts_type = "'flushed' | 'forced' | 'volatile' | 'in-flight'")]
    pub standing: Option<String>,
    /// How many bytes of a write are lost.
    pub lost: Option<f64>,
    /// Whether a flush was answered before the cut.
    pub answered: Option<bool>,
    /// The name of a mark.
    pub name: Option<String>,
    /// How many writes are not named.
    pub writes: Option<f64>,
    /// Their length together, in bytes.
    pub bytes: Option<f64>,
    /// Of how many of them something is lost.
    pub lossy: Option<f64>,
    /// How many flushes are not named.
    pub flushes: Option<f64>,
    /// How many marks are not named.
    pub marks: Option<f64>,
}

/// Writes with the same fate.
#[napi(object)]
pub struct AccountSum {
    /// What they had been promised.
    #[napi(ts_type = "'flushed' | 'forced' | 'volatile' | 'in-flight'")]
    pub standing: String,
    /// What of each is lost.
    #[napi(ts_type = "'none' | 'part' | 'whole'")]
    pub loss: String,
    /// How many they are.
    pub writes: f64,
    /// Their length together, in bytes.
    pub bytes: f64,
}

/// A disk, or the part of it that was written, in cells of the same size.
#[napi(object)]
pub struct AccountHeat {
    /// Where the first cell begins, in bytes.
    pub start: f64,
    /// The length of a cell, in bytes.
    pub cell: f64,
    /// Their number.
    pub cells: u32,
    /// Those that were written or lack something, in order.
    pub touched: Vec<AccountCell>,
}

/// A part of a disk.
#[napi(object)]
pub struct AccountCell {
    /// Which one it is.
    pub number: u32,
    /// How many writes it had.
    pub writes: f64,
    /// How much of it was written, in bytes.
    pub written: f64,
    /// How much of that was not durable, in bytes.
    pub open: f64,
    /// How many bytes are not as they were written.
    pub lost: f64,
}

const SECTOR: u64 = 512;

fn bytes(sectors: u64) -> f64 {
    number(sectors * SECTOR)
}

fn standing(of: Standing) -> String {
    let name = match of {
        Standing::Flushed => "flushed",
        Standing::Forced => "forced",
        Standing::Volatile => "volatile",
        Standing::InFlight => "in-flight",
    };
    name.into()
}

fn entry(of: Entry) -> AccountEntry {
    let start = number(of.start());
    let plain = |kind: &str| AccountEntry { kind: kind.into(), start, ..AccountEntry::default() };
    match of {
        Entry::Write { number: which, write, standing: promised, lost, .. } => AccountEntry {
            done: (promised != Standing::InFlight).then(|| number(write.done)),
            number: Some(number(which as u64)),
            offset: Some(bytes(write.sector)),
            length: Some(bytes(write.sectors.into())),
            fua: Some(write.flags.has(Flags::FUA)),
            meta: Some(write.flags.has(Flags::META)),
            standing: Some(standing(promised)),
            lost: Some(bytes(lost)),
            ..plain(match write.op {
                Op::Discard => "discard",
                Op::WriteZeroes => "write-zeroes",
                _ => "write",
            })
        },
        Entry::Flush { answered, .. } => AccountEntry { answered: Some(answered), ..plain("flush") },
        Entry::Mark(mark) => AccountEntry { name: Some(mark.name), ..plain("mark") },
        Entry::LeftOut(LeftOut { all, lost, flushes, marks, .. }) => AccountEntry {
            writes: Some(number(all.writes)),
            bytes: Some(bytes(all.sectors)),
            lossy: Some(number(lost.writes)),
            flushes: Some(number(flushes)),
            marks: Some(number(marks)),
            ..plain("left-out")
        },
    }
}

fn sum(((promised, loss), Sum { writes, sectors }): ((Standing, Loss), Sum)) -> AccountSum {
    let loss = match loss {
        Loss::None => "none",
        Loss::Part => "part",
        Loss::Whole => "whole",
    };
    AccountSum {
        standing: standing(promised),
        loss: loss.into(),
        writes: number(writes),
        bytes: bytes(sectors),
    }
}

fn heat(HeatMap { start, cell, cells }: HeatMap) -> AccountHeat {
    let touched = (0..).zip(&cells).filter(|(_, cell)| **cell != Cell::default());
    let touched = touched.map(|(number_of, cell)| AccountCell {
        number: number_of,
        writes: number(cell.writes),
        written: bytes(cell.written),
        open: bytes(cell.open),
        lost: bytes(cell.lost),
    });
    AccountHeat {
        start: bytes(start),
        cell: bytes(cell),
        touched: touched.collect(),
        cells: u32::try_from(cells.len()).unwrap_or(u32::MAX),
    }
}

/// An account of a state at that moment of a disk with that size and unit, in sectors.
pub fn told(account: Account, model: &str, cut: u64, (sectors, unit): (u64, u64)) -> CrashAccount {
    let Account { entries, sums, flushes, marks, since, heat: map } = account;
    CrashAccount {
        model: model.into(),
        size: bytes(sectors),
        unit: bytes(unit),
        cut: number(cut),
        since: since.map(number),
        entries: entries.into_iter().map(entry).collect(),
        sums: sums.into_iter().map(sum).collect(),
        flushes: number(flushes),
        marks: number(marks),
        heat: heat(map),
    }
}
