//! Power cuts of a disk, and the states that they may leave, for JavaScript.

use crate::account::{self, CrashAccount};
use crate::kinds::crash_state;
use crate::number::{number, whole};
use crate::task::{promise, raised};
use crate::wire;
use napi::bindgen_prelude::{Object, ObjectFinalize};
use napi::{Env, Result};
use napi_derive::napi;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use ublk_core::backend::account::{Account, Wanted};
use ublk_core::backend::{
    Backend, Bounds, Completed, Flags, How, Log, LogData, Lost, Model, Moment, Op, Recorder, State, States,
    Trigger, View,
};
use ublk_core::error::{Error as CoreError, Result as CoreResult};
use ublk_core::{Cancel, ErrorKind};
use ublk_formats::{Output, is_on};

/// Which states are wanted.
#[napi(object)]
pub struct CrashBounds {
    /// What the disk does with writes when the power fails.
    #[napi(
        ts_type = "'prefix' | 'writes' | 'torn' | 'garbage' | 'lying-flush' | 'ignored-fua' | 'misdirected' | 'bit-rot'"
    )]
    pub model: String,
    /// The mark after which the power fails. Default: the beginning.
    pub from: Option<String>,
    /// The mark before which it fails. Default: the present.
    pub to: Option<String>,
    /// At most this number of states.
    pub budget: f64,
    /// Determines what is drawn.
    pub seed: f64,
}

/// A part of a write that a state lacks.
#[napi(object)]
pub struct LostWrite {
    /// The number of the write in the log.
    pub write: f64,
    /// Where the part begins, in bytes.
    pub offset: f64,
    /// Its length, in bytes.
    pub length: f64,
    /// What kind of write.
    #[napi(ts_type = "'write' | 'discard' | 'write-zeroes'")]
    pub op: String,
    /// Whether a file system wrote structures of its own.
    pub meta: bool,
    /// What is there instead.
    #[napi(ts_type = "'missing' | 'garbage' | 'moved' | 'flipped'")]
    pub how: String,
    /// The place that it was moved to, in bytes; or the number of the bit that is wrong.
    pub to: Option<f64>,
}

/// A write that was started later.
#[napi(object)]
pub struct LaterWrite {
    /// The moment after its start.
    pub cut: f64,
    /// What a state lacks without it.
    pub write: LostWrite,
}

/// A state after a power cut.
#[napi(custom_finalize)]
pub struct FoundState {
    view: Arc<View>,
    /// What V8 was told that it takes up: to V8 it is a small object, which it is in no hurry to free.
    bytes: i64,
    /// The moment of the cut.
    #[napi(readonly)]
    pub cut: f64,
    /// Its number among those of the moment; `null`: it was made from what it lacks.
    #[napi(readonly)]
    pub number: Option<f64>,
    /// Tells what record, model and seed it is of.
    #[napi(readonly)]
    pub record: u32,
    lost: Vec<Missing>,
    marks: Vec<String>,
    /// The moment of the cut.
    at: Moment,
    /// What happened until then.
    log: Arc<Log>,
    bounds: Bounds,
}

/// As [`LostWrite`].
struct Missing {
    lost: Lost,
    op: &'static str,
    meta: bool,
}

fn told(Missing { lost, op, meta }: &Missing) -> LostWrite {
    LostWrite {
        write: number(lost.write as u64),
        offset: number(lost.sectors.start * SECTOR),
        length: number((lost.sectors.end - lost.sectors.start) * SECTOR),
        op: (*op).into(),
        meta: *meta,
        how: how_of(lost.how).into(),
        to: match lost.how {
            How::Moved(sector) => Some(number(sector * SECTOR)),
            How::Flipped(bit) => Some(bit.into()),
            How::Missing | How::Garbage => None,
        },
    }
}

impl ObjectFinalize for FoundState {
    fn finalize(self, env: Env) -> Result<()> {
        env.adjust_external_memory(-self.bytes).map(drop)
    }
}

#[napi]
impl FoundState {
    /// What it lacks of the newest content.
    #[napi(getter)]
    pub fn lost(&self) -> Vec<LostWrite> {
        self.lost.iter().map(told).collect()
    }

    /// The marks that were set before the cut.
    #[napi(getter)]
    pub fn marks(&self) -> Vec<String> {
        self.marks.clone()
    }

    /// What happened until the cut, and what became of it. At most `most` entries are named, those of the writes `first` before all
    /// others.
    #[napi]
    pub fn account(&self, env: &Env, first: Vec<f64>, most: u32) -> Result<CrashAccount> {
        let first = first.iter().map(|write| whole("write", *write)).collect::<CoreResult<Vec<_>>>();
        let first = first.map_err(|error| raised(env, &error))?;
        let Bounds { model, unit, sectors, .. } = self.bounds;
        let wanted =
            Wanted { first: &first, most: usize::try_from(most).unwrap_or(usize::MAX), unit, sectors };
        let lost: Vec<_> = self.lost.iter().map(|missing| missing.lost.clone()).collect();
        let account = Account::new(&self.log, self.at, &lost, wanted);
        Ok(account::told(account, name_of(model), self.at, (sectors, unit)))
    }

    /// For a disk with this content, which can become another state.
    #[napi]
    pub fn view(&self) -> StateView {
        StateView(Arc::new(self.view.copy()))
    }
}

/// What a disk is over that has one state after the other.
#[napi]
pub struct StateView(Arc<View>);

#[napi]
impl StateView {
    /// The number by which a backend of the kind `crash-state` names it in this process, until it is forgotten.
    #[napi]
    pub fn keep(&self) -> u32 {
        crash_state::keep(self.0.clone())
    }
}

/// Makes the disk of a state that of another one, which nobody uses.
pub fn turn_into(device: &ublk_core::Device, disk: &View, other: &View, cancel: &Cancel) -> CoreResult<()> {
    other.check()?;
    device.again(disk.properties().size, cancel, || disk.turn_into(other))
}

impl StateView {
    /// What [`turn_into`] takes.
    pub fn shared(&self) -> Arc<View> {
        self.0.clone()
    }
}

impl FoundState {
    /// The same.
    pub fn shared(&self) -> Arc<View> {
        self.view.clone()
    }
}

/// No more disks are made of the content with that number.
#[napi]
pub fn forget_crash_state(number: u32) {
    crash_state::forget(number);
}

const SECTOR: u64 = 512;

const MODELS: [(&str, Model); 8] = [
    ("prefix", Model::Prefix),
    ("writes", Model::Writes),
    ("torn", Model::Torn),
    ("garbage", Model::Garbage),
    ("misdirected", Model::Misdirected),
    ("bit-rot", Model::BitRot),
    ("lying-flush", Model::LyingFlush),
    ("ignored-fua", Model::IgnoredFua),
];

fn model(name: &str) -> CoreResult<Model> {
    let known = MODELS.into_iter().find(|(each, _)| *each == name);
    known.map(|(_, model)| model).ok_or_else(|| CoreError::invalid(format!("there is no model {name:?}")))
}

fn name_of(model: Model) -> &'static str {
    MODELS.into_iter().find(|(_, each)| *each == model).map_or("", |(name, _)| name)
}

fn system(error: &std::io::Error) -> CoreError {
    CoreError::system("cannot read the log's data", error).kind(ErrorKind::Backend)
}

/// The states of a disk, one after the other.
#[napi(custom_finalize)]
pub struct CrashStates {
    recorder: Arc<Recorder>,
    /// As that of a state.
    bytes: i64,
    states: Arc<Prepared>,
}

/// Prepared when the first of them is looked for, on the thread that does that.
type Prepared = LazyLock<Mutex<States>, Box<dyn FnOnce() -> Mutex<States> + Send>>;

impl ObjectFinalize for CrashStates {
    fn finalize(self, env: Env) -> Result<()> {
        env.adjust_external_memory(-self.bytes).map(drop)
    }
}

fn bytes(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// One of the states, or none.
type Looked = std::io::Result<Option<State>>;

impl CrashStates {
    /// V8 is told how much memory it takes up.
    pub fn told(&self, env: &Env) -> Result<()> {
        env.adjust_external_memory(self.bytes).map(drop)
    }

    /// Looks for a state on another thread: that takes a while where much was written.
    fn look<'env>(
        &self,
        env: &'env Env,
        look: impl FnOnce(&mut States, &dyn LogData) -> CoreResult<Looked> + Send + 'static,
    ) -> Result<Object<'env>> {
        let (recorder, states) = (self.recorder.clone(), self.states.clone());
        let work = move || {
            let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
            let state = look(&mut states, &*recorder)?.map_err(|error| system(&error))?;
            Ok(state.map(|state| found(&recorder, &states, &state)))
        };
        promise(env, work, |env, found| {
            if let Some(FoundState { bytes, .. }) = &found {
                env.adjust_external_memory(*bytes)?;
            }
            Ok(found)
        })
    }
}

#[napi]
impl CrashStates {
    /// The next state; `null`: there is no other.
    #[napi(ts_return_type = "Promise<FoundState | null>")]
    pub fn next<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        self.look(env, |states, data| Ok(states.next(data)))
    }

    /// The state with that number at a moment.
    #[napi(ts_return_type = "Promise<FoundState | null>")]
    pub fn replay<'env>(&self, env: &'env Env, cut: f64, number: f64) -> Result<Object<'env>> {
        self.look(env, move |states, data| {
            Ok(states.replay(whole("cut", cut)?, whole("number", number)?, data))
        })
    }

    /// The writes that were started at a moment or later, before the next mark, in order.
    #[napi(ts_return_type = "Promise<LaterWrite[]>")]
    pub fn later<'env>(&self, env: &'env Env, cut: f64) -> Result<Object<'env>> {
        let states = self.states.clone();
        let work = move || {
            let states = states.lock().unwrap_or_else(PoisonError::into_inner);
            let one = |(cut, lost)| LaterWrite { cut: number(cut), write: told(&missing(&states, &lost)) };
            Ok(states.later(whole("cut", cut)?).into_iter().map(one).collect::<Vec<_>>())
        };
        promise(env, work, |_, later| Ok(later))
    }

    /// The newest content at a moment without these parts of writes, as far as a disk can lack them alone.
    #[napi(ts_return_type = "Promise<FoundState | null>")]
    pub fn without<'env>(&self, env: &'env Env, cut: f64, lost: Vec<LostWrite>) -> Result<Object<'env>> {
        self.look(env, move |states, data| {
            let lost = lost.iter().map(lost_of).collect::<CoreResult<Vec<_>>>()?;
            let moment = whole("cut", cut)?;
            if !states.covers(moment) {
                return Ok(Ok(None));
            }
            Ok(states.without(moment, &lost, data).map(Some))
        })
    }
}

fn lost_of(lost: &LostWrite) -> CoreResult<Lost> {
    let (offset, length): (u64, u64) = (whole("offset", lost.offset)?, whole("length", lost.length)?);
    let end = offset.checked_add(length).ok_or_else(|| CoreError::invalid("there is no such write"))?;
    let to = || whole::<u64>("to", lost.to.unwrap_or(f64::NAN));
    let how = match lost.how.as_str() {
        "garbage" => How::Garbage,
        "moved" => How::Moved(to()? / SECTOR),
        "flipped" => How::Flipped(u32::try_from(to()? % (SECTOR * 8)).unwrap_or(0)),
        _ => How::Missing,
    };
    Ok(Lost { write: whole("write", lost.write)?, sectors: offset / SECTOR..end / SECTOR, how })
}

fn how_of(how: How) -> &'static str {
    match how {
        How::Missing => "missing",
        How::Garbage => "garbage",
        How::Moved(_) => "moved",
        How::Flipped(_) => "flipped",
    }
}

fn missing(states: &States, lost: &Lost) -> Missing {
    let write = &states.log().writes()[lost.write];
    let op = match write.op {
        Op::Discard => "discard",
        Op::WriteZeroes => "write-zeroes",
        _ => "write",
    };
    Missing { lost: lost.clone(), op, meta: write.flags.has(Flags::META) }
}

fn found(recorder: &Recorder, states: &States, state: &State) -> FoundState {
    let log = states.log();
    let before = log.marks().iter().take_while(|mark| mark.at < state.cut);
    let view = Arc::new(recorder.view(state));
    FoundState {
        bytes: bytes(view.own_bytes()),
        view,
        cut: number(state.cut),
        number: state.number.map(number),
        record: state.record,
        lost: state.lost.iter().map(|lost| missing(states, lost)).collect(),
        marks: before.map(|mark| mark.name.clone()).collect(),
        at: state.cut,
        log: log.clone(),
        bounds: states.bounds().clone(),
    }
}

/// The states of a recorded disk.
pub fn states_of(recorder: &Arc<Recorder>, bounds: &CrashBounds) -> CoreResult<CrashStates> {
    let bytes = bytes(recorder.log_bytes());
    let wanted = Bounds {
        model: model(&bounds.model)?,
        moments: recorder.between(bounds.from.as_deref(), bounds.to.as_deref())?,
        budget: whole("budget", bounds.budget)?,
        unit: recorder.unit(),
        seed: whole("seed", bounds.seed)?,
        sectors: recorder.sectors(),
    };
    let prepare = recorder.states(wanted);
    let states: Prepared = LazyLock::new(Box::new(move || Mutex::new(prepare())));
    Ok(CrashStates { recorder: recorder.clone(), bytes, states: Arc::new(states) })
}

/// Cuts the power of a recorded disk.
pub fn cut(recorder: &Recorder, by: &str, seed: f64) -> CoreResult<()> {
    recorder.cut(model(by)?, whole("seed", seed)?)
}

/// The event at which the power is going to fail.
pub fn trigger(flush: Option<f64>, write: Option<f64>, mark: Option<String>) -> CoreResult<Trigger> {
    Ok(match (flush, write, mark) {
        (Some(flush), None, None) => Trigger::Flush(whole("flush", flush)?),
        (None, Some(write), None) => Trigger::Write(whole("write", write)?),
        (None, None, Some(mark)) => Trigger::Mark(mark),
        _ => return Err(CoreError::invalid("the power fails at a flush, a write or a mark")),
    })
}

/// A log that was written.
#[napi(object)]
pub struct ExportedLog {
    /// How many entries it has.
    pub entries: f64,
    /// The length of the file, in bytes.
    pub bytes: f64,
}

/// Writes what a recorded disk with that number has recorded to a file, which appears when it is complete.
pub fn export(
    recorder: &Recorder,
    device: u32,
    path: &Path,
    cancel: &ublk_core::Cancel,
) -> CoreResult<ExportedLog> {
    let dir = path.parent().unwrap_or(path);
    if is_on(dir, &format!("ublkb{device}")) {
        return Err(CoreError::invalid(format!("{} is on the disk itself", path.display()))
            .hint("write the log to another file system"));
    }
    let output = Output::create(path)?;
    let done = recorder.export(&output.file()?, path, &|| cancel.is_cancelled())?;
    output.complete()?;
    Ok(ExportedLog { entries: number(done.entries), bytes: number(done.bytes) })
}

/// What was answered since the last call: `CHANGE_FIELDS` numbers for each; see `wire.rs`.
pub fn watched(recorder: &Recorder) -> Vec<f64> {
    let numbers = |done: Completed| {
        let mut fields = [0.0; wire::CHANGE_FIELDS];
        fields[wire::CHANGE_OP] = wire::op(done.op).into();
        fields[wire::CHANGE_FLAGS] = wire::flags(done.flags).into();
        fields[wire::CHANGE_OFFSET] = number(done.sectors.start * SECTOR);
        fields[wire::CHANGE_LENGTH] = number((done.sectors.end - done.sectors.start) * SECTOR);
        fields
    };
    recorder.watched().into_iter().flat_map(numbers).collect()
}
