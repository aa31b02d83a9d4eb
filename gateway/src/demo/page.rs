//! `DemoSite` serves the demo page, its script, tokens, and the state of the plugins.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::json;

use super::token::{self, user_name};
use crate::admin::plugins::Plugins;
use crate::control::Control;
use crate::explain::{SECONDS_MAX, Whose};
use crate::plugin_tools::token::Signer;
use crate::transport::site::{Page, Site};

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("chat.js");

/// The page may run only its own script and style, and connect only to this gateway.
const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
];

/// How long the messages of a user are explained after the page asked for a token. The page asks again
/// before.
const EXPLAINED: Duration = Duration::from_secs(SECONDS_MAX);
/// Explanations among which that of a message is looked for.
const LOOKED_AT: usize = 64;

/// See the module.
pub(super) struct DemoSite {
    signer: Signer,
    control: Control,
}

impl DemoSite {
    /// Creates the pages of a gateway.
    pub(super) fn new(signer: Signer, control: Control) -> Self {
        Self { signer, control }
    }
}

impl Site for DemoSite {
    fn respond(&self, path: &str, query: Option<&str>) -> Option<Page> {
        match path {
            "/" => Some(page(200, "text/html; charset=utf-8", HTML)),
            "/demo/page.css" => Some(page(200, "text/css; charset=utf-8", STYLE)),
            "/demo/chat.js" => Some(page(200, "text/javascript; charset=utf-8", SCRIPT)),
            "/demo/token" => {
                let query = query.unwrap_or_default();
                if let Some(user) = user_name(query) {
                    // For the page to show what the plugins decided. A refusal only leaves that out.
                    self.control.explain().watch(Whose::User(user.into()), EXPLAINED);
                }
                Some(token(&self.signer, query))
            }
            "/demo/decision" => Some(decision(&self.control, query.unwrap_or_default())),
            "/demo/plugins" => Some(plugins(&Plugins::of(&self.control))),
            _ => None,
        }
    }
}

fn token(signer: &Signer, query: &str) -> Page {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (status, body) = match user_name(query) {
        Some(user) => match token::token(signer, user, now) {
            Ok(token) => (200, json!({"token": token})),
            Err(error) => (500, json!({"error": error.to_string()})),
        },
        None => (400, json!({"error": "?user=NAME is needed: 1 to 32 letters, digits, `_`, `-` or `.`"})),
    };
    page(status, "application/json", body.to_string())
}

/// The explanation of a user's latest publication, or `null`.
fn decision(control: &Control, query: &str) -> Page {
    let user = user_name(query).unwrap_or_default();
    let traces = control.explain().last(LOOKED_AT);
    let traces = traces.iter().map(|trace| trace.to_json());
    let latest = traces.into_iter().find(|trace| trace["kind"] == "publish" && trace["user"] == *user);
    page(200, "application/json", latest.unwrap_or_default().to_string())
}

fn plugins(plugins: &Plugins) -> Page {
    match serde_json::to_vec(plugins) {
        Ok(body) => page(200, "application/json", body),
        Err(_) => page(500, "application/json", "{}"),
    }
}

fn page(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Page {
    Page { status, content_type, headers: HEADERS, body: body.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_a_named_user() {
        let signer = Signer::with_secret(b"a secret of thirty-two bytes or more").expect("long enough");
        let good = token(&signer, "user=ann");
        let body: serde_json::Value = serde_json::from_slice(&good.body).expect("JSON");
        assert_eq!(
            (good.status, body["token"].as_str().map(|token| token.split('.').count())),
            (200, Some(3))
        );
        assert_eq!(token(&signer, "").status, 400);
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for text in [HTML, STYLE, SCRIPT] {
            for word in ["https://", "http://", "//cdn", "@import", "import "] {
                assert!(!text.contains(word), "{word}");
            }
        }
        // The content security policy of the page forbids these.
        for word in ["<style", " style=", " onclick", "javascript:"] {
            assert!(!HTML.contains(word), "{word}");
        }
        assert!(!SCRIPT.contains("innerHTML"));
    }

    #[test]
    fn the_script_finds_its_elements_in_the_page() {
        let ids = SCRIPT.split("element(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let mut count = 0;
        for id in ids {
            assert!(HTML.contains(&format!("id=\"{id}\"")), "{id}");
            count += 1;
        }
        assert!(count > 5, "the script asks for its elements by `element(\"ID\")`");
    }
}
