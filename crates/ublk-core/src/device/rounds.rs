//! Many queues on one thread, which sleeps in one system call for all of them.
//!
//! It sleeps in the ring of one of its queues, its *home*, which listens to a bell that the rings of all others ring. So
//! the home is served as by a thread of its own: one call submits its answers and waits for its requests. The others
//! cost two more, and the queue that is alone to have work becomes the home.

use super::station::Station;
use crate::queue::{Wait, Waker};
use std::time::Instant;

/// After so many rounds without work for the home another queue becomes it.
const STRAYS: u32 = 16;

/// See the [module](self).
pub struct Rounds {
    /// The first is the home.
    stations: Vec<Station>,
    bell: Waker,
    /// The bell was rung, or not all was done that there was to do.
    attend: bool,
    rung: bool,
    strays: u32,
}

impl Rounds {
    /// Without queues. Whoever rings the bell makes a sleeping [`turn`](Self::turn) return.
    pub fn new(bell: Waker) -> Self {
        Self { stations: Vec::new(), bell, attend: true, rung: false, strays: 0 }
    }

    /// Serves this one too.
    pub fn add(&mut self, mut station: Station) {
        if self.stations.is_empty() {
            station.arrange(|queue| queue.listen(self.bell.fd()));
        } else {
            station.arrange(|queue| queue.ring_bell(&self.bell));
        }
        self.stations.push(station);
        self.attend = true; // what it has to do already rings no bell
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.stations.is_empty()
    }

    /// Whether the bell was rung before the last turn.
    pub fn rung(&self) -> bool {
        self.rung
    }

    /// One round: every queue that has something to do gets a turn. Where none has, sleeps until one has or the bell is
    /// rung. How many queues were left; not to be called without any.
    pub fn turn(&mut self) -> usize {
        let mut busy = None;
        if self.attend {
            let mut more = false;
            for (at, station) in self.stations.iter_mut().enumerate().skip(1) {
                if station.due() && !station.over() {
                    station.step(Wait::No);
                    busy = if station.worked() { Some(at) } else { busy };
                }
                // Not only its requests: the answers want to be sent.
                more |= station.due();
            }
            self.attend = more;
        }
        let wait = if self.attend { Wait::No } else { self.patience() };
        let home = &mut self.stations[0];
        let turned = !home.over() && (wait != Wait::No || home.due());
        if turned {
            home.step(wait);
        }
        self.rung = turned && home.heard();
        self.attend |= self.rung || matches!(wait, Wait::AtMost(_));
        self.strays = if turned && home.worked() { 0 } else { self.strays + 1 };
        if let Some(at) = busy.filter(|_| self.strays >= STRAYS && !home.over()) {
            home.arrange(|queue| queue.listen_no_more().and_then(|()| queue.ring_bell(&self.bell)));
            self.move_into(at);
        }
        self.leave()
    }

    /// Makes the station there the home.
    fn move_into(&mut self, at: usize) {
        self.stations.swap(0, at);
        self.stations[0].arrange(|queue| queue.ring_no_bell().and_then(|()| queue.listen(self.bell.fd())));
        (self.strays, self.attend) = (0, true); // what came meanwhile may have rung no bell
    }

    /// Closes the stations that are over.
    fn leave(&mut self) -> usize {
        let (before, mut homeless) = (self.stations.len(), false);
        for at in (0..before).rev() {
            if self.stations[at].over() {
                homeless |= at == 0;
                self.stations.swap_remove(at).close();
            }
        }
        if homeless && !self.stations.is_empty() {
            self.move_into(0);
        }
        before - self.stations.len()
    }

    /// How long there is nothing to do, if nothing comes.
    fn patience(&self) -> Wait {
        let until = self.stations.iter().filter_map(Station::deadline).min();
        until.map_or(Wait::Forever, |until| Wait::AtMost(until.saturating_duration_since(Instant::now())))
    }
}
