//! What queues tell about their requests: counters, times, and each one to a function that listens.

use crate::number::number;
use crate::wire;
use napi::Status;
use napi::bindgen_prelude::{Float64Array, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Result};
use napi_derive::napi;
use ublk_core::queue::Op;
use ublk_core::telemetry::clock::{Times, clock};
use ublk_core::telemetry::histogram::Snapshot;
use ublk_core::telemetry::trace::{Batch, Record, Tracing};
use ublk_core::telemetry::{QueueCounters, Tracer};

use crate::task::raised;
use std::sync::Arc;

/// How long requests were in service, in microseconds.
#[napi(object)]
pub struct Latency {
    /// How many there were.
    pub count: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The longest.
    pub max: f64,
    /// Each bucket that is not empty: its upper bound, and the number of requests in it.
    pub buckets: Float64Array,
}

/// Counters of one kind of request.
#[napi(object)]
pub struct OpCounters {
    /// Requests answered.
    pub ops: f64,
    /// Bytes done with success.
    pub bytes: f64,
    /// Requests answered with an error.
    pub errors: f64,
    /// How long they were in service, those with an error too.
    pub latency: Latency,
}

/// Counters of one queue.
#[napi(object)]
pub struct QueueStats {
    /// Its number.
    pub queue: u32,
    /// Reads.
    pub read: OpCounters,
    /// Writes.
    pub write: OpCounters,
    /// Flushes.
    pub flush: OpCounters,
    /// Discards.
    pub discard: OpCounters,
    /// Write-zeroes.
    pub write_zeroes: OpCounters,
    /// Requests taken and not answered yet.
    pub in_flight: f64,
    /// Turns of its loop: `io_uring_enter` calls, but for those of polling.
    pub turns: f64,
}

/// `threads`: the counters of each thread that serves the queue.
pub fn stats_of(queue: u32, threads: &[Arc<QueueCounters>]) -> QueueStats {
    let sum =
        |of: &dyn Fn(&QueueCounters) -> u64| number(threads.iter().map(|thread| of(thread)).sum::<u64>());
    let of = |op| OpCounters {
        ops: sum(&|thread| thread.of(op).ops.get()),
        bytes: sum(&|thread| thread.of(op).bytes.get()),
        errors: sum(&|thread| thread.of(op).errors.get()),
        latency: latency_of(threads, op),
    };
    QueueStats {
        queue,
        read: of(Op::Read),
        write: of(Op::Write),
        flush: of(Op::Flush),
        discard: of(Op::Discard),
        write_zeroes: of(Op::WriteZeroes),
        in_flight: sum(&QueueCounters::in_flight),
        turns: sum(&|thread| thread.turns.get()),
    }
}

fn latency_of(threads: &[Arc<QueueCounters>], op: Op) -> Latency {
    let mut found = Snapshot::default();
    threads.iter().for_each(|thread| found.add(&thread.service_of(op).snapshot()));
    let micros = |ticks: f64| ticks * clock().nanos_per_tick() / 1000.0;
    let buckets: Vec<_> =
        found.buckets.iter().flat_map(|(last, count)| [micros(number(*last)), number(*count)]).collect();
    Latency {
        count: number(found.count),
        mean: micros(found.mean()),
        max: micros(number(found.max)),
        buckets: buckets.into(),
    }
}

/// Requests that were answered.
#[napi(object)]
pub struct TraceBatch {
    /// `TRACE_FIELDS` numbers for each; see `wire.rs`.
    pub records: Float64Array,
    /// How many more there were since the batch before, which are lost.
    pub dropped: f64,
    /// Nothing comes after it.
    pub last: bool,
}

/// Tells a function of requests, until it is stopped.
#[napi]
pub struct Trace(Option<Tracing>);

#[napi]
impl Trace {
    /// Ends it: the last batch follows.
    #[napi]
    pub fn stop(&mut self) {
        self.0 = None;
    }
}

/// Few batches wait for JavaScript: what is too much for it is to be lost in the engine, where it is counted. Node stays
/// for the last of them.
type Call = ThreadsafeFunction<TraceBatch, (), TraceBatch, Status, false, false, 1>;

pub fn trace(env: &Env, tracer: &Arc<Tracer>, on_batch: &Function<'_, TraceBatch, ()>) -> Result<Trace> {
    let call: Call =
        on_batch.build_threadsafe_function().callee_handled::<false>().max_queue_size::<1>().build()?;
    let listener = Box::new(move |batch: &Batch<'_>| {
        let times = Times::now();
        let batch = TraceBatch {
            records: batch
                .records
                .iter()
                .flat_map(|record| fields(record, &times))
                .collect::<Vec<_>>()
                .into(),
            dropped: number(batch.dropped),
            last: batch.last,
        };
        let _ = call.call(batch, ThreadsafeFunctionCallMode::Blocking); // ending: nobody listens any more
    });
    match tracer.listen(listener) {
        Ok(tracing) => Ok(Trace(Some(tracing))),
        Err(error) => Err(raised(env, &error)),
    }
}

fn fields(record: &Record, times: &Times) -> [f64; wire::TRACE_FIELDS] {
    let what = &record.what;
    let mut fields = [0.0; wire::TRACE_FIELDS];
    fields[wire::TRACE_TIME] = times.date(record.ended) / 1e6;
    fields[wire::TRACE_QUEUE] = record.queue.into();
    fields[wire::TRACE_TAG] = record.tag.into();
    fields[wire::TRACE_OP] = wire::op(what.op).into();
    fields[wire::TRACE_FLAGS] = wire::flags(what.flags).into();
    fields[wire::TRACE_OFFSET] = number(what.offset);
    fields[wire::TRACE_LENGTH] = number(what.length);
    fields[wire::TRACE_RESULT] = record.result.into();
    fields[wire::TRACE_FAULTS] = record.faults.into();
    fields[wire::TRACE_LATENCY] = times.nanos_of(record.ticks) / 1000.0;
    fields
}
