//! What an upstream decides in place of the policies of the configuration.

use super::*;
use crate::ask::{self, Answer};
use crate::connection::effect::About;

const UPSTREAM: &str = "[upstreams.back]\nurl = \"http://back.example/\"\n";

/// A client that connects where an upstream is asked about everything.
fn asking(failure: &str) -> Client {
    let text = format!(
        "{UPSTREAM}[ask]\nconnect = \"back\"\nrefresh = \"back\"\nrpc = \"back\"\nsend = \"back\"\nmessage = \"back\"\n\
         failure = \"{failure}\"\n\
         [namespaces.asked]\nask_subscribe = \"back\"\nask_sub_refresh = \"back\"\nask_publish = \"back\"\n\
         ask_failure = \"{failure}\"\nhistory_size = 10"
    );
    Client::with(config(&text), Encoding::Json)
}

impl Client {
    /// Takes the question to the upstream.
    fn question(&mut self) -> About {
        let at = self.effects.iter().position(|effect| matches!(effect, Effect::AskUpstream { .. }));
        match at.and_then(|at| self.effects.remove(at)) {
            Some(Effect::AskUpstream { upstream, about }) => {
                assert_eq!(&*upstream, "back");
                about
            }
            other => panic!("nobody is asked: {other:?}"),
        }
    }

    /// Answers the question.
    fn answers(&mut self, answer: impl Into<Option<Answer>>) -> &mut Self {
        let about = self.question();
        self.on(Event::Answers { about, answer: answer.into() })
    }

    /// Connects, and is admitted by the upstream.
    fn is_admitted(&mut self, connected: ask::Connected) -> &mut Self {
        self.connect("").authenticate(Admission::Undecided, false);
        self.answers(Answer::Connected(Box::new(connected)))
    }

    fn asked_to_subscribe(&mut self, id: u32, name: &str) -> &mut Self {
        self.subscribe(id, name).decide(Decision::Undecided(NOTHING))
    }
}

fn connected(expires_at: Option<u64>) -> ask::Connected {
    ask::Connected { user: "42".into(), expires_at, ..ask::Connected::default() }
}

fn admitted(failure: &str) -> Client {
    let mut client = asking(failure);
    client.is_admitted(connected(None));
    client.effects.clear();
    client
}

fn subscribed(expires_at: Option<u64>) -> Answer {
    Answer::Subscribed(Box::new(ask::Subscribed { expires_at, ..ask::Subscribed::default() }))
}

fn refreshed(expires_at: Option<u64>) -> Answer {
    Answer::Refreshed(ask::Refreshed { expires_at, ..ask::Refreshed::default() })
}

fn expired() -> Answer {
    Answer::Refreshed(ask::Refreshed { expired: true, ..ask::Refreshed::default() })
}

fn busy() -> Answer {
    Answer::Error(ReplyError::TOO_MANY_REQUESTS)
}

#[test]
fn the_upstream_admits_in_place_of_the_setting_for_anonymous_clients() {
    for (admission, credential) in [(Admission::Undecided, true), (Admission::Doubtful, false)] {
        let mut client = asking("error");
        client.connect("t").authenticate(admission, credential);
        let about = client.question();
        assert_eq!(about.kind(), ask::Kind::Connect);
        let options = ask::Subscribed { info: "1".into(), ..ask::Subscribed::default() };
        let channels = vec![(channel("open:a"), options), (channel("news"), ask::Subscribed::default())];
        let answer = Answer::Connected(Box::new(ask::Connected { channels, ..connected(None) }));
        client.on(Event::Answers { about, answer: Some(answer) });
        let Some(Effect::Admit(identity)) = client.effects.pop_front() else { panic!() };
        assert_eq!(&*identity.user, "42");
        let Some(Effect::Subscribe { options: Some(options), .. }) = client.effects.pop_front() else {
            panic!()
        };
        assert_eq!(&*options.info, b"1");
        assert!(matches!(client.effects.pop_front(), Some(Effect::Subscribe { .. })));
    }
}

#[test]
fn a_plugin_that_decides_leaves_nothing_to_ask() {
    let mut client = asking("error");
    client.connect("t").authenticate(super::connection_expiry::expiring("42", 1000), true);
    assert!(matches!(client.effects.pop_front(), Some(Effect::Admit(_))));
    client.effects.clear();
    let rpc = || Request::Rpc { method: "m".into(), data: "1".into() };
    client.request(2, rpc()).decide(Decision::Reply("2".into()));
    assert!(matches!(client.reply(), Reply::Rpc { id: 2, .. }));
    client.request(3, publish("asked:a")).decide(Decision::Allowed("1".into()));
    assert!(matches!(client.effects.pop_back(), Some(Effect::Publish { .. })));
    client.subscribe(4, "asked:a").decide(Decision::Denied(refusal(103)));
    assert_eq!(client.error(), 103);
}

#[test]
fn whoever_may_not_connect_is_told_so() {
    let mut client = asking("open");
    client
        .connect("")
        .authenticate(Admission::Undecided, false)
        .answers(Answer::Error(ReplyError::custom(1000, "no")));
    assert_eq!(client.error(), 1000);
    let mut client = asking("open");
    client.connect("").authenticate(Admission::Undecided, false);
    client.answers(Answer::Disconnect(Close::custom(4500, "bye")));
    assert_eq!(client.close(), (4500, CloseCause::Backend));
}

#[test]
fn without_an_answer_a_client_is_refused_comes_back_or_meets_the_setting_for_anonymous_clients() {
    let mut client = asking("closed");
    client.connect("").authenticate(Admission::Undecided, false).answers(None);
    assert_eq!(client.error(), 103);
    let mut client = asking("error");
    client.connect("").authenticate(Admission::Undecided, false).answers(None);
    assert_eq!(client.error(), 100);
    let mut client = asking("open");
    client.connect("").authenticate(Admission::Undecided, false).answers(None);
    assert!(
        matches!(client.effects.pop_front(), Some(Effect::Admit(_))),
        "anonymous clients are admitted here"
    );
    let mut client = asking("open");
    client.connect("t").authenticate(Admission::Undecided, true).answers(None);
    assert_eq!(client.close().0, 3500, "and a token that nobody accepts is not");
}

#[test]
fn a_client_that_only_listens_is_closed_where_others_get_an_error() {
    for (failure, code) in [("closed", 3507), ("error", 3004)] {
        let config = asking(failure).core.config.clone();
        let mut client = Client::with(config, Encoding::Unidirectional);
        client.connect("").authenticate(Admission::Undecided, false).answers(None);
        assert_eq!(client.close().0, code, "{failure}");
    }
    for (error, code) in [(busy(), 3004), (Answer::Error(ReplyError::custom(1000, "no")), 3507)] {
        let mut client = Client::with(asking("open").core.config.clone(), Encoding::Unidirectional);
        client.connect("").authenticate(Admission::Undecided, false).answers(error);
        assert_eq!(client.close().0, code);
    }
}

#[test]
fn an_expired_connection_is_asked_about_and_its_client_told_nothing() {
    let mut client = asking("error");
    client.is_admitted(connected(Some(UNIX_START + 5)));
    let Some(Effect::Reply(Reply::Connected { result, .. })) = client.effects.pop_back() else { panic!() };
    assert_eq!(result.ttl, None, "the client has nothing to refresh");
    client.effects.clear();
    client.tick_at(5).answers(refreshed(Some(UNIX_START + 10)));
    assert!(client.effects.is_empty() && !client.core.is_closed());
    client.tick_at(10).answers(expired());
    assert_eq!(client.close(), (Close::EXPIRED.code, CloseCause::Expired));
}

#[test]
fn nobody_is_asked_before_the_connect_reply_and_the_connection_is_not_woken_for_it() {
    let mut client = asking("error");
    let channels = vec![(channel("asked:a"), ask::Subscribed::default())];
    let expires = connected(Some(UNIX_START + 2));
    client.is_admitted(ask::Connected { channels, ..expires });
    client.effects.clear();
    client.tick_at(3);
    assert!(client.effects.is_empty());
    let stale = Duration::from_secs(10);
    assert_eq!(client.core.deadline(), Some(stale), "it would be woken at once, over and over");
    let (channel, by) = (channel("asked:a"), Subscriber::Identity);
    client.on(Event::Subscribed { channel, by, result: Ok(Subscribed::default()) });
    assert!(matches!(client.effects.pop_back(), Some(Effect::Reply(Reply::Connected { .. }))));
    assert_eq!(client.core.deadline(), Some(Duration::from_secs(2)));
    client.tick_at(3).answers(refreshed(None));
    assert!(client.core.deadline() > Some(Duration::from_secs(3)));
}

#[test]
fn a_client_whose_subscriptions_expire_together_has_few_of_them_at_the_upstream() {
    let mut client = admitted("error");
    let all: Vec<_> = (0..40).map(|number| channel(&format!("asked:{number}"))).collect();
    for channel in &all {
        client.core.subscriptions.insert(channel.clone(), Subscription::Client);
        client.core.refreshing.set(channel, Duration::from_secs(5));
    }
    client.tick_at(5);
    assert_eq!(client.effects.len(), 16);
    let next = client.core.deadline();
    assert!(next > Some(client.at), "it waits for an answer: {next:?}");
    for left in (0..40_usize).rev() {
        client.answers(refreshed(None));
        client.on(Event::Tick);
        assert_eq!(client.effects.len(), left.min(16));
    }
    client.core.refreshing.set(&all[0], client.at);
    client.on(Event::Tick);
    let about = client.question();
    client.on(Event::PluginUnsubscribes(all[0].clone()));
    assert!(client.core.asked.is_empty(), "one that is gone leaves its place");
    client.on(Event::Answers { about, answer: Some(refreshed(None)) });
    assert!(client.core.asked.is_empty());
}

#[test]
fn what_is_revoked_between_the_question_and_its_answer_concerns_the_client() {
    let mut client = asking("error");
    client.at = Duration::from_secs(3);
    client.connect("").authenticate(Admission::Undecided, false);
    let about = client.question();
    client.at = Duration::from_secs(5);
    client.on(Event::Answers { about, answer: Some(Answer::Connected(Box::new(connected(None)))) });
    let Some(Effect::Admit(identity)) = client.effects.pop_front() else { panic!() };
    let issued = (UNIX_START + 3).to_string();
    assert_eq!(identity.attributes, [(crate::revocation::TOKEN_ISSUED.into(), issued.into())]);
}

#[test]
fn an_upstream_without_an_answer_is_asked_again_until_the_grace_period_is_over() {
    let mut client = asking("error");
    client.is_admitted(connected(Some(UNIX_START + 5)));
    client.effects.clear();
    client.tick_at(5).answers(None);
    client.at = Duration::from_secs(6);
    client.on(Event::Tick);
    assert!(client.effects.is_empty());
    client.tick_at(8).answers(busy());
    client.tick_at(11).answers(None);
    client.tick_at(15);
    assert_eq!(client.close(), (Close::EXPIRED.code, CloseCause::Expired));
    let mut closed = asking("closed");
    closed.is_admitted(connected(Some(UNIX_START + 5)));
    closed.effects.clear();
    closed.tick_at(5).answers(None);
    assert_eq!(closed.close().0, Close::EXPIRED.code);
}

#[test]
fn a_refresh_that_no_plugin_knows_is_put_to_the_upstream() {
    let mut client = admitted("error");
    let refresh =
        || Event::Authenticated { id: 2, refresh: true, admission: Admission::Undecided, credential: true };
    client.on(refresh()).answers(refreshed(Some(UNIX_START + 90)));
    assert!(matches!(client.reply(), Reply::Refreshed { id: 2, .. }));
    assert_eq!(client.core.expires, Some(Duration::from_secs(90)));
    client.on(refresh()).answers(expired());
    assert_eq!(client.error(), 110);
    client.on(refresh()).answers(None);
    assert_eq!(client.error(), 100);
}

#[test]
fn the_upstream_of_a_namespace_permits_a_subscription_with_its_options() {
    let mut client = admitted("error");
    client.asked_to_subscribe(2, "asked:a").answers(subscribed(None));
    let Some(Effect::Subscribe { options: None, .. }) = client.effects.pop_back() else { panic!() };
    client.core.subscriptions.clear();
    let overrides = ask::Overrides { push_join_leave: Some(true), ..ask::Overrides::default() };
    let chosen = ask::Subscribed { data: "7".into(), overrides, ..ask::Subscribed::default() };
    client.asked_to_subscribe(3, "asked:a").answers(Answer::Subscribed(Box::new(chosen)));
    let Some(Effect::Subscribe { options: Some(options), join_leave, .. }) = client.effects.pop_back() else {
        panic!()
    };
    assert_eq!((&*options.data, join_leave), (&b"7"[..], Some(true)));
}

#[test]
fn a_subscription_that_expires_is_asked_about_while_it_stays() {
    let mut client = admitted("error");
    client.asked_to_subscribe(2, "asked:a").answers(subscribed(Some(UNIX_START + 5)));
    client.effects.clear();
    let by = Subscriber::Client { id: 2, reject_unrecovered: false };
    let made = Event::Subscribed { channel: channel("asked:a"), by, result: Ok(Subscribed::default()) };
    let Reply::Subscribed { result, .. } = client.on(made).reply() else { panic!() };
    assert_eq!(result.ttl, None, "the client has nothing to refresh");
    client.tick_at(5);
    assert_eq!(client.core.subscriptions.len(), 1);
    client.answers(refreshed(Some(UNIX_START + 10)));
    client.tick_at(10).answers(None);
    client.effects.clear();
    client.tick_at(11).answers(expired());
    assert!(matches!(client.effects.pop_front(), Some(Effect::Unsubscribe(..))));
    let Reply::UnsubscribedByServer { why, .. } = client.reply() else { panic!() };
    assert_eq!(why.code, 2501);
}

#[test]
fn an_answer_about_a_subscription_that_is_gone_does_nothing() {
    let mut client = admitted("open");
    client.asked_to_subscribe(2, "asked:a");
    let about = client.question();
    client.on(Event::Signal(Signal::Unsubscribe(channel("asked:a"))));
    assert!(client.effects.is_empty());
    client.on(Event::Answers { about, answer: Some(subscribed(None)) });
    assert_eq!(client.error(), 103);
    assert!(client.core.subscriptions.is_empty(), "and the channel is free again");
    client.asked_to_subscribe(3, "asked:a").answers(subscribed(None));
    assert!(matches!(client.effects.pop_back(), Some(Effect::Subscribe { .. })));
}

#[test]
fn a_publication_goes_out_as_the_upstream_wants_it() {
    let mut client = admitted("error");
    for (answer, data, skips) in [
        (ask::Published::default(), "1", false),
        (ask::Published { data: Some("2".into()), skip_history: true }, "2", true),
    ] {
        client.request(2, publish("asked:a")).decide(Decision::Undecided("1".into()));
        client.answers(Answer::Published(answer));
        let Some(Effect::Publish { payload, skip_history, .. }) = client.effects.pop_back() else { panic!() };
        assert_eq!((&*payload, skip_history), (data.as_bytes(), skips));
    }
    client.request(3, publish("asked:a")).decide(Decision::Undecided("1".into())).answers(busy());
    assert_eq!(client.error(), 111);
}

#[test]
fn calls_and_messages_are_answered_by_the_upstream() {
    let mut client = admitted("error");
    let rpc = || Request::Rpc { method: "m".into(), data: "1".into() };
    client
        .request(2, rpc())
        .decide(Decision::Undecided("1".into()))
        .answers(Answer::Replied(Some("7".into())));
    let Reply::Rpc { id: 2, data } = client.reply() else { panic!() };
    assert_eq!(data, "7");
    let send = || Request::Send { data: "1".into() };
    client
        .request(0, send())
        .decide(Decision::Undecided("1".into()))
        .answers(Answer::Replied(Some("8".into())));
    assert!(matches!(client.reply(), Reply::Message { data } if data == "8"));
    client.request(0, send()).decide(Decision::Undecided("1".into())).answers(Answer::Replied(None));
    assert!(client.effects.is_empty() && !client.core.is_closed());
    client.request(0, send()).decide(Decision::Undecided("1".into())).answers(busy());
    assert!(client.effects.is_empty() && !client.core.is_closed(), "it has no reply");
}

#[test]
fn a_command_without_an_answer_has_the_policy_of_its_namespace() {
    for (failure, call, published) in [("closed", 103, 103), ("error", 100, 100), ("open", 108, 103)] {
        let mut client = admitted(failure);
        let rpc = Request::Rpc { method: "m".into(), data: "1".into() };
        client.request(2, rpc).decide(Decision::Undecided("1".into())).answers(None);
        assert_eq!(client.error(), call, "{failure}");
        client.request(3, publish("asked:a")).decide(Decision::Undecided("1".into())).answers(None);
        assert_eq!(client.error(), published, "{failure}");
        client.asked_to_subscribe(4, "asked:a").answers(None);
        assert_eq!(client.error(), published, "{failure}");
        assert!(client.core.subscriptions.is_empty());
    }
}

#[test]
fn a_disconnect_ends_everything_but_a_subscription_that_was_never_made() {
    let mut client = admitted("error");
    client.asked_to_subscribe(2, "asked:a").answers(Answer::Disconnect(Close::custom(4501, "")));
    assert!(matches!(client.effects.front(), Some(Effect::End { .. })), "nothing is unsubscribed");
    assert_eq!(client.close(), (4501, CloseCause::Backend));
}

#[test]
fn addresses_and_clients_that_may_not_take_part_are_not_asked_about() {
    let mut client = admitted("error");
    client.request(2, publish("#42")).decide(Decision::Undecided("1".into()));
    assert_eq!(client.error(), 103);
    let text = format!(
        "{UPSTREAM}[listen.tls]\ncertificates = [{{ certificate = 'a', key = 'b' }}]\nclient_ca = 'c'\n\
         client_certificate = 'optional'\n[namespaces.asked]\nask_subscribe = 'back'\nclient_certificate = true"
    );
    let mut client = Client::with(config(&text), Encoding::Json);
    client.connect("").authenticate(Admission::Undecided, false);
    client.effects.clear();
    client.asked_to_subscribe(2, "asked:a");
    assert_eq!(client.error(), 103);
}
