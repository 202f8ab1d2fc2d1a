//! The transport with a command for every tag. Its completions come in any order.

use crate::driver::{Command, Completion, Driver, What};
use crate::link::{Link, News};
use crate::steps::Pick;

pub struct PerIo {
    prepared: Vec<Command>,
    completions: Vec<Completion>,
}

impl Link for PerIo {
    fn new(depth: u16) -> Self {
        let prepared = (0..depth).map(|tag| Command { tag, what: What::Fetch }).collect();
        Self { prepared, completions: Vec::new() }
    }

    fn answer(&mut self, answer: Command) {
        self.prepared.push(answer);
    }

    fn submit(&mut self, driver: &mut Driver, most: usize) {
        let count = most.min(self.prepared.len());
        for command in self.prepared.drain(..count) {
            self.completions.extend(driver.command(command));
        }
    }

    fn refuse(&mut self, error: i32) {
        if !self.prepared.is_empty() {
            let tag = self.prepared.remove(0).tag;
            self.completions.push(Completion { tag, result: error });
        }
    }

    fn dispatch(&mut self, driver: &mut Driver, which: Pick) -> bool {
        let completion = driver.dispatch(which);
        self.completions.extend(completion);
        completion.is_some()
    }

    fn tell(&mut self, _most: usize) {}

    fn overrun(&mut self) {}

    fn abort(&mut self, driver: &mut Driver, which: Pick) -> bool {
        let completion = driver.abort(which);
        self.completions.extend(completion);
        completion.is_some()
    }

    fn hand_over(&mut self) -> bool {
        false
    }

    fn deliver(&mut self, which: Pick) -> Option<Vec<News>> {
        if self.completions.is_empty() {
            return None;
        }
        let which = which.of(self.completions.len());
        Some(vec![News::Tag(self.completions.swap_remove(which))])
    }

    fn outstanding(&self, driver: &Driver) -> Vec<u16> {
        let prepared = self.prepared.iter().map(|command| command.tag);
        let completed = self.completions.iter().map(|completion| completion.tag);
        prepared.chain(completed).chain(driver.offered()).collect()
    }

    fn quiet(&self) -> bool {
        true
    }

    fn busy(&self) -> bool {
        !self.prepared.is_empty() || !self.completions.is_empty()
    }
}
