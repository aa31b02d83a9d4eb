//! Tokens as an application's backend makes them: JWT, HS256.

use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

/// What the tests' tokens are signed with.
pub const SECRET: &str = "a secret of thirty-two bytes or more";

/// Settings for `auth-jwt` that accept these tokens.
pub fn settings() -> String {
    format!("[config]\nsecret = \"{SECRET}\"\n")
}

/// A token of a user, good for an hour.
pub fn of(user: &str) -> String {
    with(user, json!({}))
}

/// A token of a user with more claims, which win over the usual ones.
pub fn with(user: &str, claims: Value) -> String {
    let mut all = json!({ "sub": user, "exp": in_time(Duration::from_secs(3600)) });
    if let (Value::Object(all), Value::Object(claims)) = (&mut all, claims) {
        all.extend(claims);
    }
    sign(&json!({ "alg": "HS256", "typ": "JWT" }), &all, SECRET)
}

/// The claims of a token.
pub fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).expect("a token has three parts");
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).expect("base64url")).expect("JSON")
}

/// A token of exactly this header and these claims.
pub fn sign(header: &Value, claims: &Value, secret: &str) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length is a key");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// The Unix time in seconds at which this much time will have passed, rounded up.
pub fn in_time(time: Duration) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    (now + time).as_millis().div_ceil(1000) as u64
}
