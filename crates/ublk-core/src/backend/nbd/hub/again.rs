//! New connections in the place of lost ones.

use super::super::connect::Connection;
use super::super::fence::{Old, shut};
use super::ARRIVED;
use super::{CONNECT, FIRST_PAUSE, Hub, LONGEST_PAUSE, MOMENT, PASSED, told};
use crate::io_flusher::IoFlusher;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

impl Hub {
    pub(super) fn connect_again(&self) {
        let _flusher = IoFlusher::new(); // if it cannot be one, it is a thread like that of any other program
        let since = Instant::now();
        let mut state = self.state();
        while state.members.iter().any(|member| member.socket.is_some()) {
            let (woken, waited) =
                self.changed.wait_timeout(state, MOMENT).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if waited.timed_out() {
                let sockets = state.members.iter().filter_map(|member| member.socket.as_ref());
                sockets.for_each(|socket| shut(socket, libc::SHUT_RDWR));
            }
        }
        let mut old = std::mem::take(&mut state.old);
        let unflushed = self.unflushed();
        let witness = state.witness.take();
        let safe = witness.is_some_and(|witness| unflushed > 0 && self.makes_durable(witness));
        if unflushed > 0 && self.journal.is_none() && !safe {
            self.writes_may_be_lost();
            let what = format!("{unflushed} writes that it answered may be lost: the next flush fails");
            Self::report(&state, what);
        }
        self.flushed(self.answered());
        let (mut pause, mut attempts, mut why) = (FIRST_PAUSE, 0_u32, String::new());
        while !state.members.is_empty() {
            let wanted = state.members.len();
            drop(state);
            attempts += 1;
            let left = self.timeout.saturating_sub(since.elapsed());
            let limit = CONNECT.min(self.timeout).min(if self.is_given_up() { CONNECT } else { left });
            old.closed(Instant::now() + PASSED.min(limit));
            let made = self.connect_all(wanted, limit.max(MOMENT), &mut old);
            state = self.state();
            match made {
                Ok(connections) if state.members.len() <= connections.len() => {
                    self.given_up.store(false, Ordering::Relaxed);
                    self.counts.reconnects.fetch_add(1, Ordering::Relaxed);
                    let took = since.elapsed().as_secs_f64();
                    Self::report(&state, format!("connected to {} again after {took:.1} s", self.uri.place));
                    (state.broken, state.epoch) = (false, state.epoch.wrapping_add(1));
                    let mut connections = connections.into_iter();
                    for (member, connection) in state.members.iter_mut().zip(&mut connections) {
                        member.arrived = Some(Arc::new(OwnedFd::from(connection)));
                        member.told(ARRIVED, 0);
                    }
                    connections.for_each(Connection::close);
                    drop(state);
                    self.changed.notify_all();
                    return;
                }
                Ok(_) => continue, // a queue has come meanwhile
                Err(error) if error != why => {
                    Self::report(&state, format!("cannot connect to {}: {error}", self.uri.place));
                    why = error;
                }
                Err(_) => {}
            }
            if since.elapsed() >= self.timeout && !self.is_given_up() {
                let seconds = self.timeout.as_secs_f64();
                Self::report(
                    &state,
                    format!(
                        "no connection for {seconds} s ({attempts} attempts): requests fail until there is one"
                    ),
                );
                self.give_up(&state);
            }
            let left = self.timeout.saturating_sub(since.elapsed()).max(FIRST_PAUSE);
            let sleep = if self.is_given_up() { pause } else { pause.min(left) };
            let (woken, _) = self.changed.wait_timeout(state, sleep).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        state.broken = false;
    }

    /// A connection like the first one, or why there is none.
    pub(super) fn connect(&self, limit: Duration) -> std::result::Result<Connection, String> {
        if let Some(helper) = &self.helper {
            helper.ensure(true).map_err(|error| error.message)?;
        }
        let connection = Connection::new(&self.uri, limit, self.timeout).map_err(|why| told(&why))?;
        self.fits(&connection.export)?;
        Ok(connection)
    }

    /// So many connections, to a server that has all that was answered.
    fn connect_all(
        &self,
        wanted: usize,
        limit: Duration,
        old: &mut Old,
    ) -> std::result::Result<Vec<Connection>, String> {
        let mut first = self.connect(limit)?;
        // From here on it is known that the server goes on.
        if !old.closed(Instant::now() + CONNECT) {
            let what = "it has not closed the lost connections: what it was asked for there it may do later";
            Self::report(&self.state(), what.into());
            old.give_up();
        }
        if let Some(mut journal) = self.journal()
            && !journal.is_empty()
        {
            let failed = |error| format!("cannot send it again what it may have lost: {error}");
            for (what, data) in journal.items() {
                first.call(&what, data, Instant::now() + CONNECT).map_err(failed)?;
            }
            first.flush(Instant::now() + CONNECT).map_err(failed)?;
            let all = journal.next();
            journal.forget(all);
        }
        let mut connections = vec![first];
        while connections.len() < wanted {
            connections.push(self.connect(limit)?);
        }
        let has = connections.iter().map(|connection| connection.export.size).min().unwrap_or_default();
        let mut state = self.state();
        if has > self.size() && has != state.seen && state.witness.is_none() {
            let (at, disk) = (&self.uri.place, self.size());
            let what =
                format!("{at} has {has} bytes now, and the disk {disk}: it can be resized to that size");
            Self::report(&state, what);
        }
        state.seen = has;
        drop(state);
        Ok(connections)
    }
}
