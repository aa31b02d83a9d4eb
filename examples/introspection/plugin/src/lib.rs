//! Admits clients whose token an OAuth 2.0 server says is active (RFC 7662, token introspection).

use std::time::Duration;

use gateway_plugin_sdk::http::Request;
use gateway_plugin_sdk::prelude::*;
use gateway_plugin_sdk::serde::Deserialize;

/// The `[config]` table.
#[settings]
pub struct Settings {
    /// The introspection endpoint. Its origin has to be granted.
    endpoint: String,
    /// What the plugin shows the endpoint in `Authorization`, for example `Basic ...`; empty for nothing.
    #[serde(default)]
    authorization: String,
    /// For how many seconds an answer is used again. A token that is revoked lives on for this long.
    #[serde(default = "ten")]
    cache_seconds: u64,
}

fn ten() -> u64 {
    10
}

/// The plugin.
pub struct Introspection(Settings);

/// The part of an answer that counts here.
#[derive(Deserialize)]
#[serde(crate = "gateway_plugin_sdk::serde")]
struct Answer {
    active: bool,
    #[serde(default)]
    sub: String,
    exp: Option<u64>,
}

#[plugin]
impl Plugin for Introspection {
    type Config = Settings;

    fn configure(config: Settings, _: &mut Interests) -> Result<Self, String> {
        Ok(Self(config))
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        if event.token().is_empty() {
            return Connect::pass();
        }
        let Settings { endpoint, authorization, cache_seconds } = &self.0;
        let mut request = Request::post(endpoint)
            .form([("token", event.token()), ("token_type_hint", "access_token")])
            .header("accept", "application/json")
            .cache(Duration::from_secs(*cache_seconds));
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let answer = match request.send() {
            Ok(answer) if answer.is_success() => answer.json::<Answer>().map_err(|error| error.to_string()),
            Ok(answer) => Err(format!("the endpoint answered {}", answer.status())),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(Answer { active: true, sub, exp }) if !sub.is_empty() => {
                let accept = Connect::accept(sub);
                if let Some(exp) = exp { accept.expires_at(exp) } else { accept }
            }
            Ok(_) => Connect::refuse(code::INVALID_TOKEN, "the token is not valid"),
            Err(why) => {
                // Not the client's fault, and not to be held against its token.
                log::warn!("no answer about a token: {why}");
                Connect::refuse(code::INTERNAL, "the token cannot be checked now")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_plugin_sdk::http::Response;
    use gateway_plugin_sdk::kit::Kit;
    use gateway_plugin_sdk::{HostError, HostErrorKind};

    use super::*;

    fn connect(answer: Result<Response, HostError>) -> Connect {
        let mut kit = Kit::<Introspection>::new(json!({"endpoint": "https://idp.example/introspect"}))
            .expect("settings");
        kit.http(move |request| {
            assert_eq!((request.method(), request.url()), ("POST", "https://idp.example/introspect"));
            assert_eq!(request.text(), "token=t%2B1&token_type_hint=access_token");
            answer.clone()
        });
        kit.connect("t+1").verdict
    }

    #[test]
    fn who_has_an_active_token_is_let_in_as_its_subject_until_it_expires() {
        let answer = r#"{"active": true, "sub": "42", "exp": 1700000100, "scope": "read"}"#;
        assert_eq!(connect(Ok(Response::new(200, answer))), Connect::accept("42").expires_at(1_700_000_100));
    }

    #[test]
    fn an_inactive_token_is_the_clients_fault() {
        let refused = Connect::refuse(code::INVALID_TOKEN, "the token is not valid");
        assert_eq!(connect(Ok(Response::new(200, r#"{"active": false}"#))), refused);
        assert_eq!(connect(Ok(Response::new(200, r#"{"active": true}"#))), refused, "a token of nobody");
    }

    #[test]
    fn no_answer_is_not_the_clients_fault() {
        let later = Connect::refuse(code::INTERNAL, "the token cannot be checked now");
        let timeout =
            HostError { kind: HostErrorKind::Timeout, message: "no complete answer within 3s".into() };
        for answer in [Err(timeout), Ok(Response::new(503, "")), Ok(Response::new(200, "<html>"))] {
            assert_eq!(connect(answer), later);
        }
    }
}
