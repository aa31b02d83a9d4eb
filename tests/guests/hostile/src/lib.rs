//! Does harm in one hook and in one way, as its settings say, and only to the client who asks for it: one
//! that connects with the token `attack`, or sends `attack`.

use std::hint::black_box;

use gateway_plugin_sdk::prelude::*;

/// Where and how.
#[settings]
pub struct Settings {
    hook: String,
    way: String,
}

/// The plugin.
#[derive(Debug)]
pub struct Hostile {
    hook: String,
    way: String,
}

/// Who did what makes this plugin hostile.
const ATTACK: &str = "attack";

#[plugin]
impl Plugin for Hostile {
    type Config = Settings;

    fn configure(Settings { hook, way }: Settings, _: &mut Interests) -> Result<Self, String> {
        let hostile = Self { hook, way };
        if hostile.strikes("configure") {
            match &*hostile.way {
                "answer" => return Err(huge()),
                way => harm(way),
            }
        }
        Ok(hostile)
    }

    fn on_connect(&mut self, event: &Connecting<'_>) -> Connect {
        if event.token() != ATTACK {
            return Connect::Pass;
        }
        if self.strikes("on-connect") {
            match &*self.way {
                "answer" => return Connect::refuse(code::PERMISSION_DENIED, huge()),
                "items" => {
                    return (0..10_000_000).fold(Connect::accept(ATTACK), |accept, _| accept.channel("x"));
                }
                "publish" => publish(event),
                "calls" => call(event),
                way => harm(way),
            }
        }
        Connect::accept(ATTACK)
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        if event.payload() == ATTACK.as_bytes() && self.strikes("on-message") {
            match &*self.way {
                "answer" => return Verdict::reply(huge().into_bytes()),
                "items" => return Verdict::route(std::iter::repeat_n(String::new(), 10_000_000)),
                "publish" => publish(event),
                "calls" => call(event),
                way => harm(way),
            }
        }
        Verdict::next()
    }

    fn on_disconnect(&mut self, event: &Disconnected<'_>) {
        if event.user() == ATTACK && self.strikes("on-disconnect") {
            match &*self.way {
                "publish" => publish(event),
                "calls" => call(event),
                way => harm(way),
            }
        }
    }
}

impl Hostile {
    fn strikes(&self, hook: &str) -> bool {
        self.hook == hook
    }
}

fn harm(way: &str) {
    match way {
        "trap" => panic!("on purpose"),
        "loop" => spin(),
        "recurse" => recurse(1),
        "grow" => grow(),
        "print" => print(),
        "log" => log_for_ever(),
        other => panic!("there is no way `{other}`"),
    }
}

fn spin() {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

#[expect(unconditional_recursion, reason = "the point")]
fn recurse(depth: u64) {
    let frame = black_box([depth; 64]);
    recurse(frame[0] + 1);
    black_box(frame);
}

fn grow() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(black_box(vec![1_u8; 1 << 20]));
    }
}

fn print() {
    loop {
        println!("{}", "x".repeat(1023));
        eprintln!("{}", "y".repeat(1023));
    }
}

fn log_for_ever() {
    loop {
        log::error!("{}", "z".repeat(1023));
    }
}

fn huge() -> String {
    "h".repeat(100 << 20)
}

/// Goes on whatever the gateway says.
fn publish(event: &gateway_plugin_sdk::Context) {
    loop {
        let _ = black_box(event.publish("room", b"1"));
    }
}

fn call(event: &gateway_plugin_sdk::Context) {
    for _ in 0..1_000_000 {
        black_box(event.header("x"));
    }
}
