//! The command line of the gateway.
use std::path::Path;
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let config = gateway::config::Config::load(Path::new(&args[3])).map_err(|e| anyhow::anyhow!("{e}"))?;
    gateway::telemetry::init_logging(&config.log);
    let gateway = gateway::gateway::Gateway::build(config, None)?;
    gateway.run(async {
        let mut t =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signal");
        t.recv().await;
    })
}
