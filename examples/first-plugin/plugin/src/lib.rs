//! Refuses messages that contain a word from its settings and permits everything else.

use gateway_plugin_sdk::prelude::*;

#[settings]
struct Polite {
    words: Vec<String>,
}

#[plugin(self_test = "self-test.json")]
impl Plugin for Polite {
    type Config = Self;

    fn configure(config: Self, _: &mut Interests) -> Result<Self, String> {
        Ok(config)
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        match event.text() {
            Some(text) if self.words.iter().any(|word| text.contains(word)) => {
                Verdict::deny(code::PERMISSION_DENIED, "please be polite")
            }
            _ => Verdict::allow(),
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_plugin_sdk::kit::Kit;

    use super::*;

    #[test]
    fn words_of_the_settings_are_refused() {
        let mut kit = Kit::<Polite>::new(json!({"words": ["darn"]})).expect("good settings");
        for (text, expected) in
            [("hello", Verdict::allow()), ("oh darn!", Verdict::deny(103, "please be polite"))]
        {
            let outcome = kit.connection("c1").message(Kind::Publish).channel("news").json(text).send();
            assert_eq!(outcome.verdict, expected, "{text}");
        }
    }

    #[test]
    fn the_self_test_holds() -> Result<(), String> {
        Kit::<Polite>::self_test()
    }
}
