//! Several commands in one request: the method `batch`, and the older form of the API, `POST /api` with
//! commands of `method` and `params`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{JoinSet, yield_now};

use super::answer::{Answer, Done, JSON, Outcome, answer};
use super::api;
use super::fields::{Failure, Fields};
use super::methods::Named;
use crate::control::Control;
use crate::protocol::code::ReplyError;

/// Maximum number of commands in one request.
pub(super) const COMMANDS_MAX: usize = 1_000;

/// Commands of a parallel batch that are under way at the same time.
const PARALLEL_MAX: usize = 16;

/// Maximum bytes of the replies to the commands of one request, as long as a reply shows what it read.
const REPLIES_BYTES_MAX: usize = 16 << 20;

/// Time within which the commands of one request begin: a request keeps its turn until it is answered, and a
/// backplane that hangs delays each command.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);

/// A command of a batch: its method and parameters.
type Command = (Named, Box<RawValue>);

/// Runs the commands in their order, or several at the same time. Nothing runs if one of them is no command
/// at all.
pub(super) async fn batch(control: &Control, mut fields: Fields) -> Result<Done, Failure> {
    let commands: Vec<Fields> = fields.required("commands")?;
    let parallel = fields.optional("parallel")?.unwrap_or(false);
    fields.finish()?;
    check_count(commands.len(), "`commands`")?;
    let commands: Vec<_> = commands.into_iter().enumerate().map(command).collect::<Result<_, _>>()?;
    let room = Arc::new(Room::new(REPLIES_BYTES_MAX, control.now().at));
    let at_once = if parallel { PARALLEL_MAX } else { 1 };
    let mut replies = vec![None; commands.len()];
    let mut running = JoinSet::new();
    let mut waiting = commands.into_iter().enumerate();
    loop {
        while running.len() < at_once
            && let Some((index, (named, params))) = waiting.next()
        {
            let (control, room) = (control.clone(), room.clone());
            running.spawn(async move { (index, run(&control, &room, named, &params).await) });
        }
        match running.join_next().await {
            Some(Ok((index, reply))) => replies[index] = Some(reply),
            // It panicked, which the log has.
            Some(Err(_)) => (),
            None => break,
        }
    }
    let mut body = b"{\"replies\":[".to_vec();
    for (index, reply) in replies.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&reply.unwrap_or_else(|| error(&ReplyError::INTERNAL)));
    }
    body.extend_from_slice(b"]}");
    Ok(Done::bare(body))
}

fn check_count(count: usize, what: &str) -> Result<(), Failure> {
    if count > COMMANDS_MAX {
        let message = format!("{what}: there are {count}, at most {COMMANDS_MAX} are accepted");
        return Err(ReplyError::LIMIT_EXCEEDED.because(message).into());
    }
    Ok(())
}

/// The command with this index: an object with one field, whose name is a method.
fn command((index, fields): (usize, Fields)) -> Result<Command, Failure> {
    let malformed = |why: &str| Failure::Malformed(format!("`commands[{index}]` {why}"));
    let mut entries = fields.entries();
    match (entries.next(), entries.next()) {
        (None, _) => Err(malformed("is empty: expected a method with its parameters, as {\"publish\": {…}}")),
        (Some(_), Some(_)) => Err(malformed("has more than one method")),
        (Some((name, params)), None) => match Named::of(&name) {
            Some(named) => Ok((named, params)),
            None => Err(malformed(&format!("has {name:?}, which is not a method"))),
        },
    }
}

async fn run(control: &Control, room: &Room, named: Named, params: &RawValue) -> Vec<u8> {
    // Other requests get their turn.
    yield_now().await;
    let (name, much) = (named.name(), matches!(named, Named::Method(call) if call.answers_much()));
    let Ok(_turn) = room.turn(much).await else { return error(&ReplyError::INTERNAL) };
    let outcome = async {
        let call = named.available()?;
        room.check(control.now().at)?;
        let done = api::perform(control, call, Fields::parse(params.get().as_bytes())?).await?.result();
        room.take(done.len(), much)?;
        Ok::<_, Failure>(done)
    };
    match outcome.await {
        Ok(result) => [b"{\"", name.as_bytes(), b"\":", &result, b"}"].concat(),
        Err(failure) => error(&failure.into()),
    }
}

fn error(error: &ReplyError) -> Vec<u8> {
    serde_json::to_vec(&Outcome::<()>::new(&Err(error.clone()))).unwrap_or_default()
}

/// The bytes that are left for replies, and the time that is left to begin.
struct Room {
    max: usize,
    /// When it is too late to begin.
    late: Duration,
    left: AtomicUsize,
    /// For commands whose reply may be large: one at a time, so that no more than one exceeds the room.
    large: Semaphore,
}

impl Room {
    fn new(max: usize, now: Duration) -> Self {
        Self { max, late: now + BEGIN_WITHIN, left: AtomicUsize::new(max), large: Semaphore::new(1) }
    }

    /// Waits for the turn of a command.
    async fn turn(&self, much: bool) -> Result<Option<SemaphorePermit<'_>>, Failure> {
        if !much {
            return Ok(None);
        }
        let turn = self.large.acquire().await;
        turn.map(Some).map_err(|_| ReplyError::INTERNAL.into())
    }

    /// Whether there is room for the reply of one more command, and time.
    fn check(&self, now: Duration) -> Result<(), Failure> {
        if now >= self.late {
            let seconds = BEGIN_WITHIN.as_secs();
            let message = format!(
                "this command was not carried out: those before it took more than {seconds} seconds; send it again"
            );
            return Err(ReplyError::INTERNAL.because(message).into());
        }
        match self.left.load(Ordering::Relaxed) {
            0 => Err(self.full("was not carried out")),
            _ => Ok(()),
        }
    }

    /// Takes room for a reply. One that changed something is short, and always fits.
    fn take(&self, bytes: usize, much: bool) -> Result<(), Failure> {
        let before = self.left.load(Ordering::Relaxed);
        if much && bytes > before {
            self.left.store(0, Ordering::Relaxed);
            return Err(self.full("has a reply that does not fit"));
        }
        let less = |left: usize| Some(left.saturating_sub(bytes));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Ok(())
    }

    fn full(&self, what: &str) -> Failure {
        let mib = self.max >> 20;
        let message =
            format!("this command {what}: the replies of a request have at most {mib} MiB together");
        ReplyError::LIMIT_EXCEEDED.because(message).into()
    }
}

// ---- The older form ----

/// A command of the older form.
struct Older {
    id: u64,
    method: String,
    params: Option<Box<RawValue>>,
}

/// Runs one command or several, one after the other. The replies are separated by LF.
pub(super) async fn older(control: &Control, body: &[u8]) -> Answer {
    let commands = match read_older(body) {
        Ok(commands) => commands,
        Err(failure) => return api::done_or_failed(Err(failure)),
    };
    let room = Room::new(REPLIES_BYTES_MAX, control.now().at);
    let mut body = Vec::new();
    for Older { id, method, params } in commands {
        yield_now().await;
        if !body.is_empty() {
            body.push(b'\n');
        }
        let much = matches!(Named::of(&method), Some(Named::Method(call)) if call.answers_much());
        let params = params.as_deref().map_or("", RawValue::get);
        let outcome = async {
            room.check(control.now().at)?;
            let result = api::call(control, &method, params.as_bytes()).await?;
            room.take(result.len(), much)?;
            Ok::<_, Failure>([b"{\"result\":", &*result, b"}"].concat())
        };
        let reply = outcome.await.unwrap_or_else(|failure| error(&failure.into()));
        if id != 0 {
            body.extend_from_slice(format!("{{\"id\":{id},").as_bytes());
            body.extend_from_slice(&reply[1..]);
        } else {
            body.extend_from_slice(&reply);
        }
    }
    answer(StatusCode::OK, JSON, body)
}

fn read_older(body: &[u8]) -> Result<Vec<Older>, Failure> {
    let mut commands = Vec::new();
    let documents = serde_json::Deserializer::from_slice(body).into_iter::<Fields>();
    for (index, fields) in documents.enumerate() {
        let because = |why: &dyn std::fmt::Display| Failure::Malformed(format!("the command {index}: {why}"));
        let mut fields = fields.map_err(|error| because(&error))?;
        let read = || {
            let id = fields.optional("id")?.unwrap_or(0);
            let method: String = fields.required("method")?;
            let params = fields.json("params").filter(|params| params.get() != "null");
            fields.finish()?;
            Ok::<_, Failure>(Older { id, method: method.to_ascii_lowercase(), params })
        };
        commands.push(read().map_err(|failure| because(&ReplyError::from(failure).message))?);
        check_count(commands.len(), "commands")?;
    }
    if commands.is_empty() {
        let why = "the body has no command: expected {\"method\": \"publish\", \"params\": {…}}";
        return Err(Failure::Malformed(why.to_owned()));
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(body: &str) -> Result<Vec<Command>, Failure> {
        let fields: Vec<Fields> = serde_json::from_str(body).expect(body);
        fields.into_iter().enumerate().map(command).collect()
    }

    #[test]
    fn a_command_is_a_method_with_its_parameters() {
        let read =
            commands(r#"[{"publish":{"channel":"a"},"broadcast":null},{"rpc":{}}]"#).expect("commands");
        let read: Vec<_> = read.iter().map(|(named, params)| (named.name(), params.get())).collect();
        assert_eq!(read, [("publish", r#"{"channel":"a"}"#), ("rpc", "{}")]);
        for (body, named) in [
            ("[{}]", "`commands[0]` is empty"),
            (r#"[{"info":{}},{"info":{},"nodes":{}}]"#, "`commands[1]` has more than one method"),
            (r#"[{"publsh":{}}]"#, "`commands[0]` has \"publsh\", which is not a method"),
        ] {
            let Err(Failure::Malformed(message)) = commands(body) else { panic!("{body}") };
            assert!(message.starts_with(named), "{message}");
        }
    }

    #[test]
    fn commands_of_the_older_form_follow_each_other() {
        let read = read_older(
            b"{\"method\":\"PUBLISH\",\"params\":{\"a\":1}}\n{\"id\":7,\"method\":\"info\",\"params\":null}",
        )
        .expect("commands");
        let read: Vec<_> = read
            .iter()
            .map(|Older { id, method, params }| (*id, &**method, params.as_deref().map(RawValue::get)))
            .collect();
        assert_eq!(read, [(0, "publish", Some("{\"a\":1}")), (7, "info", None)]);
        for (body, named) in [
            ("", "the body has no command"),
            ("{", "the command 0: "),
            ("{\"method\":\"info\"} [1]", "the command 1: "),
            ("{\"method\":0}", "the command 0: `method`: "),
            ("{\"params\":{}}", "the command 0: `method` is missing"),
            ("{\"method\":\"info\",\"jsonrpc\":\"2.0\"}", "the command 0: `jsonrpc` is not supported here"),
        ] {
            let Err(Failure::Malformed(message)) = read_older(body.as_bytes()) else { panic!("{body}") };
            assert!(message.starts_with(named), "{message}");
        }
    }

    #[test]
    fn a_request_has_a_largest_number_of_commands() {
        let body = "{\"method\":\"info\"}".repeat(COMMANDS_MAX + 1);
        let Err(Failure::Api(error)) = read_older(body.as_bytes()) else { panic!("too many") };
        assert_eq!(error.code, 106);
        assert!(read_older(&body.as_bytes()[17..]).is_ok());
    }

    #[test]
    fn replies_have_room_and_what_changed_something_is_always_told() {
        let (room, now) = (Room::new(2 << 20, Duration::ZERO), Duration::ZERO);
        assert_eq!(room.take(1 << 20, true), Ok(()));
        assert_eq!(room.check(now), Ok(()));
        let Err(Failure::Api(error)) = room.take((1 << 20) + 1, true) else { panic!("it does not fit") };
        assert!(error.code == 106 && error.message.contains("at most 2 MiB"), "{error:?}");
        let Err(Failure::Api(error)) = room.check(now) else { panic!("nothing is left") };
        assert!(error.message.contains("was not carried out"), "{error:?}");
        assert_eq!(room.take(1000, false), Ok(()));
    }

    #[test]
    fn a_request_that_takes_long_begins_no_further_command() {
        let begun = Duration::from_secs(100);
        let room = Room::new(1 << 20, begun);
        assert_eq!(room.check(begun + BEGIN_WITHIN - Duration::from_millis(1)), Ok(()));
        let Err(Failure::Api(error)) = room.check(begun + BEGIN_WITHIN) else { panic!("it is too late") };
        assert!(error.temporary && error.message.contains("send it again"), "{error:?}");
    }
}
