//! One client: a pure state machine, what surrounds it, and the task that drives it.
//!
//! # Core and session
//!
//! [`Core`](core::Core) decides, [`Session`](session::Session) carries out, [`Driver`](driver) waits. The
//! calls, in order:
//!
//! 1. `Session::new` makes the core. Time is an argument of every call and never goes back.
//! 2. Before each input the driver compares `Session::is_due` with the clock and sends `Event::Tick`: no
//!    input is read while a deadline has passed.
//! 3. `Session::message` takes one message in one turn. While `has_rest` is true the next message must wait.
//! 4. Each command becomes one `Event::Command`. `Core::on` takes an event and appends effects; it never
//!    fails and never calls back.
//! 5. The session carries out every effect before the next event. An effect may need an answer: of the
//!    plugins (`take_question`, then `answered`) or of the backplane (`backplane_answered`). The answer comes
//!    back as an event.
//! 6. `Session::go_on` continues, while `has_more` is true, in later turns. `signal` takes what the worker
//!    has to say.
//! 7. Once `is_closed` is true the core ignores events: its last effects have removed the client from hub and
//!    presence. After a panic `abandon` and then `purge` do that.
//!
//! The same events give the same effects, so `tests/it/protocol/simulation.rs` runs this code without
//! sockets, from a seed.

pub mod event;
pub mod effect;
pub mod core;
pub mod heartbeat;
pub mod worker_state;
pub mod session;
pub mod turn;
mod views;
pub mod driver;
