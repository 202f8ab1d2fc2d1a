//! A disk that goes wrong where rules say so: requests fail, take their time, hang, or are not done as they are answered.
//! Without rules a request costs one more load.
//!
//! A request waits for no lock of a layer's that the kernel waits for: while the disk appears, rules are not applied, and when
//! it is removed or passes to another server, nothing waits any more ([`Stage`]).

mod delay;
mod engine;
mod rule;
#[cfg(test)]
mod tests;
mod timer;

pub use delay::Delay;
pub use rule::{Effect, Limit, Ops, Rule, Tally};

use super::numbers::mixed;
use super::stage::Stage;
use super::{
    Backend, Changes, Commit, Completer, CopyMode, Engine, Extent, FlattenProgress, LayerInfo, Properties,
    Site, Token,
};
use crate::claim::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::Piece;
use engine::FaultsEngine;
use rule::{Active, nanos};
use std::ops::Range;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use timer::Timer;

/// The most rules that a disk can have: a bit of a trace record stands for each.
pub const MOST_RULES: usize = 32;

/// The longest that a request is delayed.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// See the [module](self).
pub struct Faults {
    disk: Arc<dyn Backend>,
    /// Whether there are rules, and they are applied.
    active: AtomicBool,
    rules: RwLock<Arc<[Active]>>,
    /// Where the rules' time begins.
    begun: Instant,
    timer: Timer,
    waits: Mutex<Waits>,
    engines: AtomicU64,
    /// Whether an engine does not see the data of requests.
    blind: AtomicBool,
}

/// Requests that wait.
struct Waits {
    stage: Stage,
    /// Until the disk is thawed, each with the number of its engine.
    hung: Vec<(u64, Completer, Token)>,
}

/// What is done to a request.
#[derive(Debug, Clone, Copy)]
struct Decision {
    /// The rules that were applied, by bits.
    rules: u32,
    /// When it goes on.
    until: Option<Instant>,
    /// What becomes of it then, unless the disk below serves it as it is.
    fate: Option<Fate>,
}

/// An effect, and a number that was drawn for it.
type Fate = (Effect, u64);

/// Whether a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Waits,
    GoesOn,
    Fails,
}

impl Faults {
    /// The same disk with these rules. The seed determines what is drawn.
    pub fn new(disk: Arc<dyn Backend>, rules: Vec<Rule>, seed: u64) -> Result<Self> {
        let faults = Self {
            disk,
            active: AtomicBool::new(false),
            rules: RwLock::new(Arc::new([])),
            begun: Instant::now(),
            timer: Timer::default(),
            waits: Mutex::new(Waits { stage: Stage::Appearing, hung: Vec::new() }),
            engines: AtomicU64::new(0),
            blind: AtomicBool::new(false),
        };
        faults.set(rules, seed)?;
        Ok(faults)
    }

    /// Has these rules from now on, and no others. They are counted anew. Requests that hang go on hanging.
    pub fn set(&self, rules: Vec<Rule>, seed: u64) -> Result<()> {
        if rules.len() > MOST_RULES {
            return Err(Error::new(ErrorKind::Limit, format!("a disk has at most {MOST_RULES} rules")));
        }
        if self.blind.load(SeqCst) && rules.iter().any(|rule| rule.effect.changes_data()) {
            let message = "a rule corrupts data, which this disk is served without looking at";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("create it with this rule, or with the copy mode copy"));
        }
        let active = (1..).zip(rules).map(|(number, rule)| Active::new(rule, seed ^ mixed(number)));
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = active.collect();
        self.arm(&self.waits());
        Ok(())
    }

    /// How often each rule came into question, in their order.
    pub fn tallies(&self) -> Vec<Tally> {
        self.rules().iter().map(Active::tally).collect()
    }

    /// Lets all requests that hang or are delayed go on. Returns how many there were.
    pub fn thaw(&self) -> usize {
        let hung = std::mem::take(&mut self.waits().hung);
        end(&hung, 0);
        hung.len() + self.timer.end_all()
    }

    /// How many requests hang.
    pub fn hanging(&self) -> usize {
        self.waits().hung.len()
    }

    fn rules(&self) -> Arc<[Active]> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arm(&self, waits: &Waits) {
        let active = waits.stage != Stage::Appearing && !self.rules().is_empty();
        self.active.store(active, SeqCst);
    }

    /// The disk enters a stage of its life.
    fn enter(&self, stage: Stage) {
        let mut waits = self.waits();
        waits.stage = stage;
        self.arm(&waits);
        let result = match stage {
            Stage::Appearing | Stage::Live => return,
            Stage::Leaving => 0,
            Stage::Ending => -libc::EIO,
        };
        let hung = std::mem::take(&mut waits.hung);
        drop(waits);
        end(&hung, result);
        self.timer.end_all();
    }

    /// What is done to a request; `None`: nothing.
    #[inline]
    fn decide(&self, piece: &Piece) -> Option<Decision> {
        if self.active.load(Relaxed) { self.by_rules(piece) } else { None }
    }

    /// Every rule about time delays it, one after the other. Of the others, the first that hits it decides.
    fn by_rules(&self, piece: &Piece) -> Option<Decision> {
        let now = nanos(self.begun.elapsed());
        let (mut rules, mut at, mut fate) = (0, now, None);
        for (number, rule) in self.rules().iter().enumerate() {
            if fate.is_some() && !rule.takes_time() {
                continue;
            }
            let Some((effect, drawn)) = rule.hits(piece) else { continue };
            rules |= 1 << number;
            match rule.goes_on(at, piece, drawn) {
                Some(later) => at = later,
                None => fate = Some((effect, drawn)),
            }
        }
        let wait = Duration::from_nanos(at - now).min(LONGEST);
        let until = (!wait.is_zero()).then(|| self.begun + Duration::from_nanos(now) + wait);
        (rules != 0).then_some(Decision { rules, until, fate })
    }

    /// A request waits until that time.
    fn delay(&self, until: Instant, completer: Completer, token: Token) -> Waiting {
        let waits = self.waits(); // so that a stage which ends all waits is entered before or after
        let may_wait = matches!(waits.stage, Stage::Appearing | Stage::Live);
        if may_wait && self.timer.at(until, completer, token) { Waiting::Waits } else { Waiting::GoesOn }
    }

    /// A request waits until the disk is thawed.
    fn hang(&self, engine: u64, completer: Completer, token: Token) -> Waiting {
        let mut waits = self.waits();
        match waits.stage {
            Stage::Leaving => return Waiting::GoesOn,
            Stage::Ending => return Waiting::Fails,
            Stage::Appearing | Stage::Live => {}
        }
        waits.hung.push((engine, completer, token));
        Waiting::Waits
    }

    /// An engine is gone, and with it its requests.
    fn forget(&self, engine: u64) {
        self.waits().hung.retain(|(of, ..)| *of != engine);
    }

    fn block_size(&self) -> u32 {
        self.disk.properties().block_size
    }

    /// Where a write that goes astray by this number of bytes begins.
    fn astray(&self, piece: &Piece, by: u64) -> u64 {
        let Properties { size, block_size, .. } = self.disk.properties();
        let block = u64::from(block_size);
        let to = piece.offset.saturating_add(by.div_ceil(block) * block) % size.max(1) / block * block;
        if to + piece.length > size { 0 } else { to }
    }
}

/// Has requests go on that hang: they are served, or fail with that error number, which is negative.
fn end(hung: &[(u64, Completer, Token)], result: i32) {
    for (_, completer, token) in hung {
        completer.complete(*token, result);
    }
}

impl Backend for Faults {
    /// With a write cache: without one the kernel sends no flush, and rules about flushes would never be applied.
    fn properties(&self) -> Properties {
        Properties { write_cache: true, ..self.disk.properties() }
    }

    /// Only with copies does an engine see the data of requests.
    fn copy_modes(&self) -> Vec<CopyMode> {
        let modes = self.disk.copy_modes();
        if self.rules().iter().any(Active::changes_data) {
            return modes.into_iter().filter(|mode| *mode == CopyMode::Copy).collect();
        }
        modes
    }

    fn takes_scattered(&self) -> bool {
        self.disk.takes_scattered()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.disk.places()
    }

    fn extents(&self, part: Range<u64>) -> Vec<Extent<'_>> {
        self.disk.extents(part)
    }

    fn is_in_files(&self) -> bool {
        self.disk.is_in_files()
    }

    fn identity(&self) -> Result<String> {
        self.disk.identity()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let below = site.below(self.disk.clone())?;
        if site.copy_mode() != CopyMode::Copy {
            self.blind.store(true, SeqCst);
        }
        if !site.is_of_reader() {
            let faults = Arc::downgrade(&self);
            site.stages().listen(move |stage| faults.upgrade().map(|faults| faults.enter(stage)).is_some());
        }
        let number = self.engines.fetch_add(1, Relaxed);
        Ok(Box::new(FaultsEngine::new(self, number, below, site)))
    }

    fn resize(&self, from: u64, to: u64) -> Result<()> {
        self.disk.resize(from, to)
    }

    fn resize_told(&self, from: u64, to: u64, tell: &dyn Fn(u64) -> Result<()>) -> Result<()> {
        self.disk.resize_told(from, to, tell)
    }

    fn snapshot(self: Arc<Self>, name: &str, now: &dyn Fn()) -> Result<()> {
        self.disk.clone().snapshot(name, now)
    }

    fn reset(&self) -> Result<()> {
        self.disk.reset()
    }

    fn flatten(self: Arc<Self>, rate: Option<u64>, given_up: &dyn Fn() -> bool) -> Result<()> {
        self.disk.clone().flatten(rate, given_up)
    }

    fn flattening(&self) -> Option<FlattenProgress> {
        self.disk.flattening()
    }

    fn commit(self: Arc<Self>, how: &Commit<'_>) -> Result<()> {
        self.disk.clone().commit(how)
    }

    fn committing(&self) -> Option<FlattenProgress> {
        self.disk.committing()
    }

    fn layers(&self) -> Vec<LayerInfo> {
        self.disk.layers()
    }

    fn written_shares(&self, cell: u64) -> Option<Vec<u8>> {
        self.disk.written_shares(cell)
    }

    fn interrupt(&self, patience: Duration) -> Result<()> {
        self.disk.interrupt(patience)
    }

    fn let_go(&self) {
        self.disk.let_go();
    }

    fn take_back(&self, size: u64) -> Result<()> {
        self.disk.take_back(size)
    }

    fn check_claimed(&self) -> Result<()> {
        self.disk.check_claimed()
    }

    fn changes(&self) -> Option<&dyn Changes> {
        self.disk.changes()
    }

    fn close(&self) -> Result<()> {
        self.disk.close()
    }
}
