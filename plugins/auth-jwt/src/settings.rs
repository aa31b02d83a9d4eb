//! The `[config]` table: as written, and what it becomes. All errors are reported at once.

mod keys;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use gateway_plugin_sdk::settings::Errors;
use gateway_plugin_sdk::units::{Size, Span, show_duration};
use gateway_plugin_sdk::{address, settings};
use serde_json::Value;

use self::keys::{IssuerParts, IssuerSettings, KeySettings, Texts, several};
use crate::AuthJwt;
use crate::claims::ClaimPath;
use crate::identity::Profile;
use crate::jwks::Pace;
use crate::permissions::{Action, Permissions};
use crate::rules::Rules;
use crate::subscription::TokenChannels;

/// Tolerated difference between the clocks of issuer and gateway, in seconds.
const LEEWAY: u64 = 5;
const LEEWAY_MAX: u64 = 300;
/// Longest age of a token that can be asked for, in seconds: ten years.
const AGE_MAX: u64 = 10 * 365 * 24 * 3600;
/// Least time between two attempts to fetch keys, in seconds.
const INTERVAL: u64 = 30;
const INTERVAL_MAX: u64 = 3600;
/// Age at which keys are fetched again, in seconds.
const FRESH: u64 = 600;
const FRESH_MAX: u64 = 24 * 3600;
/// Age to which keys are used that cannot be fetched again, in seconds.
const USABLE: u64 = 24 * 3600;
const USABLE_MAX: u64 = 30 * 24 * 3600;
const TOKEN_BYTES: usize = 8 * 1024;
const TOKEN_BYTES_MIN: usize = 256;
const TOKEN_BYTES_MAX: usize = 64 * 1024;
const LIST_MAX: usize = 64;

/// The table as written.
#[settings]
pub struct Settings {
    /// One issuer, said here; or several, said in `issuers`.
    issuer: Option<String>,
    audience: Option<Texts>,
    secret: Option<String>,
    secret_base64: Option<String>,
    secret_hex: Option<String>,
    algorithm: Option<String>,
    #[serde(default)]
    keys: Vec<KeySettings>,
    jwks: Option<Value>,
    jwks_url: Option<String>,
    #[serde(default)]
    issuers: Vec<IssuerSettings>,
    jwks_interval: Option<Span>,
    jwks_fresh: Option<Span>,
    jwks_usable: Option<Span>,

    #[serde(default)]
    types: Vec<String>,
    leeway: Option<Span>,
    #[serde(default)]
    allow_without_exp: bool,
    age_max: Option<Span>,
    token_bytes_max: Option<Size>,
    #[serde(default)]
    required_claims: Vec<ClaimPath>,
    #[serde(default)]
    required_values: BTreeMap<ClaimPath, Value>,

    user_claim: Option<ClaimPath>,
    #[serde(default)]
    allow_without_user: bool,
    info_claim: Option<ClaimPath>,
    data_claim: Option<ClaimPath>,
    channels_claim: Option<ClaimPath>,
    #[serde(default)]
    attributes: BTreeMap<ClaimPath, String>,

    permissions: Option<PermissionMode>,
    #[serde(default)]
    permissions_otherwise: Otherwise,
    #[serde(default)]
    permission_claims: PermissionClaims,
    #[serde(default)]
    token_channels: Vec<String>,
    #[serde(default)]
    subscription_issuers: Vec<IssuerSettings>,
}

/// Where permissions come from.
#[settings]
#[derive(Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum PermissionMode {
    Claims,
}

/// What becomes of a message that no claim permits.
#[settings]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Otherwise {
    #[default]
    Deny,
    Next,
}

/// The claims that hold channel patterns.
#[settings]
#[derive(Default)]
struct PermissionClaims {
    subscribe: Option<ClaimPath>,
    publish: Option<ClaimPath>,
    presence: Option<ClaimPath>,
    history: Option<ClaimPath>,
}

impl Settings {
    /// The plugin; or everything that is wrong with its settings.
    pub(crate) fn check(self) -> Result<AuthJwt, String> {
        let errors = Errors::default();
        let profile = Profile {
            user: self.user_claim.unwrap_or_else(|| ClaimPath::new("sub")),
            user_required: !self.allow_without_user,
            info: self.info_claim.unwrap_or_else(|| ClaimPath::new("info")),
            data: self.data_claim.unwrap_or_else(|| ClaimPath::new("data")),
            channels: self.channels_claim.unwrap_or_else(|| ClaimPath::new("channels")),
            attributes: self.attributes,
        };
        let rules = Rules {
            types: self.types.iter().map(|text| text.to_ascii_lowercase()).collect(),
            leeway: seconds(&errors, "leeway", self.leeway).unwrap_or(LEEWAY),
            exp_required: !self.allow_without_exp,
            age_max: seconds(&errors, "age_max", self.age_max),
            required_claims: self.required_claims,
            required_values: self.required_values,
        };
        let named = self.permission_claims;
        let or_name =
            |path: Option<ClaimPath>, action: Action| path.unwrap_or_else(|| ClaimPath::new(action.name()));
        let permissions = self.permissions.map(|PermissionMode::Claims| Permissions {
            claims: [
                or_name(named.subscribe, Action::Subscribe),
                or_name(named.publish, Action::Publish),
                or_name(named.presence, Action::Presence),
                or_name(named.history, Action::History),
            ],
            deny: self.permissions_otherwise == Otherwise::Deny,
        });
        for path in permissions.iter().flat_map(|permissions| &permissions.claims) {
            if let Err(why) = path.check() {
                errors.add("permission_claims", format!("has {:?}, which {why}", path.to_string()));
            }
        }
        for pattern in &self.token_channels {
            if !address::is_pattern(pattern) {
                errors.add(
                    "token_channels",
                    format!("has {pattern:?}, which is no channel name that may end in `*`"),
                );
            }
        }
        let token_channels = TokenChannels(self.token_channels);
        let token_bytes_max = self
            .token_bytes_max
            .map_or(TOKEN_BYTES, |size| usize::try_from(size.bytes()).unwrap_or(usize::MAX));
        let short = KeySettings {
            kid: None,
            algorithm: self.algorithm.clone(),
            secret: self.secret,
            secret_base64: self.secret_base64,
            secret_hex: self.secret_hex,
            pem: None,
            jwk: None,
        };
        let pace = pace(self.jwks_interval, self.jwks_fresh, self.jwks_usable, &errors);
        let issuers = if self.issuers.is_empty() {
            let (audience, jwks, jwks_url) = (self.audience, self.jwks, self.jwks_url);
            let one = IssuerParts {
                name: self.issuer,
                audience,
                algorithm: self.algorithm,
                short,
                keys: self.keys,
                jwks,
                jwks_url,
                pace,
            };
            vec![one.check("", &errors)]
        } else {
            if self.issuer.is_some()
                || self.audience.is_some()
                || !self.keys.is_empty()
                || self.jwks.is_some()
                || self.jwks_url.is_some()
                || short.is_given()
            {
                errors.add(
                    "issuers",
                    "cannot stand beside `issuer`, `audience`, `keys`, `jwks`, `jwks_url` or a secret: move them into it",
                );
            }
            several("issuers", self.issuers, pace, &errors)
        };
        let subscription_issuers = several("subscription_issuers", self.subscription_issuers, pace, &errors);
        if !subscription_issuers.is_empty() && token_channels.0.is_empty() {
            errors.add(
                "subscription_issuers",
                "makes tokens for no channel: name the channels that need one in `token_channels`",
            );
        }
        for (index, issuer) in subscription_issuers.iter().enumerate() {
            if issuer.source.is_some() {
                errors.add(
                    &format!("subscription_issuers[{index}].jwks_url"),
                    "is not possible here, because a subscribe cannot wait for keys: list them in `keys` or `jwks`",
                );
            }
        }

        at_most(&errors, "leeway", rules.leeway, LEEWAY_MAX, "seconds");
        at_most(&errors, "age_max", rules.age_max.unwrap_or_default(), AGE_MAX, "seconds");
        if rules.age_max == Some(0) {
            errors.add("age_max", "is 0: no token would be good");
        }
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token_bytes_max) {
            errors.add(
                "token_bytes_max",
                format!("is {token_bytes_max}: {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} are accepted"),
            );
        }
        for (name, count) in [
            ("types", rules.types.len()),
            ("required_claims", rules.required_claims.len()),
            ("required_values", rules.required_values.len()),
            ("token_channels", token_channels.0.len()),
            // The gateway takes 64 from one answer by default, and permissions are some of them.
            ("attributes", profile.attributes.len() * 2),
        ] {
            if count > LIST_MAX {
                let most = if name == "attributes" { LIST_MAX / 2 } else { LIST_MAX };
                errors.add(name, format!("has more than {most} members"));
            }
        }
        check_claims(&profile, &rules, &errors);
        errors.finish(AuthJwt {
            issuers,
            rules,
            profile,
            permissions,
            token_channels,
            subscription_issuers,
            token_bytes_max,
        })
    }
}

/// How often keys are fetched.
fn pace(interval: Option<Span>, fresh: Option<Span>, usable: Option<Span>, errors: &Errors) -> Pace {
    let interval = seconds(errors, "jwks_interval", interval).unwrap_or(INTERVAL);
    let fresh = seconds(errors, "jwks_fresh", fresh).unwrap_or(FRESH.max(interval));
    let usable = seconds(errors, "jwks_usable", usable).unwrap_or(USABLE.max(fresh));
    between(errors, "jwks_interval", interval, 1..=INTERVAL_MAX, "seconds");
    between(errors, "jwks_fresh", fresh, interval..=FRESH_MAX, "seconds, beginning with `jwks_interval`,");
    between(errors, "jwks_usable", usable, fresh..=USABLE_MAX, "seconds, beginning with `jwks_fresh`,");
    let [interval, fresh, usable] = [interval, fresh, usable].map(Duration::from_secs);
    Pace { interval, fresh, usable }
}

fn check_claims(profile: &Profile, rules: &Rules, errors: &Errors) {
    let named = [
        ("user_claim", &profile.user),
        ("info_claim", &profile.info),
        ("data_claim", &profile.data),
        ("channels_claim", &profile.channels),
    ];
    let attributes = profile.attributes.keys().map(|path| ("attributes", path));
    let required = rules.required_claims.iter().map(|path| ("required_claims", path));
    let values = rules.required_values.keys().map(|path| ("required_values", path));
    for (name, path) in named.into_iter().chain(attributes).chain(required).chain(values) {
        if let Err(why) = path.check() {
            errors.add(name, format!("has {:?}, which {why}", path.to_string()));
        }
    }
    for (path, name) in &profile.attributes {
        if name.is_empty() {
            errors.add("attributes", format!("has no name for the attribute of claim `{path}`"));
        }
    }
    for (path, value) in &rules.required_values {
        if value.is_object() || value.is_array() {
            errors.add(
                "required_values",
                format!("has for `{path}` something else than a text, a number, true or false"),
            );
        }
    }
}

/// A duration of whole seconds: tokens know no shorter time.
fn seconds(errors: &Errors, key: &str, span: Option<Span>) -> Option<u64> {
    let span = span?;
    if span.0.subsec_millis() > 0 {
        errors.add(key, format!("is {:?}: whole seconds are accepted", show_duration(span.0)));
    }
    Some(span.seconds())
}

fn at_most(errors: &Errors, key: &str, value: u64, most: u64, unit: &str) {
    if value > most {
        errors.add(key, format!("is {value} {unit}: at most {most} are accepted"));
    }
}

fn between(errors: &Errors, key: &str, value: u64, accepted: RangeInclusive<u64>, unit: &str) {
    if !accepted.contains(&value) {
        let (least, most) = accepted.into_inner();
        errors.add(key, format!("is {value}: {least} to {most} {unit} are accepted"));
    }
}
