//! Methods that concern more than one command, and those that name connections or remove something.

use super::*;

const KEY: &str = "X-API-Key: correct-horse\r\n";

/// The only order that the worker got: for whom it is, and what it says.
fn order(deliveries: &[Delivery]) -> (String, Order) {
    match deliveries {
        [Delivery::Order { address, order, .. }] => (address.to_string(), order.clone()),
        _ => panic!("not one order"),
    }
}

fn offsets(history: &Value) -> Vec<u64> {
    let publications = history["result"]["publications"].as_array().unwrap();
    publications.iter().map(|publication| publication["offset"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn the_commands_of_a_batch_have_a_reply_each_in_their_order() {
    let admin = Admin::start(CONFIG);
    for parallel in [false, true] {
        let channel = format!("chat:{parallel}");
        let publish = |data: u64| json!({"publish": {"channel": channel, "data": data}});
        let commands = json!([
            publish(1),
            {"presence": {"channel": channel}},
            {"publish": {"channel": "other:x", "data": 1}},
            {"publish": {"channel": 7}},
            {"rpc": {"method": "now"}},
            {"broadcast": {"channels": [channel], "data": 2}},
            {"batch": {"commands": []}},
            {"history": {"channel": channel}},
        ]);
        let answer = admin.api("batch", json!({"commands": commands, "parallel": parallel})).await;
        let replies = answer["replies"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(replies.len(), 8);
        assert_eq!(replies[1], json!({"presence": {"presence": {}}}));
        assert_eq!([2, 3, 4, 6].map(|index| code(&replies[index])), [102, 107, 108, 107]);
        assert!(
            replies[3]["error"]["message"].as_str().unwrap().starts_with("`channel`: "),
            "{}",
            replies[3]
        );
        let offsets = [&replies[0]["publish"], &replies[5]["broadcast"]["responses"][0]["result"]];
        let mut offsets = offsets.map(|published| published["offset"].as_u64().unwrap());
        if parallel {
            offsets.sort_unstable();
        }
        assert_eq!(offsets, [1, 2]);
        assert!(replies[7]["history"]["offset"].is_u64(), "{}", replies[7]);
    }
}

#[tokio::test]
async fn a_batch_with_something_that_is_no_command_does_nothing() {
    let admin = Admin::start(CONFIG);
    let publish = json!({"publish": {"channel": "chat:a", "data": 1}});
    for (commands, named) in [
        (json!([publish, {"publsh": {}}]), "`commands[1]` has \"publsh\", which is not a method"),
        (json!([publish, {}]), "`commands[1]` is empty"),
        (json!([publish, {"info": {}, "nodes": {}}]), "`commands[1]` has more than one method"),
        (json!([publish, 7]), "`commands`: "),
        (json!({"publish": {}}), "`commands`: "),
    ] {
        let body = json!({"commands": commands}).to_string();
        let response = admin.post("/api/batch", KEY, &body).await;
        assert_eq!(response.status, 400, "{body}");
        let error = serde_json::from_str::<Value>(&response.body).unwrap()["error"].clone();
        assert_eq!(error["code"], 107, "{body}");
        assert!(error["message"].as_str().unwrap().starts_with(named), "{error}");
    }
    let many = vec![&publish; 1_001];
    let answer = admin.api("batch", json!({"commands": many})).await;
    assert!(code(&answer) == 106 && answer.to_string().contains("at most 1000"), "{answer}");
    assert_eq!(code(&admin.api("batch", json!({})).await), 107);
    let history = admin.api("history", json!({"channel": "chat:a", "limit": 9})).await;
    assert_eq!(offsets(&history), [] as [u64; 0]);
    assert_eq!(admin.api("batch", json!({"commands": []})).await, json!({"replies": []}));
}

#[tokio::test]
async fn the_older_form_names_the_method_in_the_body() {
    let admin = Admin::start(CONFIG);
    let body = "{\"method\":\"publish\",\"params\":{\"channel\":\"chat:a\",\"data\":1}}\n\
                {\"id\":2,\"method\":\"HISTORY\",\"params\":{\"channel\":\"chat:a\",\"limit\":1}}\n\
                {\"id\":3,\"method\":\"nothing\"}\n\
                {\"method\":\"batch\",\"params\":{\"commands\":[{\"presence\":{\"channel\":\"chat:a\"}}]}}";
    let response = admin.post("/api", KEY, body).await;
    assert_eq!(response.status, 200, "{}", response.body);
    let replies: Vec<Value> = response.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(replies[0]["result"]["offset"], 1);
    assert_eq!((&replies[1]["id"], offsets(&replies[1])), (&json!(2), vec![1]));
    assert_eq!((&replies[2]["id"], code(&replies[2])), (&json!(3), 104));
    assert_eq!(replies[3]["result"]["replies"], json!([{"presence": {"presence": {}}}]));
    assert_eq!(replies.len(), 4);
    for body in ["", "7", "{\"method\":\"info\"", "{\"method\":\"info\",\"more\":1}"] {
        assert_eq!(admin.post("/api", KEY, body).await.status, 400, "{body}");
    }
    assert_eq!(admin.post("/api", "", body).await.status, 401);
}

#[tokio::test]
async fn a_removed_history_leaves_the_position() {
    let admin = Admin::start(CONFIG);
    let publish = async |data: u64| {
        admin.api("publish", json!({"channel": "chat:a", "data": data})).await["result"].clone()
    };
    publish(1).await;
    let second = publish(2).await;
    assert_eq!(admin.api("history_remove", json!({"channel": "chat:a"})).await, json!({"result": {}}));
    let history = admin.api("history", json!({"channel": "chat:a", "limit": 9})).await;
    let expected = json!({"publications": [], "offset": 2, "epoch": second["epoch"]});
    assert_eq!(history["result"], expected);
    let third = publish(3).await;
    assert_eq!((&third["offset"], &third["epoch"]), (&json!(3), &second["epoch"]));
    assert_eq!(admin.api("history_remove", json!({"channel": "chat:empty"})).await, json!({"result": {}}));
    for (request, expected) in [
        (json!({"channel": "news"}), 108),
        (json!({"channel": "other:x"}), 102),
        (json!({}), 107),
        (json!({"channel": "chat:a", "limit": 1}), 107),
    ] {
        assert_eq!(code(&admin.api("history_remove", request.clone()).await), expected, "{request}");
    }
}

#[tokio::test]
async fn who_is_named_twice_has_to_be_both() {
    let admin = Admin::start(CONFIG);
    admin.backplane.add_interest(0, &Channel::parse("#42").unwrap(), ReplyTo::Nobody);
    let client = ConnectionIds::new(1).id(ConnectionIds::compose(0, 7), 99);
    for (method, mut request) in [
        ("disconnect", json!({})),
        ("subscribe", json!({"channel": "chat:a"})),
        ("unsubscribe", json!({"channel": "chat:a"})),
        ("refresh", json!({"expire_at": 0})),
    ] {
        request["user"] = "42".into();
        request["client"] = (&*client).into();
        admin.api(method, request.clone()).await;
        let (address, given) = order(&admin.deliveries());
        let Order::Only(only) = given else { panic!("{method}: for every user") };
        assert_eq!((address, only.user.as_deref()), (format!("@{client}"), Some("42")), "{method}");

        request["client"] = "".into();
        request["session"] = "s".into();
        admin.api(method, request.clone()).await;
        let (address, given) = order(&admin.deliveries());
        let Order::Only(only) = given else { panic!("{method}: for every session") };
        assert_eq!((&*address, only.session.as_deref(), &only.user), ("#42", Some("s"), &None), "{method}");

        request["user"] = "".into();
        let answer = admin.api(method, request.clone()).await;
        assert!(code(&answer) == 107 && answer.to_string().contains("`session` needs"), "{answer}");
        request["session"] = "s".repeat(257).into();
        assert_eq!(code(&admin.api(method, request).await), 107, "{method}");
    }
    assert!(admin.deliveries().is_empty());
}

#[tokio::test]
async fn a_delta_needs_a_channel_that_has_deltas() {
    let admin = Admin::start(&format!("{CONFIG}\n[namespaces.prices]\ndelta = true"));
    let publish = |channel: &str| json!({"channel": channel, "data": 1, "delta": true});
    assert_eq!(admin.api("publish", publish("prices:a")).await, json!({"result": {}}));
    for channel in ["chat:a", "news", "#42"] {
        let answer = admin.api("publish", publish(channel)).await;
        assert!(code(&answer) == 108 && answer.to_string().contains("`delta` needs"), "{answer}");
    }
    let broadcast = json!({"channels": ["prices:a", "chat:a"], "data": 1, "delta": true});
    let answer = admin.api("broadcast", broadcast).await;
    let responses = answer["result"]["responses"].as_array().unwrap();
    assert_eq!(responses.iter().map(code).collect::<Vec<_>>(), [0, 108]);
}

#[tokio::test]
async fn a_pattern_of_channels_ends_with_its_star() {
    let admin = Admin::start(CONFIG);
    for pattern in ["*a", "a*b", "a b"] {
        let answer = admin.api("channels", json!({"pattern": pattern})).await;
        assert!(code(&answer) == 107 && answer.to_string().contains("`pattern` is neither"), "{answer}");
    }
    for pattern in ["*", "", "chat:*", "chat:lobby"] {
        assert_eq!(code(&admin.api("channels", json!({"pattern": pattern})).await), 0, "{pattern}");
    }
}

#[tokio::test]
async fn the_description_of_the_api_is_for_those_with_the_key() {
    let admin = Admin::start(CONFIG);
    assert_eq!(admin.get("/api/openapi.json").await.status, 401);
    let get = |key: &str| {
        format!("GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n{key}Connection: close\r\n\r\n")
    };
    let response = admin.raw(get(KEY)).await;
    assert_eq!(response.status, 200);
    assert!(response.head.contains("content-type: application/json"), "{}", response.head);
    let description: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(description["openapi"], "3.1.0");
    assert_eq!(admin.post("/api/openapi.json", KEY, "").await.status, 405);
}

#[tokio::test]
async fn a_request_with_many_publications_waits_once_for_a_disk_that_takes_nothing() {
    let told = "[namespaces.told]\nevents = ['published']\n\
        [upstreams.backend]\nurl = 'http://127.0.0.1:9'\n[events]\nupstream = 'backend'";
    let admin = Admin::start(&format!("{CONFIG}\n{told}"));
    // An answer that takes longer than 20 seconds is none.
    let channels: Vec<_> = (0..30).map(|number| format!("told:{number}")).collect();
    let answer = admin.api("broadcast", json!({"channels": channels, "data": 1})).await;
    assert_eq!(answer["result"]["responses"].as_array().map(Vec::len), Some(30), "{answer}");
    let publish = |channel: &String| json!({"publish": {"channel": channel, "data": 1}});
    let commands: Vec<_> = channels.iter().map(publish).collect();
    let answer = admin.api("batch", json!({"commands": commands})).await;
    assert_eq!(answer["replies"].as_array().map(Vec::len), Some(30), "{answer}");
    let command = |channel| json!({"method": "publish", "params": {"channel": channel, "data": 1}});
    let commands: Vec<_> = channels.iter().map(|channel| command(channel).to_string()).collect();
    let answer = admin.post("/api", KEY, &commands.join("\n")).await;
    assert_eq!(answer.body.lines().count(), 30, "{}", answer.body);
}
