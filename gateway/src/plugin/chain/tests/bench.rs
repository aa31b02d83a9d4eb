//! A chain of scripted plugins.

use super::*;

/// A step of a scripted plugin, for one call.
#[derive(Clone)]
pub(super) enum Step {
    Connect(ConnectVerdict),
    Message(Verdict),
    Deliver(DeliverVerdict),
    /// Records an effect on this channel, then continues.
    Effect(&'static str, Box<Step>),
    /// Sets this attribute, then continues.
    Set(&'static str, Box<Step>),
    Fail(Cause),
    Nothing,
}

/// State shared by all instances of one scripted plugin.
#[derive(Default)]
pub(super) struct Script {
    pub(super) steps: Mutex<VecDeque<Step>>,
    /// Calls of the plugin: hook and payload, or hook and user.
    pub(super) seen: Mutex<Vec<String>>,
    pub(super) instances: Mutex<Vec<Result<(), LoadError>>>,
    pub(super) instantiated: Mutex<usize>,
    pub(super) interests: Option<Interests>,
}

pub(super) struct Scripted(Arc<Script>, Interests);

impl Scripted {
    fn step(&mut self, seen: String, effects: &mut Vec<Effect>) -> Result<Step, Failure> {
        self.0.seen.lock().unwrap().push(seen);
        let mut step = self.0.steps.lock().unwrap().pop_front().unwrap_or(Step::Nothing);
        loop {
            step = match step {
                Step::Effect(name, next) => {
                    effects.push(Effect::Subscribe(channel(name)));
                    *next
                }
                Step::Set(name, next) => {
                    effects.push(Effect::SetAttribute { name: name.into(), value: "v".into() });
                    *next
                }
                _ => break,
            };
        }
        if let Step::Fail(cause) = step { Err(Failure::new(cause, "scripted")) } else { Ok(step) }
    }
}

impl Plugin for Scripted {
    fn interests(&self) -> &Interests {
        &self.1
    }

    fn on_connect(
        &mut self,
        event: &ConnectEvent,
        effects: &mut Vec<Effect>,
    ) -> Result<ConnectVerdict, Failure> {
        let attributes = event.client.attributes.keys().cloned().collect::<Vec<_>>().join(",");
        Ok(match self.step(format!("connect {}[{attributes}]", event.client.user), effects)? {
            Step::Connect(verdict) => verdict,
            _ => ConnectVerdict::Pass,
        })
    }

    fn on_message(&mut self, message: &mut Message, effects: &mut Vec<Effect>) -> Result<Verdict, Failure> {
        let payload = String::from_utf8_lossy(&message.content.payload).into_owned();
        Ok(match self.step(format!("message {payload}"), effects)? {
            Step::Message(verdict) => verdict,
            _ => Verdict::Next,
        })
    }

    fn on_disconnect(&mut self, event: &DisconnectEvent, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.step(format!("disconnect {}", event.code), effects).map(|_| ())
    }

    fn on_deliver(&mut self, class: &str, outgoing: &Outgoing) -> Result<DeliverVerdict, Failure> {
        let payload = String::from_utf8_lossy(&outgoing.payload).into_owned();
        Ok(match self.step(format!("deliver {class}: {payload}"), &mut Vec::new())? {
            Step::Deliver(verdict) => verdict,
            _ => DeliverVerdict::Pass,
        })
    }

    fn on_timer(&mut self, tick: &Tick, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        self.step(format!("timer {}", tick.instance), effects).map(|_| ())
    }
}

pub(super) struct ScriptedFactory(Arc<Script>, About);

impl ScriptedFactory {
    pub(super) fn new(script: Arc<Script>) -> Self {
        let about = About {
            name: None,
            version: None,
            sdk: None,
            interface: "0.1".into(),
            hooks: ALL_HOOKS,
            requested: Grants::default(),
            self_test: None,
        };
        Self(script, about)
    }
}

impl Factory for ScriptedFactory {
    fn instantiate(&self, _: &Arc<PluginCounters>) -> Result<Box<dyn Plugin>, LoadError> {
        *self.0.instantiated.lock().unwrap() += 1;
        self.0.instances.lock().unwrap().pop().unwrap_or(Ok(()))?;
        let interests = self.0.interests.clone().unwrap_or(Interests::everything(ALL_HOOKS));
        Ok(Box::new(Scripted(self.0.clone(), interests)))
    }

    fn about(&self) -> &About {
        &self.1
    }
}

pub(super) const ALL_HOOKS: Hooks = Hooks {
    configure: true,
    on_connect: true,
    on_message: true,
    on_deliver: true,
    on_disconnect: true,
    on_timer: true,
};

/// A chain of scripted plugins, and their calls.
pub(super) struct Bench {
    pub(super) chain: Chain,
    pub(super) scripts: Vec<Arc<Script>>,
    pub(super) counters: Vec<Arc<PluginCounters>>,
    pub(super) effects: Vec<Effect>,
    pub(super) now: u64,
    jobs: Arc<Jobs>,
}

/// Jobs that wait until the test runs them.
#[derive(Default)]
pub(super) struct Jobs(Mutex<Vec<Box<dyn FnOnce() + Send>>>);

impl Offload for Jobs {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().push(job);
    }
}

impl Jobs {
    fn run(&self) -> usize {
        let jobs = std::mem::take(&mut *self.0.lock().unwrap());
        jobs.into_iter().map(|job| job()).count()
    }
}

impl Bench {
    pub(super) fn new(plugins: Vec<(FailurePolicy, Vec<Step>)>) -> Self {
        Self::with(
            plugins.into_iter().map(|(policy, steps)| {
                (policy, Script { steps: Mutex::new(steps.into()), ..Script::default() })
            }),
        )
    }

    pub(super) fn with(plugins: impl IntoIterator<Item = (FailurePolicy, Script)>) -> Self {
        let (mut links, mut scripts, mut all) = (Vec::new(), Vec::new(), Vec::new());
        let jobs = Arc::new(Jobs::default());
        for (number, (policy, script)) in plugins.into_iter().enumerate() {
            let script = Arc::new(script);
            let counters = Arc::new(PluginCounters::new(1));
            let factory = Arc::new(ScriptedFactory::new(script.clone()));
            let link = Link::new(format!("p{number}").into(), 0, policy, factory, counters.clone()).unwrap();
            links.push(link.with_offload(jobs.clone()));
            scripts.push(script);
            all.push(counters);
        }
        let mut chain = Chain::new(1, links);
        chain.begin();
        jobs.run();
        Self { chain, scripts, counters: all, effects: Vec::new(), now: 1_000_000, jobs }
    }

    /// Makes the ordered instances, and returns how many.
    pub(super) fn work(&self) -> usize {
        self.jobs.run()
    }

    pub(super) fn message(&mut self, kind: Kind, name: &str) -> Decision {
        let channel = (!name.is_empty()).then(|| Channel::parse_subscription(name).unwrap());
        let mut message = Message {
            client: client(),
            content: MessageContent::new(kind, channel, Bytes::from_static(b"p")),
            now: self.now,
            at: self.now,
            meters: Meters::default(),
        };
        self.effects.clear();
        self.chain.on_message(&mut message, &mut self.effects)
    }

    pub(super) fn publish(&mut self) -> Decision {
        self.message(Kind::Publish, "news")
    }

    pub(super) fn connect(&mut self) -> Admission {
        let event = ConnectEvent {
            client: client(),
            token: "t".into(),
            data: Bytes::new(),
            now: self.now,
            at: self.now,
        };
        let mut authentication = Authentication::new(event, Duration::from_secs(1));
        let authenticated = self.chain.authenticate(&mut authentication);
        self.effects = authentication.effects;
        match authenticated {
            Authenticated::Done(admission) => admission,
            Authenticated::Waits(_) => panic!("no plugin is asked elsewhere"),
        }
    }

    pub(super) fn disconnect(&mut self) {
        let event = DisconnectEvent {
            client: client(),
            code: 3000,
            reason: "".into(),
            duration: 5,
            now: self.now,
            at: self.now,
        };
        self.effects.clear();
        self.chain.on_disconnect(&event, &mut self.effects);
    }

    pub(super) fn seen(&self, plugin: usize) -> Vec<String> {
        std::mem::take(&mut *self.scripts[plugin].seen.lock().unwrap())
    }

    pub(super) fn counts(&self, plugin: usize) -> Counts {
        self.counters[plugin].read()
    }

    pub(super) fn instantiated(&self, plugin: usize) -> usize {
        *self.scripts[plugin].instantiated.lock().unwrap()
    }

    /// Instances that are not dropped yet. The bench and the factory hold the script too.
    pub(super) fn alive(&self, plugin: usize) -> usize {
        Arc::strong_count(&self.scripts[plugin]) - 2
    }
}

pub(super) fn channel(name: &str) -> Channel {
    Channel::parse(name).unwrap()
}

pub(super) fn client() -> Arc<Client> {
    Arc::new(Client {
        number: 7,
        id: "c7".into(),
        user: "".into(),
        protocol: "raw",
        address: [127, 0, 0, 1].into(),
        headers: [].into(),
        attributes: BTreeMap::from([("a".into(), "1".into())]),
    })
}

pub(super) fn refusal(code: u32) -> Refusal {
    Refusal { code, reason: "no".into() }
}

pub(super) fn payload(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub(super) fn say(verdict: Verdict) -> Step {
    Step::Message(verdict)
}
