//! What lies between a server and the driver: commands that the server has prepared, and completions in its ring.

use crate::driver::{Command, Completion, Driver};
use crate::steps::Pick;

/// What a completion says to the server.
#[derive(Debug, Clone, Copy)]
pub enum News {
    /// Of one tag.
    Tag(Completion),
    /// All tags are taken back.
    Withdrawn,
    /// The driver refused a command that is no single tag's.
    Refused,
}

/// A transport, as one server uses it.
pub trait Link {
    /// One whose server has prepared to offer all tags.
    fn new(depth: u16) -> Self;
    /// The server prepares an answer.
    fn answer(&mut self, answer: Command);
    /// The driver takes this number of commands.
    fn submit(&mut self, driver: &mut Driver, most: usize);
    /// The driver refuses the next command.
    fn refuse(&mut self, error: i32);
    /// The driver gives a waiting request to an offered tag; whether it could.
    fn dispatch(&mut self, driver: &mut Driver, which: Pick) -> bool;
    /// The driver delivers requests that were given to tags.
    fn tell(&mut self, most: usize);
    /// It cannot.
    fn overrun(&mut self);
    /// The driver takes back what it can; whether there was anything.
    fn abort(&mut self, driver: &mut Driver, which: Pick) -> bool;
    /// The server leaves undelivered requests to the next one; returns whether this transport supports that.
    fn hand_over(&mut self) -> bool;
    /// The server handles a completion, if there is one and it does not sleep for more.
    fn deliver(&mut self, which: Pick) -> Option<Vec<News>>;
    /// The tags that the server does not have, and may get.
    fn outstanding(&self, driver: &Driver) -> Vec<u16>;
    /// Nothing that the server prepared has still to be done by the driver, as far as the server knows.
    fn quiet(&self) -> bool;
    /// Whether something other than a request is in flight, which the server can be made to handle.
    fn busy(&self) -> bool;
}
