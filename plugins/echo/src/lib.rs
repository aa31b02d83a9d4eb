//! Answers every raw message with itself.

use gateway_plugin_sdk::prelude::*;

/// The plugin. It has neither settings nor state.
#[derive(Debug)]
pub struct Echo;

#[plugin(self_test = "self-test.json")]
impl Plugin for Echo {
    type Config = ();

    fn configure((): (), interests: &mut Interests) -> Result<Self, String> {
        interests.kinds([Kind::Raw]);
        Ok(Self)
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        Verdict::reply(event.payload())
    }
}

#[cfg(test)]
mod tests {
    use gateway_plugin_sdk::kit::Kit;

    use super::*;

    fn kit() -> Kit<Echo> {
        Kit::new(json!({})).expect("there is nothing to get wrong")
    }

    #[test]
    fn a_raw_message_comes_back_as_it_was() {
        for payload in ["hello", "", "{\"a\":1}"] {
            assert_eq!(kit().connection("c1").raw(payload).verdict, Verdict::reply(payload));
        }
        let bytes = [0, 255, 10];
        let outcome =
            kit().connection("c1").protocol("raw").message(Kind::Raw).payload(bytes).binary().send();
        assert_eq!(outcome.verdict, Verdict::reply(bytes));
    }

    #[test]
    fn other_commands_are_none_of_its_business() {
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Raw) {
            let outcome = kit().connection("c1").message(kind).channel("news").send();
            assert!(!outcome.called, "{kind}");
        }
    }

    #[test]
    fn settings_are_refused() {
        let error = Kit::<Echo>::new(json!({"prefix": ">"})).expect_err("echo has no settings");
        assert_eq!(error, "this plugin takes no settings: remove `prefix` from [config]");
    }

    #[test]
    fn the_self_test_holds() -> Result<(), String> {
        Kit::<Echo>::self_test()
    }
}
