//! Entries of a stream of NATS JetStream.
//!
//! Each subject has a durable consumer that has at most one entry out at a time: so the order is kept however
//! many gateways ask it for the next one, and an entry of a gateway that ended comes again before any other.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{AckKind, Context, ErrorCode, Message};
use async_nats::{Client, ConnectOptions, Request, StatusCode};

use super::entry::{Command, Entry};
use super::partition::{Due, Hold, Interrupted, Partition};
use crate::config::NatsStream;
use crate::egress::Dialer;

/// How long NATS waits for an entry before it says that there is none. A drain waits as long.
const EXPIRES: Duration = Duration::from_millis(500);

/// An entry that is out.
struct Held<'l> {
    partition: &'l Partition,
    message: Message,
    due: Due,
}

/// Reads and carries out until the gateway drains.
pub(super) async fn session(partition: &Partition, config: &NatsStream) -> Result<(), Box<str>> {
    let client = connect(partition, config).await?;
    let time = partition.config.timeout;
    let context = ContextBuilder::new().timeout(time).ack_timeout(time).build(client.clone());
    let durable = match partition.index {
        0 => config.durable.to_string(),
        index => format!("{}-{}", config.durable, index + 1),
    };
    let settings = pull::Config {
        durable_name: Some(durable.clone()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: partition.config.ack_wait,
        max_ack_pending: 1,
        filter_subject: config.subjects[partition.index].to_string(),
        ..pull::Config::default()
    };
    let read = partition.answer(subject_of(&context, &config.stream, &durable)).await?;
    if let Some(other) = read.filter(|read| **read != *settings.filter_subject) {
        let why = format!(
            "the durable consumer {durable} has read the subject {other}, so what {} already has would be lost: \
             give `subjects` their old order, or set another `durable`",
            settings.filter_subject
        );
        return Err(why.into());
    }
    partition.answer(context.create_consumer_on_stream(settings, &*config.stream)).await?;
    partition.metrics.connected(partition.index);
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{durable}", config.stream);
    while !partition.stop.is_set() {
        let Some(message) = next_message(partition, &client, &context, &next).await? else {
            partition.metrics.took(partition.index, 0);
            continue;
        };
        let entry = entry(&message)?;
        let mut held = Held { partition, message, due: Due::new(partition.config.ack_wait) };
        // It is out as of now.
        held.due.begin(partition.clock.at());
        match partition.carry_out(&[entry], &mut held).await {
            Ok(()) => {}
            Err(Interrupted::Stopping) => {
                let again = held.message.ack_with(AckKind::Nak(None));
                let _ = partition.answer(again).await;
                break;
            }
            Err(Interrupted::Failed(why)) => return Err(why),
        }
    }
    // What was said last is sent.
    let _ = partition.answer(client.flush()).await;
    Ok(())
}

/// The subject of a durable consumer, if there is this consumer.
async fn subject_of(context: &Context, stream: &str, durable: &str) -> Result<Option<String>, ConsumerError> {
    match context.get_consumer_from_stream::<pull::Config, _, _>(durable, stream).await {
        Ok(found) => Ok(Some(found.cached_info().config.filter_subject.clone())),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(why) if why.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

async fn connect(partition: &Partition, config: &NatsStream) -> Result<Client, Box<str>> {
    let login = &config.login;
    let dialer = Dialer::new(login.tls_authority.as_deref());
    let mut options = ConnectOptions::new()
        .name(format!("gateway {}", partition.name))
        .connection_timeout(partition.config.timeout)
        .request_timeout(Some(partition.config.timeout + EXPIRES))
        .ping_interval(partition.config.timeout)
        .ignore_discovered_servers()
        .subscription_capacity(16)
        .client_capacity(16);
    if let Some(credentials) = &config.credentials {
        options = options
            .credentials(credentials.expose())
            .map_err(|_| "the credentials are not in the format of a .creds file")?;
    }
    options = match (&*login.username, &login.password) {
        ("", None) => options,
        ("", Some(token)) => options.token(token.expose().to_owned()),
        (user, password) => options.user_and_password(
            user.to_owned(),
            password.as_ref().map_or("", |password| password.expose()).to_owned(),
        ),
    };
    // The client verifies the certificate for the name that it connects to, and looks that name up by itself.
    let addresses: Vec<String> = if config.tls {
        let settings = partition.answer(dialer.tls_config()).await?;
        options = options.require_tls(true).tls_client_config(settings);
        let host =
            if config.host.contains(':') { format!("[{}]", config.host) } else { config.host.to_string() };
        vec![format!("tls://{host}:{}", config.port)]
    } else {
        let found = partition.answer(dialer.addresses(&config.host, config.port)).await?;
        found.iter().map(|address| format!("nats://{address}")).collect()
    };
    // One attempt for each: when the connection is lost, the session begins anew.
    let options = options.max_reconnects(addresses.len());
    partition.answer(options.connect(addresses.as_slice())).await
}

/// The next entry, if one comes soon.
async fn next_message(
    partition: &Partition,
    client: &Client,
    context: &Context,
    next: &str,
) -> Result<Option<Message>, Box<str>> {
    let request = format!("{{\"batch\":1,\"expires\":{}}}", EXPIRES.as_nanos());
    // An entry comes with the subject that it was published to. Only a subscription of its own recognizes it
    // as the answer: the one that all requests share looks for theirs.
    let request = Request::new().payload(request.into()).inbox(client.new_inbox());
    // The client has its own time for a request; this one also holds while it connects.
    let time = partition.config.timeout + 2 * EXPIRES;
    let answer = tokio::time::timeout(time, client.send_request(next.to_owned(), request)).await;
    let message = match answer {
        Ok(Ok(message)) => message,
        Ok(Err(error)) => return Err(error.to_string().into()),
        Err(_) => return Err(format!("no answer within {time:?}").into()),
    };
    match message.status {
        None | Some(StatusCode::OK) => Ok(Some(Message { message, context: context.clone() })),
        Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => Ok(None),
        Some(status) => {
            let why = message.description.as_deref().unwrap_or("without a reason");
            Err(format!("NATS refuses to give entries: {status} {why}").into())
        }
    }
}

fn entry(message: &Message) -> Result<Entry, Box<str>> {
    let info = message.info().map_err(|error| format!("an entry that NATS does not number: {error}"))?;
    let nanos = info.published.unix_timestamp_nanos();
    // A stream that was made anew counts from 1 again.
    let id = format!("{}:{nanos}", info.stream_sequence).into();
    let at = u64::try_from(nanos / 1_000_000).unwrap_or_default();
    Ok(Entry { id, at, command: Command::parse(&message.payload) })
}

impl Hold for Held<'_> {
    async fn keep(&mut self) -> Result<(), Box<str>> {
        // NATS accepts a sign of life for an entry that it has given to another gateway.
        if self.due.is_over(self.partition.clock.at()) {
            return Err("another gateway has the entry, because this one was too slow".into());
        }
        if self.due.is(self.partition.clock.at()) {
            self.partition.answer(self.message.ack_with(AckKind::Progress)).await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, _: &[Entry]) -> Result<(), Box<str>> {
        self.partition.answer(self.message.double_ack()).await
    }
}
