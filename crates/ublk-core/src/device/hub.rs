//! The threads that serve queues with native engines: one a queue, or a few for the queues of all devices.

use super::rounds::Rounds;
use super::station::{Plan, Station};
use crate::error::{Error, Result};
use crate::queue::{Wait, Waker};
use crate::spec::Threads;
use std::num::NonZero;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, available_parallelism};
use std::time::{Duration, Instant};

/// Has the seat taken and served.
pub fn serve(plan: Plan, threads: Threads) -> Result<()> {
    match threads {
        Threads::Own => own(plan),
        Threads::Shared => shared(plan),
    }
}

fn own(plan: Plan) -> Result<()> {
    let (queue, part) = (plan.seat.index(), plan.seat.part());
    let mut name = format!("ublk{}q{queue}", plan.seat.hold.shared.id);
    if part.of > 1 {
        name += &format!("t{}", part.index);
    }
    spawn(name, move || {
        if let Some(cpus) = &plan.cpus {
            cpus.keep();
        }
        let Some(mut station) = Station::open(plan) else { return };
        while !station.over() {
            let left = station.deadline().map(|until| until.saturating_duration_since(Instant::now()));
            station.step(left.map_or(Wait::Forever, Wait::AtMost));
        }
        station.close();
    })
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<()> {
    Builder::new()
        .name(name)
        .stack_size(256 << 10)
        .spawn(run)
        .map(drop)
        .map_err(|error| Error::system("cannot start a queue's thread", &error))
}

/// A thread that queues share. It lives while it has any.
struct Hub {
    number: usize,
    /// What it has or is about to have.
    queues: usize,
    /// What it is to take.
    plans: Vec<Plan>,
    bell: Waker,
}

/// More would hardly find more to do: a thread that shares queues sleeps only when none of them has work.
const MOST_HUBS: usize = 4;

/// The process's hubs.
static HUBS: Mutex<Vec<Hub>> = Mutex::new(Vec::new());

fn hubs() -> MutexGuard<'static, Vec<Hub>> {
    HUBS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the seat to the hub with the fewest queues: to a new one as long as there are fewer than that is good for.
fn shared(mut plan: Plan) -> Result<()> {
    plan.seat.config.poll = Duration::ZERO; // that would keep the other queues waiting
    let most = available_parallelism().map_or(1, NonZero::get).min(MOST_HUBS);
    let mut hubs = hubs();
    if hubs.len() < most {
        match start(&mut hubs) {
            Err(error) if hubs.is_empty() => return Err(error),
            _ => {} // the others do
        }
    }
    if let Some(hub) = hubs.iter_mut().min_by_key(|hub| hub.queues) {
        hub.queues += 1;
        hub.plans.push(plan);
        hub.bell.wake();
    }
    Ok(())
}

fn start(hubs: &mut Vec<Hub>) -> Result<()> {
    let number = (0..).find(|number| hubs.iter().all(|hub| hub.number != *number)).unwrap_or_default();
    let bell = Waker::new()?;
    let mine = bell.clone();
    spawn(format!("ublk-hub{number}"), move || run(number, mine))?;
    hubs.push(Hub { number, queues: 0, plans: Vec::new(), bell });
    Ok(())
}

fn run(number: usize, bell: Waker) {
    let _gone = Gone(number);
    let (mut rounds, mut left) = (Rounds::new(bell), 0);
    loop {
        if left > 0 || rounds.rung() || rounds.is_empty() {
            let Some(plans) = next(number, left, rounds.is_empty()) else { return };
            left = 0;
            for plan in plans {
                match Station::open(plan) {
                    Some(station) => rounds.add(station),
                    None => left += 1,
                }
            }
        }
        if !rounds.is_empty() {
            left += rounds.turn();
        }
    }
}

/// What the hub is to take; nothing, and the hub is gone, when it has no queues and gets none.
fn next(number: usize, left: usize, idle: bool) -> Option<Vec<Plan>> {
    let mut hubs = hubs();
    let at = hubs.iter().position(|hub| hub.number == number)?;
    let hub = &mut hubs[at];
    hub.queues -= left;
    if idle && hub.plans.is_empty() {
        hubs.remove(at);
        return None;
    }
    Some(std::mem::take(&mut hub.plans))
}

/// Nobody gives queues to a hub whose thread panicked.
struct Gone(usize);

impl Drop for Gone {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return; // its number may be another's by now
        }
        let mut hubs = hubs();
        let gone = hubs.iter().position(|hub| hub.number == self.0).map(|at| hubs.remove(at));
        drop(hubs);
        drop(gone); // its seats tell their devices
    }
}
