//! Misbehaves in the way that the payload names; any other payload passes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gateway_plugin_sdk::prelude::*;

/// The `[config]` table.
#[settings]
pub struct Settings {
    /// How long `configure` computes.
    #[serde(default)]
    configure_ms: u64,
}

/// The plugin.
#[derive(Debug)]
pub struct Trap;

#[plugin]
impl Plugin for Trap {
    type Config = Settings;

    fn configure(config: Settings, _: &mut Interests) -> Result<Self, String> {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(config.configure_ms) {}
        Ok(Self)
    }

    fn on_message(&mut self, event: &Message<'_>) -> Verdict {
        // A JSON string means its text.
        let payload = event.payload();
        let text = payload.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        match text.unwrap_or(payload) {
            b"boom" => panic!("boom"),
            b"loop" => spin(),
            b"eat" => eat(),
            b"deep" => deep(1),
            b"print" => print(),
            _ => {}
        }
        Verdict::next()
    }
}

fn spin() {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn eat() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(black_box(vec![1_u8; 1 << 20]));
    }
}

#[expect(unconditional_recursion, reason = "the point")]
fn deep(depth: u64) {
    let frame = black_box([depth; 64]);
    deep(frame[0] + 1);
    black_box(frame);
}

/// A megabyte of lines, on both streams and through the log.
fn print() {
    let line = "x".repeat(1023);
    for _ in 0..512 {
        println!("{line}");
        eprintln!("{line}");
        log::info!("{line}");
    }
}
