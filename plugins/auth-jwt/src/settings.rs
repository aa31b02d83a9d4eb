use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gateway_plugin_sdk::settings;

use crate::claims::Expected;
use crate::key::{HS256_SECRET_BYTES_MIN, Key};

/// Longest tolerated difference between the clocks of issuer and gateway, in seconds.
const LEEWAY_MAX: u64 = 300;

/// The `[config]` table as written.
#[settings]
pub struct Settings {
    /// The key as text.
    secret: Option<String>,
    /// The key as standard base64.
    secret_base64: Option<String>,
    /// What `iss` must be.
    issuer: Option<String>,
    /// What `aud` must be or contain.
    audience: Option<String>,
    /// By how many seconds `exp` and `nbf` may be missed.
    #[serde(default)]
    leeway: u64,
    /// Whether a token may be good for ever.
    #[serde(default)]
    allow_without_exp: bool,
}

impl Settings {
    /// The settings as used; or everything that is wrong with them.
    pub(crate) fn check(self) -> Result<(Key, Expected), String> {
        let mut mistakes = Vec::new();
        let key = secret(self.secret, self.secret_base64).map_err(|mistake| mistakes.push(mistake));
        if self.leeway > LEEWAY_MAX {
            mistakes.push(format!("`leeway` is {} seconds: at most {LEEWAY_MAX} are accepted", self.leeway));
        }
        for (name, value) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if value.as_deref() == Some("") {
                mistakes.push(format!("`{name}` is empty: leave it out if it does not matter"));
            }
        }
        match key {
            Ok(key) if mistakes.is_empty() => {
                let (issuer, audience) = (self.issuer, self.audience);
                let (leeway, exp_required) = (self.leeway, !self.allow_without_exp);
                Ok((Key::hs256(&key), Expected { issuer, audience, leeway, exp_required }))
            }
            _ => Err(mistakes.join("; ")),
        }
    }
}

fn secret(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, String> {
    let (name, secret) = match (text, base64) {
        (Some(text), None) => ("secret", text.into_bytes()),
        (None, Some(base64)) => match STANDARD.decode(base64) {
            Ok(bytes) => ("secret_base64", bytes),
            // Without the decoder's words: they quote the byte that is wrong.
            Err(_) => return Err("`secret_base64` is not standard base64 with padding".into()),
        },
        (None, None) => {
            return Err("set `secret` or `secret_base64`: the key that tokens are signed with".into());
        }
        (Some(_), Some(_)) => return Err("set either `secret` or `secret_base64`, not both".into()),
    };
    if secret.len() < HS256_SECRET_BYTES_MIN {
        return Err(format!(
            "`{name}` has {} bytes: HS256 needs at least {HS256_SECRET_BYTES_MIN} \
             (`openssl rand -base64 48` makes a good one)",
            secret.len()
        ));
    }
    Ok(secret)
}
