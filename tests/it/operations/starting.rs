//! A good start: no line that asks for attention.

use gateway_tests::{Client, Gateway, token};

const LIMITS: &str = "[grants]\nbuckets = true\nkey-value = true\n\
                      [[config.limits]]\nname = 'calls'\nkind = 'publish'\nlimit = 5\nperiod = '1s'\n";

#[tokio::test]
async fn a_good_start_of_one_gateway_warns_of_nothing() {
    let gateway = Gateway::with("[namespaces.chat]\nallow_subscribe = 'anyone'\nhistory_size = 10\n")
        .plugin("10-auth-jwt", "auth-jwt", &token::settings())
        .plugin("20-rate-limit", "rate-limit", LIMITS)
        .plugin("90-echo", "echo", "")
        .start()
        .await;
    Client::connect_as(&gateway, "ann").await.subscribe("chat:1").await;
    assert_eq!(gateway.log().complaints(), Vec::<String>::new());
}
