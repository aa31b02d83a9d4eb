//! Upstreams as the API shows them, and weights as it moves them.

use super::*;

const UPSTREAM: &str = "admin.api_key = 'correct-horse'
    [upstreams.orders]
    targets = [{ url = 'http://a.example/orders?key=hush', weight = 80 }, { url = 'http://b.example', weight = 20 }]
";

async fn weights(admin: &Admin) -> Value {
    let answer = admin.api("upstreams", json!({})).await;
    let targets = answer["result"]["upstreams"][0]["targets"].as_array().unwrap().clone();
    targets.iter().map(|target| target["weight"].clone()).collect()
}

#[tokio::test]
async fn upstreams_are_listed_without_what_may_be_secret() {
    let admin = Admin::start(UPSTREAM);
    let answer = admin.api("upstreams", json!({})).await;
    let upstream = &answer["result"]["upstreams"][0];
    assert_eq!((&upstream["name"], &upstream["events"]["queued"]), (&json!("orders"), &json!(0)));
    assert_eq!((&upstream["asks"]["waiting"], &upstream["asks"]["outcomes"]["busy"]), (&json!(0), &json!(0)));
    let target = &upstream["targets"][0];
    assert_eq!((&target["url"], &target["state"]), (&json!("http://a.example/orders"), &json!("up")));
    assert!(!answer.to_string().contains("hush"), "{answer}");
    let metrics = admin.get("/metrics").await.body;
    for line in [
        "gateway_upstream_target_weight{upstream=\"orders\",target=\"0\"} 80",
        "gateway_upstream_target_state{upstream=\"orders\",target=\"1\",state=\"up\"} 1",
        "gateway_upstream_target_state{upstream=\"orders\",target=\"1\",state=\"half-open\"} 0",
        "gateway_upstream_target_requests_total{upstream=\"orders\",target=\"1\",outcome=\"broken\"} 0",
        "gateway_upstream_asks_total{upstream=\"orders\",outcome=\"breaker_open\"} 0",
        "gateway_upstream_shadow_total{upstream=\"orders\",result=\"skipped\"} 0",
        "gateway_upstream_asks_in_flight{upstream=\"orders\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
}

#[tokio::test]
async fn weights_are_moved_only_if_all_of_them_fit() {
    let admin = Admin::start(UPSTREAM);
    assert_eq!(weights(&admin).await, json!([80, 20]));
    let body = json!({"upstream": "orders", "weights": [0, 1000]});
    assert_eq!(admin.api("upstream_weights", body).await, json!({"result": {}}));
    assert_eq!(weights(&admin).await, json!([0, 1000]));
    let metrics = admin.get("/metrics").await.body;
    assert!(
        metrics.contains("gateway_upstream_target_weight{upstream=\"orders\",target=\"0\"} 0"),
        "{metrics}"
    );
    for (upstream, weights, says) in [
        ("orders", json!([1]), "each of the 2 targets"),
        ("orders", json!([0, 0]), "above 0"),
        ("orders", json!([1, 1001]), "0 to 1000"),
        ("other", json!([1, 1]), "no upstream of this name"),
    ] {
        let answer = admin.api("upstream_weights", json!({"upstream": upstream, "weights": weights})).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(code(&answer) == 107 && message.contains(says), "{answer}");
    }
    assert_eq!(weights(&admin).await, json!([0, 1000]));
}
