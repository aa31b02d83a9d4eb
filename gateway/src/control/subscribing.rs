//! Subscribes clients for the server API.

use std::sync::Arc;

use super::{Control, Whom};
use crate::backplane::{Order, Overrides, SubscribeOptions};
use crate::config::Namespace;
use crate::protocol::channel::Channel;
use crate::protocol::code::ReplyError;

impl Control {
    /// Subscribes connections to a channel.
    ///
    /// # Errors
    ///
    /// If no namespace is configured for the channel, the options do not fit it, or the backplane cannot pass
    /// the order on.
    pub async fn subscribe(
        &self,
        whom: &Whom,
        channel: &Channel,
        options: SubscribeOptions,
    ) -> Result<(), ReplyError> {
        let namespace = self.namespace(channel)?;
        let bytes_max = self.inner.config.limits.publication_bytes_max;
        check(namespace, &options, self.now().unix / 1000, bytes_max)?;
        let options = (options != SubscribeOptions::default()).then(|| Arc::new(options));
        self.order(whom, Order::Subscribe(channel.clone(), options)).await
    }
}

/// Checks that the options of a subscription fit its namespace. `now` is Unix time in seconds.
fn check(
    namespace: &Namespace,
    options: &SubscribeOptions,
    now: u64,
    bytes_max: usize,
) -> Result<(), ReplyError> {
    let SubscribeOptions { data, recover, expires_at, overrides, .. } = options;
    if data.len() > bytes_max {
        let bytes = data.len();
        let why = format!("`data` has {bytes} bytes: `limits.publication_bytes_max` is {bytes_max}");
        return Err(ReplyError::LIMIT_EXCEEDED.because(why));
    }
    if expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(ReplyError::BAD_REQUEST.because("`expire_at` is not in the future"));
    }
    let Overrides { presence, join_leave, push_join_leave, recovery, positioning } = *overrides;
    // Every gateway and every other subscriber of the channel would have to know more than this subscription.
    for (setting, name, rule, is_there) in [
        (presence, "presence", "presence", namespace.presence),
        (join_leave, "join_leave", "join_leave", namespace.join_leave),
        (push_join_leave, "force_push_join_leave", "join_leave", namespace.join_leave),
        (recovery, "force_recovery", "recovery", namespace.recovery),
        (positioning, "force_positioning", "recovery", namespace.recovery),
    ] {
        if setting == Some(true) && !is_there {
            let why = format!(
                "`override.{name}` cannot give a subscription what the namespace of the channel does not \
                 have: `{rule} = true`"
            );
            return Err(ReplyError::NOT_AVAILABLE.because(why));
        }
    }
    let (listed, told) = (presence.unwrap_or(true), join_leave.unwrap_or(true));
    if namespace.presence && namespace.join_leave && listed != told {
        let why = "`override.presence` and `override.join_leave` go together in this channel: when a gateway \
                   dies, the others tell of the members that it had listed, and of no others, that they have left";
        return Err(ReplyError::NOT_AVAILABLE.because(why));
    }
    if recover.is_some() && !(namespace.recovery && recovery.unwrap_or(true)) {
        let why = "`recover_since` needs a subscription that can recover: `recovery = true` in the \
                   namespace of the channel, and no `override.force_recovery` against it";
        return Err(ReplyError::NOT_AVAILABLE.because(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::config::Config;
    use crate::protocol::command::Position;

    fn checked(rules: &str, options: &SubscribeOptions) -> Result<(), (u32, String)> {
        let config = Config::parse(&format!("[channel]\nhistory_size = 9\n{rules}"), "test").unwrap();
        let checked = check(&config.namespaces.default, options, 1_000, 4);
        checked.map_err(|error| (error.code, error.message.to_string()))
    }

    fn overridden(overrides: Overrides) -> SubscribeOptions {
        SubscribeOptions { overrides, ..SubscribeOptions::default() }
    }

    #[test]
    fn a_subscription_gets_nothing_that_its_namespace_does_not_have() {
        let on = Some(true);
        for (name, rule, overrides) in [
            ("presence", "presence", Overrides { presence: on, ..Overrides::default() }),
            ("join_leave", "join_leave", Overrides { join_leave: on, ..Overrides::default() }),
            (
                "force_push_join_leave",
                "join_leave",
                Overrides { push_join_leave: on, ..Overrides::default() },
            ),
            ("force_recovery", "recovery", Overrides { recovery: on, ..Overrides::default() }),
            ("force_positioning", "recovery", Overrides { positioning: on, ..Overrides::default() }),
        ] {
            let (code, why) = checked("", &overridden(overrides)).unwrap_err();
            assert_eq!(code, 108, "{why}");
            assert!(why.contains(&format!("`override.{name}`")) && why.contains(rule), "{why}");
            assert_eq!(checked(&format!("{rule} = true"), &overridden(overrides)), Ok(()));
        }
        let off = Some(false);
        let nothing = Overrides {
            presence: off,
            join_leave: off,
            push_join_leave: off,
            recovery: off,
            positioning: off,
        };
        assert_eq!(checked("", &overridden(nothing)), Ok(()));
    }

    #[test]
    fn who_is_listed_is_announced_where_the_channel_has_both() {
        let rules = "presence = true\njoin_leave = true";
        for (presence, join_leave, fits) in [
            (Some(false), Some(false), true),
            (Some(true), None, true),
            (Some(false), None, false),
            (None, Some(false), false),
        ] {
            let overrides = Overrides { presence, join_leave, ..Overrides::default() };
            let checked = checked(rules, &overridden(overrides));
            assert_eq!(checked.is_ok(), fits, "{overrides:?}");
            assert!(fits || checked.unwrap_err().1.contains("go together"));
        }
        let alone = Overrides { presence: Some(false), ..Overrides::default() };
        assert_eq!(checked("presence = true", &overridden(alone)), Ok(()));
    }

    #[test]
    fn recovery_needs_a_subscription_that_can_recover() {
        let recover = Some(Position { offset: 1, epoch: "e".into() });
        let since = SubscribeOptions { recover, ..SubscribeOptions::default() };
        assert_eq!(checked("recovery = true", &since), Ok(()));
        assert_eq!(checked("", &since).unwrap_err().0, 108);
        let against = Overrides { recovery: Some(false), ..Overrides::default() };
        let against = SubscribeOptions { overrides: against, ..since };
        assert_eq!(checked("recovery = true", &against).unwrap_err().0, 108);
    }

    #[test]
    fn data_has_a_limit_and_an_expiry_lies_ahead() {
        let data = |text: &'static str| SubscribeOptions { data: text.into(), ..SubscribeOptions::default() };
        assert_eq!(checked("", &data("1234")), Ok(()));
        let (code, why) = checked("", &data("12345")).unwrap_err();
        assert_eq!((code, why.contains("limits.publication_bytes_max")), (106, true), "{why}");
        let expires = |at| SubscribeOptions { expires_at: Some(at), ..SubscribeOptions::default() };
        assert_eq!(checked("", &expires(1_001)), Ok(()));
        assert_eq!(checked("", &expires(1_000)).unwrap_err().0, 107);
    }
}
