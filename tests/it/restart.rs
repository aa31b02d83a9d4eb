//! What a gateway remembers of its plugins when it is started again.

use gateway_tests::{Gateway, RawClient};

const RAW: &str = "raw.enabled = true\nclient.anonymous = true\n";

#[tokio::test]
async fn a_restart_compiles_nothing() {
    let mut gateway = Gateway::with(RAW).plugin("90-echo", "echo", "").start().await;
    let first = gateway.log().wait(&["plugin live", "90-echo.wasm"]).await;
    assert_eq!(first.field("compiled"), "true");
    gateway.restart().await;
    let second = gateway.log().wait(&["plugin live", "90-echo.wasm"]).await;
    assert_eq!(second.field("compiled"), "false", "{}", second.text);
    let took = |line: &gateway_tests::Line| line.field("took_ms").parse::<u64>().unwrap();
    println!("loaded in {} ms, after the restart in {} ms", took(&first), took(&second));
    assert!(took(&second) < took(&first));
    let mut client = RawClient::connect(&gateway).await;
    assert_eq!(client.ask("x").await, "x");
}
