//! A queue's connection to the server.

use super::asked::{Entry, Progress, Table};
use super::hub::{ARRIVED, GIVEN_UP, Hub, Joined, LOST};
use super::incoming::{Filling, Incoming, RECEIVED};
use super::outgoing::{Outgoing, SENT};
use super::protocol::{COMMAND_FUA, Command, Request, errno_of};
use super::replies::{Decoder, Event, Violation};
use super::silence::{Silence, TICK};
use super::uri::Place;
use crate::number::to_usize;
use crate::queue::{Completer, Errno, Key, Line, LineId, LineIo, Slot, Stretch, Token};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    /// It is lost, and operations of it are still in the ring.
    Lost,
    /// There is none.
    Away,
}

/// See the [module](self).
pub struct Link {
    hub: Arc<Hub>,
    id: u64,
    socket: Option<Arc<OwnedFd>>,
    epoch: i32,
    slot: Slot,
    state: State,
    asked: Table,
    /// Those that are to be sent, in this order.
    ready: VecDeque<u32>,
    outgoing: Outgoing,
    incoming: Incoming,
    decoder: Decoder,
    silence: Silence,
    /// A flush for the journal is under way.
    flushing: bool,
}

impl Link {
    pub fn new(hub: Arc<Hub>, joined: Joined, slot: Slot) -> Self {
        let Joined { id, socket, epoch } = joined;
        let (decoder, silence) = (Decoder::new(hub.export.structured), Silence::new(hub.timeout));
        Self {
            hub,
            id,
            socket: Some(socket),
            epoch,
            slot,
            state: State::Up,
            asked: Table::default(),
            ready: VecDeque::new(),
            outgoing: Outgoing::new(),
            incoming: Incoming::new(),
            decoder,
            silence,
            flushing: false,
        }
    }

    /// How it is told something.
    pub fn told_by(&self, completer: Completer, line: LineId) {
        self.hub.tell(self.id, completer, line);
    }

    /// Asks the server for something, with the other requests of the turn.
    pub fn ask(
        &mut self,
        request: Request,
        token: Token,
        data: Option<Stretch>,
        then_flush: bool,
    ) -> Result<(), Errno> {
        if self.hub.is_given_up() && self.state != State::Up {
            return Err(libc::EIO);
        }
        if request.command == Command::Flush && self.hub.flush_fails() {
            return Err(libc::EIO);
        }
        let number = self.asked.add(Entry::new(request, Some(token), data, then_flush, self.hub.losses()));
        self.ready.push_back(number);
        Ok(())
    }

    /// Sends what is ready, and receives.
    fn go(&mut self, io: &mut LineIo<'_>) {
        if self.state != State::Up || io.leaving() {
            return;
        }
        while self.outgoing.has_room() {
            let Some(&number) = self.ready.front() else { break };
            let Some(entry) = self.asked.get(number) else {
                self.ready.pop_front();
                continue;
            };
            if self.hub.has_journal() && entry.changes() && !entry.flushing && !entry.reserved {
                entry.reserved =
                    self.hub.journal().is_some_and(|mut journal| journal.reserve(entry.journal_data()));
                if !entry.reserved {
                    break; // until a flush has made room
                }
            }
            entry.mark = (self.hub.answered(), self.hub.journal().map_or(0, |journal| journal.next()));
            entry.progress = Progress::Sending;
            self.outgoing.add(number, &entry.to_send(), entry.data_to_send());
            self.ready.pop_front();
        }
        self.flush_for_the_journal();
        let near = matches!(self.hub.uri.place, Place::Unix(_));
        if !self.outgoing.busy()
            && let Err(error) = self.outgoing.send(io, self.slot, near && self.ready.is_empty())
        {
            return self.lose(io, &error.to_string());
        }
        if let Err(error) = self.incoming.receive(io, self.slot) {
            return self.lose(io, &error.to_string());
        }
        if !self.asked.is_empty()
            && let Err(error) = self.silence.watch(io)
        {
            self.lose(io, &error.to_string());
        }
    }

    /// Some time has passed.
    fn passed(&mut self, io: &mut LineIo<'_>) {
        let under_way = self.state == State::Up && self.asked.under_way();
        if self.silence.passed(under_way) {
            let seconds = self.hub.timeout.as_secs_f64();
            self.lose(io, &format!("nothing has come from it for {seconds} s"));
        } else if under_way && let Err(error) = self.silence.watch(io) {
            self.lose(io, &error.to_string());
        }
    }

    /// Makes room in the journal, before writes have to wait for it.
    fn flush_for_the_journal(&mut self) {
        let wanted = self.hub.journal().is_some_and(|journal| journal.wants_flush());
        if !wanted || self.flushing || !self.outgoing.has_room() {
            return;
        }
        self.flushing = true;
        let flush = Request { command: Command::Flush, flags: 0, cookie: 0, offset: 0, length: 0 };
        let number = self.asked.add(Entry::new(flush, None, None, false, self.hub.losses()));
        let mark = (self.hub.answered(), self.hub.journal().map_or(0, |journal| journal.next()));
        if let Some(entry) = self.asked.get(number) {
            (entry.mark, entry.progress) = (mark, Progress::Sending);
            self.outgoing.add(number, &entry.to_send(), None);
        }
    }

    /// Makes sense of what has come.
    fn understand(&mut self, io: &mut LineIo<'_>) -> Result<(), Violation> {
        loop {
            if self.incoming.filling.is_some() {
                let Some(filled) = self.incoming.fill() else { return Ok(()) };
                if filled.last {
                    self.answered(io, filled.number, 0);
                }
                if self.state != State::Up {
                    return Ok(());
                }
                continue;
            }
            let mut input = self.incoming.bytes();
            let before = input.len();
            let event = self.decoder.next(&mut input, &|cookie| self.asked.wanted(cookie))?;
            let used = before - input.len();
            self.incoming.used(used);
            let Some(event) = event else { return Ok(()) };
            self.happened(io, event)?;
            if self.state != State::Up {
                return Ok(());
            }
        }
    }

    fn happened(&mut self, io: &mut LineIo<'_>, event: Event) -> Result<(), Violation> {
        const NOTHING: Violation = Violation("a reply to nothing");
        let (Event::Data { cookie, .. } | Event::Hole { cookie, .. } | Event::End { cookie, .. }) = event;
        let number = self.asked.named(cookie).ok_or(NOTHING)?;
        let entry = self.asked.get(number).ok_or(NOTHING)?;
        match event {
            Event::Data { offset, length, last, .. } | Event::Hole { offset, length, last, .. } => {
                let at = offset - entry.request.offset; // the decoder has checked that it is within
                #[expect(clippy::cast_possible_truncation, reason = "within a read")]
                entry.covered.add(at as u32, length)?;
                let mut data = entry.data.ok_or(NOTHING)?;
                let (at, left) = (to_usize(at), to_usize(length.into()));
                if matches!(event, Event::Data { .. }) {
                    self.incoming.filling = Some(Filling { number, data, at, left, last });
                    return Ok(());
                }
                // SAFETY: the request was asked for and is not answered.
                unsafe { data.zero(at, left) };
                if last {
                    self.answered(io, number, 0);
                }
            }
            Event::End { error, last, .. } => {
                if entry.error == 0 {
                    entry.error = error;
                }
                if last {
                    self.answered(io, number, error);
                }
            }
        }
        Ok(())
    }

    /// The server has answered a request. `error`: the protocol's number.
    fn answered(&mut self, io: &mut LineIo<'_>, number: u32, error: u32) {
        let Some(entry) = self.asked.get(number) else { return };
        let error = if entry.error == 0 { error } else { entry.error };
        let Request { command, length, .. } = entry.request;
        if errno_of(error) == libc::ESHUTDOWN && error != 0 {
            return self.lose(io, "the server is shutting down");
        }
        if command == Command::Read && error == 0 && !entry.covered.all(length) {
            return self.lose(io, "it sent what makes no sense: a read of which a part is missing");
        }
        if entry.progress == Progress::Sending {
            entry.answer = Some(error);
            return;
        }
        self.settle(io, number, error);
    }

    /// The request was answered, and the ring does not use its data any more.
    fn settle(&mut self, io: &mut LineIo<'_>, number: u32, error: u32) {
        let Some(entry) = self.asked.get(number) else { return };
        let flush = entry.is_flush();
        if flush && error == 0 {
            let (answered, journal) = entry.mark;
            self.hub.flushed(answered);
            if let Some(mut kept) = self.hub.journal() {
                kept.forget(journal);
            }
        }
        if entry.changes() && !entry.flushing {
            self.wrote(number, error);
        }
        let Some(entry) = self.asked.get(number) else { return };
        if error == 0 && entry.then_flush && !entry.flushing {
            (entry.flushing, entry.progress, entry.answer) = (true, Progress::Ready, None);
            self.ready.push_back(number);
            return;
        }
        self.finish(io, number, if error == 0 { 0 } else { errno_of(error) });
    }

    /// A write was answered: what is not durable is remembered.
    fn wrote(&mut self, number: u32, error: u32) {
        let Some(entry) = self.asked.get(number) else { return };
        let reserved = std::mem::take(&mut entry.reserved);
        if let Some(mut journal) = self.hub.journal().filter(|_| reserved) {
            let data = entry.journal_data();
            if error == 0 {
                journal.push(&entry.request, data, |one, other| {
                    if let Some(from) = &entry.data {
                        // SAFETY: the request was asked for and is not answered.
                        unsafe {
                            from.get(0, one);
                            from.get(one.len(), other);
                        }
                    }
                });
            } else {
                journal.release(data);
            }
        }
        if error == 0 && entry.request.flags & COMMAND_FUA == 0 {
            self.hub.write_answered();
        }
    }

    /// The call goes on, with 0 or an error.
    fn finish(&mut self, io: &mut LineIo<'_>, number: u32, errno: Errno) {
        let Some(entry) = self.asked.remove(number) else { return };
        if entry.reserved
            && let Some(mut journal) = self.hub.journal()
        {
            journal.release(entry.journal_data());
        }
        let Some(token) = entry.token else {
            self.flushing = false;
            if errno != 0 {
                // Nobody has asked for this flush. What it has not made durable, the next one has to tell.
                self.hub.writes_may_be_lost();
                if let Some(mut journal) = self.hub.journal() {
                    journal.forget(entry.mark.1);
                }
            }
            return self.hub.journal_has_room(self.id);
        };
        let done = i32::try_from(entry.data.map_or(0, |data| data.length())).unwrap_or(i32::MAX);
        io.go_on(token, if errno == 0 { done } else { -errno });
    }

    /// The connection is lost.
    fn lose(&mut self, io: &mut LineIo<'_>, why: &str) {
        if self.state != State::Up || io.leaving() {
            return;
        }
        self.hub.lost(why);
        self.end(io);
    }

    /// All connections are given up: what is in the ring for this one ends soon. If it cannot be cancelled, the hub shuts the socket.
    fn end(&mut self, io: &mut LineIo<'_>) {
        self.state = State::Lost;
        for (key, busy) in [(SENT, self.outgoing.busy()), (RECEIVED, self.incoming.busy())] {
            if busy {
                let _ = io.cancel(key);
            }
        }
        self.rest(io);
    }

    /// Nothing of a lost connection is in the ring any more: what was not answered waits for the next one.
    fn rest(&mut self, io: &mut LineIo<'_>) {
        if self.state != State::Lost || self.outgoing.busy() || self.incoming.busy() {
            return;
        }
        while let Some(number) = self.outgoing.take(io) {
            let answer = self.asked.get(number).and_then(|entry| {
                entry.progress = Progress::Sent;
                entry.answer.take()
            });
            if let Some(error) = answer {
                self.settle(io, number, error);
            }
        }
        self.incoming.begin();
        for number in self.asked.which(|entry| entry.token.is_none()) {
            // What it was to make durable is sent again.
            self.asked.remove(number);
            self.flushing = false;
        }
        self.asked.again();
        self.ready = self.asked.which(|_| true).into();
        (self.state, self.socket) = (State::Away, None);
        self.hub.quiet(self.id);
        if self.hub.is_given_up() {
            self.fail_all(io);
        }
    }

    /// There is a connection again.
    fn arrived(&mut self, io: &mut LineIo<'_>) {
        if self.state == State::Away
            && let Some(Joined { socket, epoch, .. }) = self.hub.arrived(self.id)
        {
            if io.replace_file(self.slot, socket.as_fd()).is_err() {
                self.hub.quiet(self.id);
                return self.fail_all(io);
            }
            (self.socket, self.epoch, self.state) = (Some(socket), epoch, State::Up);
            self.silence.heard();
            self.decoder = Decoder::new(self.hub.export.structured);
            self.fail_flushes(io);
        }
        self.go(io);
    }

    /// Flushes were asked for before writes were lost, and cannot keep their promise: those of all queues.
    fn fail_flushes(&mut self, io: &mut LineIo<'_>) {
        let losses = self.hub.losses();
        let before = |entry: &Entry| entry.request.command == Command::Flush && entry.losses < losses;
        for number in self.asked.which(before) {
            self.hub.flush_fails(); // it has, so the next one need not
            self.finish(io, number, libc::EIO);
        }
    }

    fn fail_all(&mut self, io: &mut LineIo<'_>) {
        for number in self.asked.which(|_| true) {
            self.finish(io, number, libc::EIO);
        }
        self.ready.clear();
    }

    fn sent(&mut self, io: &mut LineIo<'_>, result: i32) {
        match self.outgoing.sent(io, self.slot, result) {
            Ok(false) => {}
            Ok(true) => {
                self.silence.heard(); // it takes what it is sent
                while let Some(number) = self.outgoing.take(io) {
                    let Some(entry) = self.asked.get(number) else { continue };
                    entry.progress = Progress::Sent;
                    if let Some(error) = entry.answer.take() {
                        self.settle(io, number, error);
                    }
                }
                self.go(io);
            }
            Err(errno) => self.lose(io, &std::io::Error::from_raw_os_error(errno).to_string()),
        }
    }

    fn received(&mut self, io: &mut LineIo<'_>, result: i32) {
        match self.incoming.received(io, result) {
            Ok(Some(())) => {
                self.silence.heard();
                match self.understand(io) {
                    Ok(()) => self.go(io),
                    Err(Violation(what)) => self.lose(io, &format!("it sent what makes no sense: {what}")),
                }
            }
            Ok(None) => self.go(io),
            Err(0) => self.lose(io, "the server has ended it"),
            Err(errno) => self.lose(io, &std::io::Error::from_raw_os_error(errno).to_string()),
        }
    }
}

impl Line for Link {
    fn completed(&mut self, io: &mut LineIo<'_>, key: Key, result: i32) {
        match key {
            SENT if io.leaving() || self.state == State::Lost => {
                let _ = self.outgoing.sent(io, self.slot, -libc::ECANCELED);
            }
            RECEIVED if io.leaving() || self.state == State::Lost => {
                let _ = self.incoming.received(io, -libc::ECANCELED);
            }
            SENT => self.sent(io, result),
            RECEIVED => self.received(io, result),
            TICK if io.leaving() => {}
            TICK => self.passed(io),
            ARRIVED => self.arrived(io),
            LOST if self.state == State::Up && self.epoch == result => self.end(io),
            GIVEN_UP if self.state == State::Away => self.fail_all(io),
            _ => {}
        }
        if !io.leaving() {
            self.rest(io);
        } else if !self.outgoing.busy() {
            while self.outgoing.take(io).is_some() {}
        }
    }

    fn turned(&mut self, io: &mut LineIo<'_>) {
        self.go(io);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let idle = !self.outgoing.busy() && !self.incoming.busy() && self.incoming.is_empty();
        let clean = self.state == State::Up && idle && self.asked.is_empty();
        self.socket = None;
        self.hub.leave(self.id, clean);
    }
}
