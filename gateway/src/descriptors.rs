//! `Plan` divides the file descriptors that the system grants among their users.
//!
//! Without a plan, a crowd of clients takes the last descriptor: then the gateway answers no health probe,
//! reads no plugin and reaches no upstream. So clients get a share, and settings above it are lowered for
//! this run, with a log line.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::accept::REFUSALS_MAX;
use crate::config::{Config, RedisTopology};
use crate::egress::CONNECTIONS_MAX as OUTGOING;

/// For the process, whatever its settings: standard streams, listeners, runtimes, watches, folders.
const PROCESS: usize = 40;
/// For one worker: its listener, its event queue and its wake-up.
const WORKER: usize = 6;
/// Reserved for the admin listener and for reading files, if the limit suffices for everything.
const KEPT_BACK: usize = crate::admin::CONNECTIONS_MAX + 96;
/// A gateway with fewer clients than this makes no sense.
const CLIENTS_MIN: usize = 8;

/// The number of descriptors for each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The limit of the process.
    pub(crate) limit: usize,
    /// Connections of clients.
    pub(crate) connections: usize,
    /// Clients in their handshake.
    pub(crate) handshakes: usize,
    /// Connections to other hosts.
    pub(crate) outgoing: usize,
}

/// The limit is too low for the gateway itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, and this gateway needs {needed} before it can serve clients: raise it (`ulimit -n`, \
     `LimitNOFILE=` of systemd) or lower `listen.workers`"
)]
pub(crate) struct TooFew {
    limit: usize,
    needed: usize,
}

/// Raises the limit of this process to its maximum, and returns it.
pub(crate) fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(u64::MAX);
    let raised = current.is_some_and(|current| current < wanted)
        && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let limit = if raised { maximum } else { current };
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

impl Plan {
    /// Divides a limit.
    pub(crate) fn of(limit: usize, config: &Config) -> Result<Self, TooFew> {
        let redis = config.redis.as_ref().map_or(0, |redis| {
            let servers = match &redis.topology {
                // As many servers as answer: each has separate connections.
                RedisTopology::Cluster(named) => named.len().max(8),
                RedisTopology::Servers(servers) => servers.len(),
                RedisTopology::Sentinels(sentinels) => 1 + sentinels.sentinels.len(),
                RedisTopology::Server(_) => 1,
            };
            // A new connection is opened while the previous one is still being closed.
            2 * servers * (redis.connections + 1)
        });
        let consumers: usize = config.consumers.values().map(|consumer| 2 * consumer.partitions()).sum();
        let own = PROCESS + WORKER * config.listen.workers + redis + consumers;
        let shared = limit.saturating_sub(own);
        let kept = (shared / 4).min(KEPT_BACK + OUTGOING);
        let outgoing = kept * OUTGOING / (KEPT_BACK + OUTGOING);
        let clients = shared - kept;
        if clients < CLIENTS_MIN {
            return Err(TooFew { limit, needed: own + CLIENTS_MIN * 4 / 3 });
        }
        let handshakes = config.limits.handshakes_max.min(clients / 4);
        let connections =
            config.limits.connections_max.min(clients - handshakes - REFUSALS_MAX.min(handshakes));
        Ok(Self { limit, connections, handshakes, outgoing: outgoing.max(1) })
    }

    /// Lowers the settings that exceed the plan, for this run.
    pub(crate) fn lower(&self, config: &mut Config) {
        let limits = &mut config.limits;
        let (connections_wanted, handshakes_wanted) = (limits.connections_max, limits.handshakes_max);
        let (per_address_wanted, handshakes_per_address_wanted) =
            (limits.connections_per_address_max, limits.handshakes_per_address_max);
        let Self { limit, connections, handshakes, .. } = *self;
        if connections >= connections_wanted && handshakes >= handshakes_wanted {
            return;
        }
        (limits.connections_max, limits.handshakes_max) = (connections, handshakes);
        let of_address = &mut limits.connections_per_address_max;
        *of_address = share(per_address_wanted, connections_wanted, connections);
        let of_address = &mut limits.handshakes_per_address_max;
        *of_address = share(handshakes_per_address_wanted, handshakes_wanted, handshakes);
        macro_rules! lowered {
            ($level:ident) => {
                tracing::$level!(
                    open_files = limit,
                    connections_max = connections,
                    connections_wanted,
                    handshakes_max = handshakes,
                    handshakes_wanted,
                    connections_per_address_max = limits.connections_per_address_max,
                    connections_per_address_wanted = per_address_wanted,
                    handshakes_per_address_max = limits.handshakes_per_address_max,
                    handshakes_per_address_wanted,
                    "limit of open files too low for the settings; they are lowered for this run; raise the limit \
                     (`ulimit -n`, `LimitNOFILE=` of systemd)"
                )
            };
        }
        // A default that does not fit is no mistake of the operator.
        let shipped = Config::default().limits;
        if connections_wanted == shipped.connections_max
            && handshakes_wanted == shipped.handshakes_max
            && per_address_wanted == shipped.connections_per_address_max
            && handshakes_per_address_wanted == shipped.handshakes_per_address_max
        {
            lowered!(info);
        } else {
            lowered!(warn);
        }
    }
}

/// The part of `max` for one address that was to have `of_address` of `wanted`: the same share, so that one
/// address does not take what was meant for many; or a quarter of `max` if that is more, because a network
/// may be behind one address.
fn share(of_address: usize, wanted: usize, max: usize) -> usize {
    if max >= wanted {
        return of_address;
    }
    of_address.min((of_address * max / wanted).max(max / 4).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(workers: usize, more: &str) -> Config {
        let text = format!("listen.workers = {workers}\nlimits.connections_max = 10000\n{more}");
        Config::parse(&text, "test.toml").expect("valid")
    }

    #[test]
    fn what_is_wanted_is_had_where_there_is_room() {
        let mut config = config(4, "");
        let plan = Plan::of(20_000, &config).expect("enough");
        assert_eq!((plan.connections, plan.handshakes), (10_000, 2000));
        assert_eq!(plan.outgoing, OUTGOING);
        plan.lower(&mut config);
        assert_eq!((config.limits.connections_max, config.limits.handshakes_max), (10_000, 2000));
    }

    #[test]
    fn an_address_keeps_its_share_of_what_is_lowered() {
        let mut config = config(1, "limits.connections_per_address_max = 5000");
        let plan = Plan::of(1024, &config).expect("enough");
        plan.lower(&mut config);
        let limits = &config.limits;
        assert_eq!(limits.connections_per_address_max, plan.connections / 2);
        assert_eq!(limits.handshakes_per_address_max, plan.handshakes / 4);
        for (of_address, wanted, max, expected) in [
            (1000, 100_000, 200_000, 1000),
            (1000, 100_000, 50_000, 1000),
            (1000, 100_000, 600, 150),
            (100_000, 100_000, 600, 600),
            (5, 100_000, 600, 5),
            (1, 100, 8, 1),
            (50, 100, 8, 4),
        ] {
            assert_eq!(
                share(of_address, wanted, max),
                expected,
                "{of_address} of {wanted}, lowered to {max}"
            );
        }
    }

    #[test]
    fn all_shares_fit_into_the_limit() {
        for workers in [1, 4, 64] {
            for more in ["", "redis.url = 'redis://127.0.0.1'"] {
                let config = config(workers, more);
                let least = (1..2000).find(|limit| Plan::of(*limit, &config).is_ok()).expect("some limit");
                for limit in [least, least + 1, 1024, 4096, 65_536, 1 << 20] {
                    let Ok(plan) = Plan::of(limit, &config) else { continue };
                    let own = PROCESS + WORKER * workers;
                    let refusals = REFUSALS_MAX.min(plan.handshakes);
                    let given = plan.connections + plan.handshakes + refusals + plan.outgoing;
                    assert!(own + given <= limit, "{limit}: {plan:?}");
                    assert!(plan.connections > 0 && plan.handshakes > 0, "{plan:?}");
                    assert!(
                        given + own + KEPT_BACK + 200 >= limit.min(12_000),
                        "{limit}: {plan:?} leaves too much unused"
                    );
                }
                let too_few = Plan::of(least - 1, &config).expect_err("too few").to_string();
                assert!(too_few.contains(&format!("needs {least} ")), "{too_few} and not {least}");
            }
        }
    }
}
