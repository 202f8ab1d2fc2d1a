//! The power is cut because of what was recorded.

use super::{MAX_IO, flush, read, recorder, write};
use crate::backend::crash::Model;
use crate::backend::recorder::Recorder;
use crate::backend::testing::Bench;
use crate::queue::{Descriptor, Op};
use crate::request::Flags;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

fn watched(recorder: &Recorder) -> Vec<(Op, Range<u64>, bool)> {
    let fields = recorder.watched();
    fields.into_iter().map(|done| (done.op, done.sectors, done.flags.has(Flags::FUA))).collect()
}

fn watch(recorder: &Recorder) -> Arc<AtomicUsize> {
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    recorder.watch(Box::new(move || {
        count.fetch_add(1, SeqCst);
    }));
    told
}

#[test]
fn who_watches_sees_each_answered_request_once_and_may_switch_the_power_off() {
    let recorder = recorder();
    let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
    write(&mut bench, 0, &[1; 512], Flags::NONE);
    let told = watch(&recorder);
    assert_eq!(watched(&recorder), [], "that was before");
    write(&mut bench, 512, &[2; 1024], Flags::NONE);
    flush(&mut bench);
    write(&mut bench, 0, &[3; 512], Flags::FUA);
    read(&mut bench, 0, 512);
    assert_eq!(told.load(SeqCst), 1);
    let expected = [(Op::Write, 1..3, false), (Op::Flush, 0..0, false), (Op::Write, 0..1, true)];
    assert_eq!(watched(&recorder), expected);
    flush(&mut bench);
    assert_eq!(told.load(SeqCst), 1, "whoever looks does so until there is nothing");
    assert_eq!(watched(&recorder), [(Op::Flush, 0..0, false)]);
    assert_eq!(watched(&recorder), []);
    flush(&mut bench);
    assert_eq!(told.load(SeqCst), 2);
    recorder.switch_off_now();
    recorder.switch_off_now();
    assert!(recorder.is_off());
    assert!(bench.start(0, Descriptor::new(Op::Flush, 0, 0)).unwrap().is_err());
    assert_eq!(watched(&recorder), [], "it is over");
}

#[test]
fn who_watches_while_the_power_is_off_sees_what_comes_when_it_is_on() {
    let recorder = recorder();
    let mut bench = Bench::new(recorder.clone(), 1, MAX_IO);
    write(&mut bench, 0, &[1; 512], Flags::NONE);
    recorder.cut(Model::Torn, 0).unwrap();
    let told = watch(&recorder);
    recorder.restore().unwrap();
    assert_eq!((told.load(SeqCst), watched(&recorder)), (0, Vec::new()));
    flush(&mut bench);
    assert_eq!((told.load(SeqCst), watched(&recorder).len()), (1, 1));
}
