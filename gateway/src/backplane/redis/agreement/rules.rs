//! `Rules` holds the rules in use while gateways differ, and tracks whether all requests under older rules
//! have ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::backplane::Retention;
use crate::backplane::redis::agreement::description::{Description, tables};
use crate::config::{Config, Namespace};
use crate::protocol::channel::{Channel, Target};

/// Marks a pipeline with nothing under way.
const IDLE: u64 = u64::MAX;

/// Whether any gateway keeps a history for the channels of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// Yes, since this time of Redis in milliseconds; 0 for always.
    On(u64),
    /// Not any more; publications since then were not kept.
    Off,
}

impl Era {
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        match (words.next()?, words.next()) {
            ("on", None) => Some(Self::On(0)),
            ("on", Some(since)) => Some(Self::On(since.parse().ok()?)),
            ("off", _) => Some(Self::Off),
            _ => None,
        }
    }
}

/// The rules of a table, if they differ from this gateway's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Raised {
    size: usize,
    ttl: Duration,
    replicas: u16,
    once_ttl: Duration,
    /// Streams begun earlier do not continue. 0 for no limit.
    since: u64,
    /// Whether a gateway that has the channel does not write its members.
    presence_is_partial: bool,
}

/// The rules in use.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effective {
    /// For channels without a namespace, and for users.
    default: Option<Raised>,
    named: HashMap<Box<str>, Raised>,
    publication_bytes_max: usize,
    /// History sizes of the configuration, by table, where nothing is raised.
    own: HashMap<String, usize>,
}

impl Effective {
    /// The maximum of the configuration and these other descriptions.
    pub(crate) fn of(config: &Config, others: &[&Description], eras: &BTreeMap<Box<str>, Era>) -> Self {
        let mut effective = Self {
            publication_bytes_max: others
                .iter()
                .filter_map(|other| other.publication_bytes_max())
                .fold(config.limits.publication_bytes_max, usize::max),
            ..Self::default()
        };
        for (name, namespace) in tables(config) {
            effective.own.insert(name.clone(), namespace.history_size);
            let Some(raised) = Raised::of(&name, namespace, others, eras) else { continue };
            match name.strip_prefix("namespaces.") {
                Some(name) => {
                    effective.named.insert(name.into(), raised);
                }
                None => effective.default = Some(raised),
            }
        }
        effective
    }

    /// History size of the channels of a table.
    pub(crate) fn size_of(&self, name: &str) -> usize {
        let raised = match name.strip_prefix("namespaces.") {
            Some(name) => self.named.get(name),
            None => self.default.as_ref(),
        };
        raised.map_or_else(|| self.own.get(name).copied().unwrap_or(0), |raised| raised.size)
    }

    fn differs(&self) -> bool {
        self.default.is_some() || !self.named.is_empty()
    }

    fn raised(&self, channel: &Channel) -> Option<&Raised> {
        match (channel.target(), channel.namespace()) {
            (Target::Connection(_), _) => None,
            (Target::User(_), _) | (_, None) => self.default.as_ref(),
            (Target::Channel, Some(name)) => self.named.get(name),
        }
    }

    /// Time since which the streams of a channel count; 0 for no limit.
    pub(crate) fn since(&self, channel: &Channel) -> u64 {
        self.raised(channel).map_or(0, |raised| raised.since)
    }

    /// Applies the rules to the retention of a channel.
    pub(crate) fn retention(&self, channel: &Channel, retention: &mut Retention) {
        if let Some(raised) = self.raised(channel) {
            retention.size = retention.size.max(raised.size);
            retention.ttl = retention.ttl.max(raised.ttl);
            retention.replicas = retention.replicas.max(raised.replicas);
        }
    }

    /// How long a key is remembered in a channel, if longer than this.
    pub(crate) fn key_ttl(&self, channel: &Channel, ttl: Duration) -> Duration {
        self.raised(channel).map_or(ttl, |raised| ttl.max(raised.once_ttl))
    }
}

impl Raised {
    fn of(
        name: &str,
        namespace: &Namespace,
        others: &[&Description],
        eras: &BTreeMap<Box<str>, Era>,
    ) -> Option<Self> {
        let own = Self {
            size: namespace.history_size,
            ttl: namespace.history_ttl,
            replicas: namespace.min_replicas,
            once_ttl: namespace.idempotency_ttl,
            since: 0,
            presence_is_partial: false,
        };
        let mut raised = own.clone();
        for other in others.iter().filter(|other| other.has(name)) {
            let number = |rule| other.number(name, rule).unwrap_or(0);
            let time = |rule| Duration::from_millis(number(rule));
            let size = usize::try_from(number("history_size")).unwrap_or(usize::MAX);
            // Without a history size there is no history time either.
            if size > 0 {
                raised.ttl =
                    if raised.size == 0 { time("history_ttl") } else { raised.ttl.max(time("history_ttl")) };
                raised.replicas =
                    raised.replicas.max(u16::try_from(number("min_replicas")).unwrap_or(u16::MAX));
            }
            raised.size = raised.size.max(size);
            raised.once_ttl = raised.once_ttl.max(time("idempotency_ttl"));
            raised.presence_is_partial |= namespace.presence && other.is_on(name, "presence") == Some(false);
        }
        if let Some(Era::On(since)) = eras.get(name)
            && raised.size > 0
        {
            raised.since = *since;
        }
        (raised != own).then_some(raised)
    }
}

/// See the module.
pub(crate) struct Rules {
    effective: RwLock<Arc<Effective>>,
    /// Incremented with each change.
    generation: AtomicU64,
    differs: AtomicBool,
    publication_bytes_max: AtomicUsize,
    /// For each pipeline, the generation under which requests are under way.
    pipelines: Box<[AtomicU64]>,
}

impl Rules {
    pub(crate) fn new(config: &Config, pipelines: usize) -> Self {
        let effective = Effective::of(config, &[], &BTreeMap::new());
        Self {
            publication_bytes_max: AtomicUsize::new(effective.publication_bytes_max),
            effective: RwLock::new(Arc::new(effective)),
            generation: AtomicU64::new(1),
            differs: AtomicBool::new(false),
            pipelines: (0..pipelines).map(|_| AtomicU64::new(IDLE)).collect(),
        }
    }

    /// The rules in use, if they differ from the configuration.
    pub(crate) fn now(&self) -> Option<Arc<Effective>> {
        let differs = self.differs.load(Ordering::Acquire);
        differs.then(|| self.effective.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Marks a pipeline as sending, and returns the rules it must use.
    pub(crate) fn begin(&self, pipeline: usize) -> Option<Arc<Effective>> {
        loop {
            let generation = self.generation.load(Ordering::SeqCst);
            self.pipelines[pipeline].store(generation, Ordering::SeqCst);
            // A concurrent change may have missed this pipeline.
            if self.generation.load(Ordering::SeqCst) == generation {
                return self.now();
            }
        }
    }

    /// Marks a pipeline as idle.
    pub(crate) fn end(&self, pipeline: usize) {
        self.pipelines[pipeline].store(IDLE, Ordering::SeqCst);
    }

    /// Whether no request from before a generation is under way.
    pub(crate) fn are_applied(&self, generation: u64) -> bool {
        self.pipelines.iter().all(|pipeline| pipeline.load(Ordering::SeqCst) >= generation)
    }

    /// Sets the rules in use. Returns their generation, and whether they make streams begin anew.
    pub(crate) fn put(&self, effective: Effective) -> (u64, bool) {
        let mut now = self.effective.write().unwrap_or_else(PoisonError::into_inner);
        if **now == effective {
            return (self.generation.load(Ordering::SeqCst), false);
        }
        let since = |of: &Effective| {
            let named = of.named.values().chain(&of.default);
            named.map(|raised| raised.since).max().unwrap_or(0)
        };
        let begins = since(&effective) > since(&now);
        self.publication_bytes_max.store(effective.publication_bytes_max, Ordering::Release);
        self.differs.store(effective.differs(), Ordering::Release);
        *now = Arc::new(effective);
        (self.generation.fetch_add(1, Ordering::SeqCst) + 1, begins)
    }

    /// Maximum size of a message that any gateway takes from a client.
    pub(crate) fn publication_bytes_max(&self) -> usize {
        self.publication_bytes_max.load(Ordering::Relaxed)
    }

    /// Whether only some gateways write the members of a channel.
    pub(crate) fn presence_is_partial(&self, channel: &Channel) -> bool {
        self.now().is_some_and(|now| now.raised(channel).is_some_and(|raised| raised.presence_is_partial))
    }

    /// Raises the retention of a channel to the rules in use.
    pub(crate) fn raise(&self, channel: &Channel, mut retention: Retention) -> Retention {
        if let Some(now) = self.now() {
            now.retention(channel, &mut retention);
        }
        retention
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use crate::backplane::redis::agreement::description::table;
    use crate::backplane::redis::agreement::rules::*;

    fn config(rules: &str) -> Config {
        Config::parse(&format!("[namespaces.news]\n{rules}"), "test").unwrap()
    }

    fn effective(here: &str, others: &[&str], eras: &[(&str, Era)]) -> Effective {
        let others: Vec<_> = others.iter().map(|rules| Description::of(&config(rules), &[])).collect();
        let eras = eras.iter().map(|(table, era)| (Box::from(*table), *era)).collect();
        Effective::of(&config(here), &others.iter().collect::<Vec<_>>(), &eras)
    }

    fn channel(name: &str) -> Channel {
        Channel::parse(name).unwrap()
    }

    const NONE: Retention = Retention { size: 0, ttl: Duration::from_secs(1), replicas: 0 };

    #[test]
    fn the_largest_rule_of_all_counts() {
        let rules = effective(
            "history_size = 5\nhistory_ttl = '9s'",
            &["history_size = 7\nhistory_ttl = '3s'", ""],
            &[],
        );
        let mut retention = Retention { size: 5, ttl: Duration::from_secs(9), replicas: 0 };
        rules.retention(&channel("news:1"), &mut retention);
        assert_eq!((retention.size, retention.ttl), (7, Duration::from_secs(9)));
        assert!(
            !effective("history_size = 5", &["history_size = 5", ""], &[]).differs(),
            "nothing is raised"
        );
    }

    #[test]
    fn what_others_keep_is_kept_without_redis_too() {
        let agreed = Rules::new(&config(""), 1);
        agreed.put(effective("", &["history_size = 7"], &[]));
        let raised =
            ["news:1", "elsewhere", "#42", "@id"].map(|name| agreed.raise(&channel(name), NONE).size);
        assert_eq!(raised, [7, 0, 0, 0]);
    }

    #[test]
    fn a_stream_goes_on_unless_something_was_not_kept_meanwhile() {
        let table = table(Some("news"));
        let since = |era| effective("history_size = 1", &[], &[(&*table, era)]).since(&channel("news:1"));
        assert_eq!((since(Era::On(0)), since(Era::On(7))), (0, 7));
        assert_eq!(
            ["on", "on 7", "off", "off 1", "x"].map(Era::read)[..3],
            [Some(Era::On(0)), Some(Era::On(7)), Some(Era::Off)]
        );
    }

    #[test]
    fn who_is_there_is_partly_known_if_one_gateway_does_not_say_it() {
        let partial = |here, others: &[&str]| {
            effective(here, others, &[])
                .raised(&channel("news:1"))
                .is_some_and(|raised| raised.presence_is_partial)
        };
        assert!(partial("presence = true", &["", "presence = true"]));
        assert!(!partial("presence = true", &["presence = true"]) && !partial("", &["presence = true"]));
    }

    #[test]
    fn rules_are_applied_when_no_lane_goes_by_older_ones() {
        let rules = Rules::new(&config(""), 2);
        assert!(rules.begin(0).is_none());
        let (generation, begins) = rules.put(effective("", &["history_size = 7"], &[]));
        assert!(!rules.are_applied(generation) && !begins);
        assert!(rules.begin(1).is_some());
        rules.end(0);
        assert!(rules.are_applied(generation), "what the other lane has under way goes by the new ones");
        assert_eq!(rules.raise(&channel("news:1"), NONE).size, 7);
        assert_eq!(rules.put(effective("", &["history_size = 7"], &[])).0, generation, "the same");
    }
}
