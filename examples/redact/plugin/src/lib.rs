//! Moderators see what is published; everybody else sees it with the words of the settings masked.

use gateway_plugin_sdk::prelude::*;

/// The attribute of connections that tells moderators from others.
const ROLE: &str = "role";
const MODERATOR: &str = "moderator";
const MASK: &str = "***";

#[settings]
struct Redact {
    channels: Vec<String>,
    words: Vec<String>,
    /// Who connects with this is a moderator.
    moderator_token: String,
}

#[plugin]
impl Plugin for Redact {
    type Config = Self;

    fn configure(config: Self, interests: &mut Interests) -> Result<Self, String> {
        if config.words.iter().any(String::is_empty) {
            return Err("`words`: an empty word is in every text".into());
        }
        // This plugin has no opinion on commands.
        interests.kinds([]).deliver_by(ROLE, config.channels.iter().cloned());
        Ok(config)
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        if event.token() == self.moderator_token {
            Connect::accept("").attribute(ROLE, MODERATOR)
        } else {
            Connect::pass()
        }
    }

    /// Once for moderators and once for everybody else, however many they are.
    fn on_deliver(&mut self, event: &Outgoing<'_>) -> Delivery {
        if event.class() == MODERATOR {
            return Delivery::pass();
        }
        match event.json::<Value>() {
            Ok(mut payload) => match self.mask(&mut payload) {
                true => Delivery::replace_json(&payload),
                false => Delivery::pass(),
            },
            // What cannot be read cannot be masked.
            Err(_) => Delivery::drop(),
        }
    }
}

impl Redact {
    /// Masks every text in a value. Whether there was something to mask.
    fn mask(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => {
                let masked = self.words.iter().fold(text.clone(), |text, word| text.replace(word, MASK));
                let changed = masked != *text;
                *text = masked;
                changed
            }
            Value::Array(values) => values.iter_mut().fold(false, |any, value| self.mask(value) | any),
            Value::Object(fields) => fields.values_mut().fold(false, |any, value| self.mask(value) | any),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_plugin_sdk::kit::Kit;

    use super::*;

    fn kit() -> Kit<Redact> {
        let settings = json!({"channels": ["chat:*"], "words": ["darn", "heck"], "moderator_token": "t"});
        Kit::new(settings).expect("good settings")
    }

    #[test]
    fn moderators_see_what_others_see_masked() {
        let mut kit = kit();
        for (class, published, expected) in [
            ("", json!("hello"), Delivery::pass()),
            ("", json!("oh darn!"), Delivery::replace_json("oh ***!")),
            ("", json!({"text": ["heck", 7]}), Delivery::replace_json(&json!({"text": ["***", 7]}))),
            (MODERATOR, json!("oh darn!"), Delivery::pass()),
        ] {
            let outcome = kit.deliver("chat:1").class(class).json(&published).send();
            assert_eq!(outcome.verdict, expected, "{class} {published}");
        }
        assert_eq!(kit.deliver("chat:1").payload("no JSON").send().verdict, Delivery::drop());
        assert!(!kit.deliver("news").json("darn").send().called);
    }

    #[test]
    fn the_token_makes_a_moderator() {
        assert_eq!(kit().connect("t").verdict, Connect::accept("").attribute("role", "moderator"));
        assert_eq!(kit().connect("").verdict, Connect::pass());
    }
}
