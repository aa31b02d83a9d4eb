//! [`AuthSettings`] is the part of a settings file of auth-jwt that says which tokens the plugin accepts.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use gateway_plugin_grammar::address;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Claims, Key, Signer};

/// What a token has to be, by the settings. The plugin itself checks them; here unknown keys are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct AuthSettings {
    #[serde(default)]
    config: Config,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    #[serde(flatten)]
    issuer: Issuer,
    issuers: Vec<Issuer>,
    token_channels: Vec<String>,
    subscription_issuers: Vec<Issuer>,
    user_claim: Option<String>,
    info_claim: Option<String>,
    channels_claim: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Issuer {
    issuer: Option<String>,
    audience: Option<OneOrMany>,
    #[serde(flatten)]
    secret: SecretKey,
    keys: Vec<SecretKey>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SecretKey {
    kid: Option<String>,
    algorithm: Option<String>,
    secret: Option<String>,
    secret_base64: Option<String>,
    secret_hex: Option<String>,
    jwk: Option<toml::Value>,
}

/// What the user of a token and the token itself are to be.
#[derive(Debug, Default)]
pub(crate) struct TokenOptions<'a> {
    /// Empty for an anonymous client.
    pub(crate) user: &'a str,
    /// When the token ends, as Unix time in seconds.
    pub(crate) expires: u64,
    /// JSON that other clients see.
    pub(crate) info: Option<Value>,
    /// Channels that the client is subscribed to.
    pub(crate) channels: &'a [String],
    /// The channel of a subscription token; `None` for a token of a connection.
    pub(crate) subscription: Option<&'a str>,
    /// Which issuer signs, if the settings have several.
    pub(crate) issuer: Option<&'a str>,
    /// Which key signs, if the settings have several.
    pub(crate) key_id: Option<&'a str>,
}

impl AuthSettings {
    /// Reads a settings file.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read or is not a settings file.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let failed = || format!("failed to read the settings of auth-jwt in {}", file.display());
        let text = std::fs::read_to_string(file).with_context(failed)?;
        // The error of the parser shows a line of the file, which may hold the secret.
        toml::from_str(&text).ok().with_context(failed).with_context(|| {
            format!("`gateway plugin check` on the plugin next to {} shows the mistake", file.display())
        })
    }

    /// The signer with the shared secret of the settings.
    ///
    /// # Errors
    ///
    /// Fails if the settings hold no shared secret for this choice: public keys verify and do not sign.
    pub(crate) fn signer(&self, options: &TokenOptions<'_>) -> anyhow::Result<Signer> {
        let issuer = self.issuer(options)?;
        let chosen = |key: &&SecretKey| options.key_id.is_none_or(|id| key.kid.as_deref() == Some(id));
        let keys = std::iter::once(&issuer.secret).chain(&issuer.keys).filter(chosen);
        for key in keys {
            if let Some((algorithm, secret)) = key.shared()? {
                return Ok(Signer::new(Key::secret(&algorithm, &secret)?, key.kid.clone()));
            }
        }
        match options.key_id {
            Some(id) => bail!("the settings of auth-jwt have no shared secret with the key id {id:?}"),
            None => bail!(
                "the settings of auth-jwt have no shared secret, and public keys do not sign: pass the private key \
                 with --key FILE --algorithm NAME"
            ),
        }
    }

    /// The secret of a settings file with exactly one at its top, as `gateway demo` writes it.
    pub(crate) fn only_secret(&self) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(self.config.issuer.secret.shared()?.map(|(_, secret)| secret))
    }

    /// The claims of a token that the plugin accepts.
    ///
    /// # Errors
    ///
    /// Fails if the options issuer is not in the settings, or if no channel of this name takes a token.
    pub(crate) fn claims(&self, options: &TokenOptions<'_>) -> anyhow::Result<Claims> {
        if let Some(channel) = options.subscription {
            let patterns = &self.config.token_channels;
            ensure!(
                patterns.iter().any(|pattern| address::matches(pattern, channel)),
                "the settings of auth-jwt ask for no token in the channel {channel:?}: the patterns in \
                 `token_channels` are {patterns:?}"
            );
        }
        let issuer = self.issuer(options)?;
        let mut claims = Claims::default();
        let name = |claim: &Option<String>, default: &str| claim.as_deref().unwrap_or(default).to_owned();
        claims.set(&name(&self.config.user_claim, "sub"), options.user.into())?;
        claims.set("exp", options.expires.into())?;
        if let Some(issuer) = &issuer.issuer {
            claims.set("iss", issuer.as_str().into())?;
        }
        match &issuer.audience {
            Some(OneOrMany::One(audience)) => claims.set("aud", audience.as_str().into())?,
            Some(OneOrMany::Many(all)) => claims.set("aud", json!(all.first()))?,
            None => {}
        }
        if let Some(info) = &options.info {
            claims.set(&name(&self.config.info_claim, "info"), info.clone())?;
        }
        if let Some(channel) = options.subscription {
            claims.set("channel", channel.into())?;
        }
        if !options.channels.is_empty() {
            claims.set(&name(&self.config.channels_claim, "channels"), json!(options.channels))?;
        }
        Ok(claims)
    }

    fn issuer(&self, options: &TokenOptions<'_>) -> anyhow::Result<&Issuer> {
        let Config { issuer, issuers, subscription_issuers, .. } = &self.config;
        let of_subscriptions = options.subscription.is_some() && !subscription_issuers.is_empty();
        let issuers = if of_subscriptions { subscription_issuers } else { issuers };
        let all = || std::iter::once(issuer).filter(|_| !of_subscriptions).chain(issuers);
        let Some(name) = options.issuer else {
            return Ok(issuers.first().unwrap_or(issuer));
        };
        all().find(|issuer| issuer.issuer.as_deref() == Some(name)).with_context(|| {
            let known: Vec<_> = all().filter_map(|issuer| issuer.issuer.as_deref()).collect();
            format!("the settings of auth-jwt do not name the issuer {name:?}; they name {known:?}")
        })
    }
}

impl SecretKey {
    /// The shared secret with its algorithm, if this is one.
    fn shared(&self) -> anyhow::Result<Option<(String, Vec<u8>)>> {
        let broken = || "the secret in the settings of auth-jwt is not valid in the form that its key names";
        let algorithm = self.algorithm.as_deref().unwrap_or("HS256");
        let secret = match self {
            Self { secret: Some(text), .. } => text.clone().into_bytes(),
            Self { secret_base64: Some(text), .. } => {
                BASE64_STANDARD.decode(text).ok().with_context(broken)?
            }
            Self { secret_hex: Some(text), .. } => from_hex(text).with_context(broken)?,
            Self { jwk: Some(jwk), .. } => return shared_jwk(jwk, self.algorithm.as_deref()),
            _ => return Ok(None),
        };
        Ok(Some((algorithm.to_owned(), secret)))
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(***)")
    }
}

/// The secret of a JWK of the type `oct` (RFC 7518, section 6.4): a table, or JSON in a text.
fn shared_jwk(jwk: &toml::Value, algorithm: Option<&str>) -> anyhow::Result<Option<(String, Vec<u8>)>> {
    let broken = || "the `jwk` in the settings of auth-jwt is not valid";
    let jwk: Value = match jwk {
        toml::Value::String(text) => serde_json::from_str(text).ok().with_context(broken)?,
        table => serde_json::to_value(table).ok().with_context(broken)?,
    };
    let (Some("oct"), Some(secret)) = (jwk["kty"].as_str(), jwk["k"].as_str()) else {
        return Ok(None);
    };
    let algorithm = algorithm.or_else(|| jwk["alg"].as_str()).unwrap_or("HS256");
    let secret = BASE64_URL_SAFE_NO_PAD.decode(secret).ok().with_context(broken)?;
    Ok(Some((algorithm.to_owned(), secret)))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> AuthSettings {
        toml::from_str(text).expect("settings")
    }

    fn options() -> TokenOptions<'static> {
        TokenOptions { user: "ann", expires: 4_600, ..TokenOptions::default() }
    }

    fn token(settings: &AuthSettings, options: &TokenOptions<'_>) -> anyhow::Result<(Value, Value)> {
        let token = settings.signer(options)?.token(&settings.claims(options)?)?;
        let part = |part: &str| {
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
        };
        let mut parts = token.split('.');
        Ok((part(parts.next().expect("a header")), part(parts.next().expect("claims"))))
    }

    const SECRET: &str = "a secret of thirty-two bytes or more";

    #[test]
    fn a_secret_may_have_every_form_that_the_plugin_reads() {
        let base64 = BASE64_STANDARD.encode(SECRET);
        let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
        let jwk = BASE64_URL_SAFE_NO_PAD.encode(SECRET);
        let expected =
            Key::secret("HS256", SECRET.as_bytes()).and_then(|key| key.sign(b"x")).expect("signed");
        for text in [
            format!("[config]\nsecret = {SECRET:?}"),
            format!("[config]\nsecret_base64 = {base64:?}"),
            format!("[config]\nsecret_hex = {hex:?}"),
            format!("[[config.keys]]\nalgorithm = \"HS256\"\nsecret = {SECRET:?}"),
            format!("[[config.keys]]\njwk = {{ kty = \"oct\", k = {jwk:?} }}"),
            format!("[[config.keys]]\njwk = '{{\"kty\":\"oct\",\"k\":\"{jwk}\"}}'"),
            format!("[[config.issuers]]\nissuer = \"a\"\nkeys = [{{ secret = {SECRET:?} }}]"),
        ] {
            let signer = settings(&text).signer(&options()).expect(&text);
            assert_eq!(signer.key.sign(b"x").expect("signed"), expected, "{text}");
        }
    }

    #[test]
    fn a_token_has_the_claims_that_the_settings_ask_for() {
        let text = format!(
            "[config]\nsecret = {SECRET:?}\nissuer = \"shop\"\naudience = [\"chat\", \"games\"]\nuser_claim = \"/account/id\""
        );
        let channels = ["chat:a".to_owned()];
        let options = TokenOptions { info: Some(json!({"name": "Ann"})), channels: &channels, ..options() };
        let (header, claims) = token(&settings(&text), &options).expect("signed");
        assert_eq!(header["alg"], "HS256");
        let expected = json!({
            "account": {"id": "ann"}, "exp": 4_600, "iss": "shop", "aud": "chat", "info": {"name": "Ann"},
            "channels": ["chat:a"],
        });
        assert_eq!(claims, expected);
    }

    #[test]
    fn one_of_several_keys_and_issuers_is_chosen_by_name() {
        let text = format!(
            "[[config.issuers]]\nissuer = \"a\"\nkeys = [{{ kid = \"1\", secret = {SECRET:?} }}]\n\
             [[config.issuers]]\nissuer = \"b\"\nkeys = [{{ kid = \"1\", secret = {SECRET:?} }}, \
             {{ kid = \"2\", algorithm = \"HS512\", secret_hex = \"{}\" }}]",
            (0..64).map(|byte| format!("{byte:02x}")).collect::<String>()
        );
        let settings = settings(&text);
        let (_, claims) = token(&settings, &options()).expect("the first");
        assert_eq!(claims["iss"], "a");
        let second = TokenOptions { issuer: Some("b"), key_id: Some("2"), ..options() };
        let (header, claims) = token(&settings, &second).expect("there");
        assert_eq!(
            (&claims["iss"], &header["kid"], &header["alg"]),
            (&json!("b"), &json!("2"), &json!("HS512"))
        );
        let unknown =
            token(&settings, &TokenOptions { issuer: Some("c"), ..options() }).expect_err("unknown");
        assert!(unknown.to_string().contains(r#"they name ["a", "b"]"#), "{unknown}");
        let unknown =
            token(&settings, &TokenOptions { key_id: Some("9"), ..options() }).expect_err("unknown");
        assert!(unknown.to_string().contains("\"9\""), "{unknown}");
    }

    #[test]
    fn a_subscription_token_is_for_one_channel_that_takes_one() {
        let text = format!("[config]\nsecret = {SECRET:?}\ntoken_channels = [\"private:*\"]");
        let of = |channel| TokenOptions { subscription: Some(channel), ..options() };
        let (_, claims) = token(&settings(&text), &of("private:1")).expect("signed");
        assert_eq!(claims, json!({"sub": "ann", "exp": 4_600, "channel": "private:1"}));
        let open = token(&settings(&text), &of("news")).expect_err("it takes none").to_string();
        assert!(open.contains("\"news\"") && open.contains("[\"private:*\"]"), "{open}");
    }

    #[test]
    fn issuers_of_subscription_tokens_sign_nothing_else() {
        let text = format!(
            "[config]\nissuer = \"login\"\nsecret = {SECRET:?}\ntoken_channels = [\"*\"]\n\
             [[config.subscription_issuers]]\nissuer = \"rooms\"\n\
             keys = [{{ algorithm = \"HS512\", secret_hex = \"{}\" }}]",
            (0..64).map(|byte| format!("{byte:02x}")).collect::<String>()
        );
        let settings = settings(&text);
        let (header, claims) = token(&settings, &options()).expect("of a connection");
        assert_eq!((&header["alg"], &claims["iss"]), (&json!("HS256"), &json!("login")));
        let subscription = TokenOptions { subscription: Some("news"), ..options() };
        let (header, claims) = token(&settings, &subscription).expect("of a subscription");
        assert_eq!((&header["alg"], &claims["iss"]), (&json!("HS512"), &json!("rooms")));
        let other = TokenOptions { issuer: Some("login"), ..subscription };
        let unknown = token(&settings, &other).expect_err("of connections only").to_string();
        assert!(unknown.contains(r#"they name ["rooms"]"#), "{unknown}");
    }

    #[test]
    fn public_keys_do_not_sign() {
        let settings = settings("[[config.keys]]\nalgorithm = \"ES256\"\npem = \"...\"");
        let error = token(&settings, &options()).expect_err("a public key").to_string();
        assert!(error.contains("--key FILE"), "{error}");
    }

    #[test]
    fn no_error_and_no_debug_text_shows_a_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("10-auth-jwt.toml");
        std::fs::write(&file, format!("[config]\nsecret = {SECRET:?} oops")).expect("writable");
        let error = format!("{:#}", AuthSettings::read(&file).expect_err("not TOML"));
        assert!(error.contains("10-auth-jwt.toml") && !error.contains("thirty-two"), "{error}");
        let settings = settings(&format!("[config]\nsecret = {SECRET:?}"));
        assert!(!format!("{settings:?}").contains("thirty-two"));
    }
}
