use super::*;
use crate::backend::Memory;
use crate::backend::stage::Stages;
use crate::backend::testing::Bench;
use crate::queue::{Descriptor, Op, Outcome};
use std::thread::sleep;

const SIZE: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// A disk of memory with rules, and one queue of it.
struct Disk {
    faults: Arc<Faults>,
    bench: Bench,
}

impl Disk {
    fn new(rules: Vec<Rule>) -> Self {
        let memory = Arc::new(Memory::new(SIZE).unwrap());
        let faults = Arc::new(Faults::new(memory, rules, 7).unwrap());
        let bench = Bench::new(faults.clone(), 4, 1 << 16);
        Self { faults, bench }
    }

    fn with(effect: Effect) -> Self {
        Self::new(vec![Rule::new(effect)])
    }

    fn start(&mut self, tag: u16, op: Op, offset: u64) -> Option<Outcome> {
        let length = if op == Op::Flush { 0 } else { BLOCK };
        self.bench.start(tag, Descriptor::new(op, offset, length))
    }

    fn write(&mut self, offset: u64, byte: u8) -> Option<Outcome> {
        self.bench.buffer(0)[..BLOCK as usize].fill(byte);
        self.start(0, Op::Write, offset)
    }

    fn read(&mut self, offset: u64) -> Vec<u8> {
        self.bench.buffer(1).fill(0xaa);
        assert_eq!(self.start(1, Op::Read, offset), Some(Ok(BLOCK as u32)));
        self.bench.buffer(1)[..BLOCK as usize].to_vec()
    }

    fn without_rules(&mut self) -> &mut Self {
        self.faults.set(Vec::new(), 0).unwrap();
        self
    }

    /// Waits for the answer of the one request.
    fn answer(&mut self) -> Outcome {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if let [(_, outcome)] = self.bench.turn()[..] {
                return outcome;
            }
            sleep(Duration::from_millis(1));
        }
        panic!("it was not answered");
    }

    fn applied(&self) -> Vec<u64> {
        self.faults.tallies().iter().map(|tally| tally.applied).collect()
    }
}

const DONE: Option<Outcome> = Some(Ok(BLOCK as u32));

#[test]
fn without_rules_it_is_the_disk_below() {
    let mut disk = Disk::new(Vec::new());
    assert_eq!(disk.write(0, 1), DONE);
    assert_eq!(disk.read(0), [1; BLOCK as usize]);
    assert_eq!(disk.faults.tallies(), []);
}

#[test]
fn the_kernel_sends_flushes_also_to_a_disk_below_that_needs_none() {
    let memory = Arc::new(Memory::new(SIZE).unwrap());
    assert!(!memory.properties().write_cache);
    let faults = Faults::new(memory, Vec::new(), 0).unwrap();
    assert!(faults.properties().write_cache);
}

#[test]
fn a_request_fails_with_the_error_of_its_rule_and_is_not_done() {
    let mut disk = Disk::with(Effect::Fail(libc::ENOSPC));
    assert_eq!(disk.write(0, 1), Some(Err(libc::ENOSPC)));
    assert_eq!(disk.start(0, Op::Flush, 0), Some(Err(libc::ENOSPC)));
    assert_eq!(disk.applied(), [2]);
    assert_eq!(disk.without_rules().read(0), [0; BLOCK as usize]);
}

#[test]
fn a_full_disk_fails_further_writes_and_goes_on_reading() {
    let mut disk = Disk::with(Effect::Full(2 * BLOCK));
    assert_eq!([disk.write(0, 1), disk.write(BLOCK, 2)], [DONE, DONE]);
    assert_eq!(disk.write(2 * BLOCK, 3), Some(Err(libc::ENOSPC)));
    assert_eq!(disk.read(BLOCK), [2; BLOCK as usize]);
}

#[test]
fn what_is_lost_is_answered_and_not_done() {
    let mut disk = Disk::with(Effect::Lose);
    assert_eq!([disk.write(0, 1), disk.start(0, Op::Flush, 0)], [DONE, Some(Ok(0))]);
    assert_eq!(disk.read(0), [0; BLOCK as usize]);
}

#[test]
fn a_misdirected_write_is_elsewhere() {
    let mut disk = Disk::with(Effect::Misdirect(2 * BLOCK));
    assert_eq!([disk.write(0, 1), disk.write(SIZE - BLOCK, 2)], [DONE, DONE]);
    disk.without_rules();
    let found = [0, BLOCK, 2 * BLOCK, SIZE - BLOCK].map(|at| disk.read(at)[0]);
    assert_eq!(found, [0, 2, 1, 0]);
}

#[test]
fn of_a_torn_write_the_first_bytes_are_written() {
    let mut disk = Disk::with(Effect::Tear(1500));
    assert_eq!(disk.write(0, 1), DONE);
    let found = disk.without_rules().read(0);
    assert_eq!(found[..1024], [1; 1024], "whole blocks of 512 bytes");
    assert_eq!(found[1024..], [0; 3072]);
    disk.faults.set(vec![Rule::new(Effect::Tear(511))], 0).unwrap();
    assert_eq!([disk.write(BLOCK, 1)], [DONE]);
    assert_eq!(disk.without_rules().read(BLOCK), [0; BLOCK as usize]);
}

fn wrong_bits(found: &[u8]) -> u32 {
    found.iter().map(|byte| byte.count_ones()).sum()
}

#[test]
fn one_bit_of_what_is_read_or_written_is_another() {
    let mut disk = Disk::with(Effect::Corrupt);
    assert_eq!(wrong_bits(&disk.read(0)), 1);
    assert_eq!(wrong_bits(&disk.without_rules().read(0)), 0, "only on the way");
    disk.faults.set(vec![Rule { ops: Ops::NONE.and(Op::Write), ..Rule::new(Effect::Corrupt) }], 0).unwrap();
    assert_eq!(disk.write(0, 0), DONE);
    assert_eq!(wrong_bits(&disk.read(0)), 1);
}

#[test]
fn what_hangs_goes_on_when_the_disk_is_thawed() {
    let mut disk = Disk::new(vec![Rule { times: Some(1), ..Rule::new(Effect::Hang) }]);
    assert_eq!(disk.write(0, 1), None);
    assert_eq!(disk.faults.hanging(), 1);
    assert_eq!(disk.read(0), [0; BLOCK as usize], "others go on");
    assert_eq!(disk.bench.turn(), []);
    disk.without_rules();
    assert_eq!(disk.faults.hanging(), 1, "other rules let nothing go on");
    assert_eq!(disk.faults.thaw(), 1);
    assert_eq!(disk.answer(), Ok(BLOCK as u32));
    assert_eq!(disk.read(0), [1; BLOCK as usize]);
}

#[test]
fn nothing_waits_once_the_disk_is_being_removed_or_passes_to_another_server() {
    let long = Delay::Fixed(Duration::from_secs(3600));
    let hang = Rule { ops: Ops::NONE.and(Op::Write), ..Rule::new(Effect::Hang) };
    let delay = Rule::new(Effect::Delay { time: long, in_turn: false });
    for (stage, outcome) in [(Stage::Ending, Err(libc::EIO)), (Stage::Leaving, Ok(BLOCK as u32))] {
        let mut disk = Disk::new(vec![hang.clone()]);
        assert_eq!(disk.write(0, 1), None);
        disk.faults.enter(stage);
        assert_eq!(disk.answer(), outcome, "{stage:?}");
        assert_eq!(disk.write(0, 1), Some(outcome), "{stage:?}");

        disk.faults.set(vec![delay.clone()], 0).unwrap();
        disk.faults.enter(Stage::Live);
        assert_eq!(disk.start(1, Op::Read, 0), None);
        disk.faults.enter(stage);
        assert_eq!(disk.answer(), Ok(BLOCK as u32));
        assert_eq!(disk.start(1, Op::Read, 0), DONE);
    }
}

#[test]
fn thawing_ends_delays_and_limits_of_a_rate() {
    let hour = Delay::Fixed(Duration::from_secs(3600));
    let slow = Limit { per_second: 1, burst: 0 };
    for effect in [Effect::Delay { time: hour, in_turn: true }, Effect::Rate(slow), Effect::Hang] {
        let mut disk = Disk::with(effect);
        assert_eq!(disk.write(0, 1), None);
        assert_eq!(disk.start(1, Op::Read, 0), None);
        disk.faults.set(Vec::new(), 0).unwrap();
        assert_eq!(disk.faults.thaw(), 2, "{effect:?}");
        let (mut answers, until) = (Vec::new(), Instant::now() + Duration::from_secs(20));
        while answers.len() < 2 && Instant::now() < until {
            answers.extend(disk.bench.turn().into_iter().map(|(_, outcome)| outcome));
        }
        assert_eq!(answers, [Ok(BLOCK as u32); 2]);
        assert_eq!(disk.faults.thaw(), 0);
    }
}

#[test]
fn rules_are_applied_once_the_disk_is_usable() {
    let stages = Stages::at(Stage::Appearing);
    let mut disk = Disk::with(Effect::Fail(libc::EIO));
    disk.faults.enter(Stage::Appearing);
    let faults = disk.faults.clone();
    stages.listen(move |stage| {
        faults.enter(stage);
        true
    });
    assert_eq!(disk.start(0, Op::Read, 0), DONE);
    assert_eq!(disk.applied(), [0]);
    stages.enter(Stage::Live);
    assert_eq!(disk.start(0, Op::Read, 0), Some(Err(libc::EIO)));
}

#[test]
fn a_request_takes_the_time_that_its_rules_add_up_to() {
    let fixed = |millis| {
        let time = Delay::Fixed(Duration::from_millis(millis));
        Rule::new(Effect::Delay { time, in_turn: true })
    };
    let mut disk = Disk::new(vec![fixed(20), fixed(30), Rule::new(Effect::Fail(libc::ETIMEDOUT))]);
    let begun = Instant::now();
    assert_eq!(disk.start(0, Op::Read, 0), None);
    assert_eq!(disk.answer(), Err(libc::ETIMEDOUT));
    assert!(begun.elapsed() >= Duration::from_millis(50), "{:?}", begun.elapsed());
    assert_eq!(disk.applied(), [1, 1, 1]);
    // One after the other.
    assert_eq!([disk.start(0, Op::Read, 0), disk.start(1, Op::Read, 0)], [None, None]);
    assert_eq!(disk.answer(), Err(libc::ETIMEDOUT));
    assert_eq!(disk.answer(), Err(libc::ETIMEDOUT));
    assert!(begun.elapsed() >= Duration::from_millis(50 + 80), "{:?}", begun.elapsed());
}

#[test]
fn of_two_rules_that_decide_the_first_does() {
    let fail = |errno| Rule { every: Some(2), ..Rule::new(Effect::Fail(errno)) };
    let mut disk = Disk::new(vec![fail(libc::EIO), fail(libc::ENOSPC)]);
    let outcomes: Vec<_> = (0..6).map(|_| disk.start(0, Op::Read, 0).unwrap().err()).collect();
    let (io, full) = (Some(libc::EIO), Some(libc::ENOSPC));
    assert_eq!(outcomes, [None, io, full, io, None, io], "the second considers what the first leaves");
}

#[test]
fn the_same_seed_does_the_same_to_a_disk() {
    let rules = || {
        let likely = |effect| Rule { probability: Some(0.2), ..Rule::new(effect) };
        [Effect::Corrupt, Effect::Lose, Effect::Misdirect(12345), Effect::Tear(2048)].map(likely).to_vec()
    };
    let content = |seed| {
        let mut disk = Disk::new(Vec::new());
        disk.faults.set(rules(), seed).unwrap();
        for number in 0..200 {
            assert_eq!(disk.write(number * 7 % 200 * BLOCK, number as u8), DONE);
        }
        let applied = disk.applied();
        disk.without_rules();
        (applied, (0..200).flat_map(|at| disk.read(at * BLOCK)).collect::<Vec<_>>())
    };
    let first = content(1);
    assert!(first.0.iter().all(|applied| *applied > 5), "{:?}", first.0);
    assert!(content(1) == first);
    assert!(content(2) != first);
}

#[test]
fn what_changes_data_needs_copies() {
    let memory = || Arc::new(Memory::new(SIZE).unwrap());
    let modes = memory().copy_modes();
    assert!(modes.len() > 1);
    let rule = |effect| vec![Rule::new(effect)];
    assert_eq!(Faults::new(memory(), rule(Effect::Lose), 0).unwrap().copy_modes(), modes);
    let corrupts = Faults::new(memory(), rule(Effect::Corrupt), 0).unwrap();
    assert_eq!(corrupts.copy_modes(), [CopyMode::Copy]);
    let blind = Faults::new(memory(), Vec::new(), 0).unwrap();
    blind.blind.store(true, SeqCst);
    blind.set(rule(Effect::Lose), 0).unwrap();
    let error = blind.set(rule(Effect::Corrupt), 0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert_eq!(blind.tallies().len(), 1, "nothing has changed");
}

#[test]
fn there_is_a_limit_to_rules() {
    let rules = vec![Rule::new(Effect::Lose); MOST_RULES + 1];
    let error = Faults::new(Arc::new(Memory::new(SIZE).unwrap()), rules, 0).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Limit);
}

#[test]
fn what_hangs_is_forgotten_with_its_engine() {
    let Disk { faults, mut bench } = Disk::with(Effect::Hang);
    assert_eq!(bench.start(0, Descriptor::new(Op::Read, 0, BLOCK)), None);
    drop(bench);
    assert_eq!(faults.hanging(), 0);
}

#[test]
fn faults_can_be_below_a_stripe() {
    let memory = || Arc::new(Memory::new(SIZE).unwrap());
    let faults = Arc::new(Faults::new(memory(), vec![Rule::new(Effect::Corrupt)], 0).unwrap());
    let stripe = crate::backend::Stripe::new(vec![memory(), faults.clone()], 4096).unwrap();
    let mut bench = Bench::new(Arc::new(stripe), 2, 1 << 16);
    assert_eq!(bench.start(0, Descriptor::new(Op::Read, 0, 4 * BLOCK)), Some(Ok(4 * BLOCK as u32)));
    assert_eq!(wrong_bits(&bench.buffer(0)[..4 * BLOCK as usize]), faults.tallies()[0].applied as u32);
    assert!(faults.tallies()[0].applied > 0);
}
