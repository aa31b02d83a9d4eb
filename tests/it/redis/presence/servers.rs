//! The same on several servers that know nothing of each other: one that is away takes the presence of its
//! channels with it and nothing else.

use gateway_tests::eventually;

use super::*;

/// Two gateways on three servers.
struct Scene {
    servers: Vec<Redis>,
    /// A channel of each server.
    rooms: Vec<String>,
    /// The server with what belongs to no channel.
    home: usize,
    a: Gateway,
    b: Gateway,
}

impl Scene {
    async fn open(servers: Vec<Redis>) -> Self {
        let urls: Vec<_> = servers.iter().map(|server| format!("'{}'", server.url())).collect();
        let at = format!("urls = [{}]", urls.join(", "));
        let (a, b) = (node_at(&at).await, node_at(&at).await);
        let home = holder(&servers, "gateway:leases:*").await;
        let mut rooms = vec![None; servers.len()];
        let mut scout = Client::connect_as(&a, "scout").await;
        for number in 0.. {
            let room = format!("room:{number}");
            scout.subscribe(&room).await;
            let server = holder(&servers, &format!("gateway:presence:{{{room}}}:*")).await;
            rooms[server].get_or_insert(room);
            if rooms.iter().all(Option::is_some) {
                break;
            }
        }
        scout.close().await;
        let rooms: Vec<String> = rooms.into_iter().flatten().collect();
        for room in &rooms {
            converges_in(room, &[&a, &b], &BTreeSet::new()).await;
        }
        Self { servers, rooms, home, a, b }
    }

    async fn volatile() -> Self {
        Self::open(vec![Redis::start().await, Redis::start().await, Redis::start().await]).await
    }

    /// Servers but home.
    fn others(&self) -> [usize; 2] {
        let mut others = (0..3).filter(|server| *server != self.home);
        [(); 2].map(|()| others.next().expect("three servers"))
    }

    /// A client in the channels of these servers.
    async fn member(&self, gateway: &Gateway, user: &str, servers: &[usize]) -> Client {
        let rooms: Vec<_> = servers.iter().map(|server| self.rooms[*server].as_str()).collect();
        member_of(gateway, user, &rooms).await
    }

    /// Who is in the channels of these servers, as soon as both gateways say so.
    async fn converges(&self, servers: &[usize], expected: &[&Client]) {
        for server in servers {
            converges_in(&self.rooms[*server], &[&self.a, &self.b], &ids(expected)).await;
        }
    }

    /// A client that hears who comes to and leaves the channels of all servers.
    async fn listener(&self, gateway: &Gateway) -> Client {
        let mut listener = Client::connect_as(gateway, "listener").await;
        for room in &self.rooms {
            listener.ask("subscribe", json!({ "channel": room, "join_leave": true })).await.unwrap();
        }
        listener
    }

    /// Waits until nothing is left behind.
    async fn settled(&self) {
        eventually_within(CONVERGED, "what was left behind to be settled", async || {
            let dead = self.servers[self.home].ask(&["HLEN", "gateway:dead:{nodes}"]).await;
            (dead.text() == "0").then_some(())
        })
        .await;
    }

    async fn kill(&mut self, server: usize) {
        self.servers[server].kill();
        let room = self.rooms[server].clone();
        eventually(format!("presence of {room} to be refused"), async || {
            let refused = [present(&self.a, &room).await, present(&self.b, &room).await];
            refused.iter().all(Option::is_none).then_some(())
        })
        .await;
    }
}

/// The server with a key like this.
async fn holder(servers: &[Redis], pattern: &str) -> usize {
    eventually(format!("{pattern} to lie somewhere"), async || {
        for (place, server) in servers.iter().enumerate() {
            if !server.ask(&["KEYS", pattern]).await.list().is_empty() {
                return Some(place);
            }
        }
        None
    })
    .await
}

/// Who left which channel, as a listener hears it until these have left each of them.
pub(super) async fn leaves(listener: &mut Client, rooms: &[&str], who: &BTreeSet<String>) {
    let expected: BTreeSet<_> =
        rooms.iter().flat_map(|room| who.iter().map(|id| ((*room).to_owned(), id.clone()))).collect();
    let mut left = BTreeSet::new();
    while left != expected {
        let push = listener.push().await;
        if let Some(client) = push["leave"]["info"]["client"].as_str() {
            let room = push["channel"].as_str().expect("a channel").to_owned();
            assert!(expected.contains(&(room.clone(), client.to_owned())), "{client} did not leave {room}");
            assert!(left.insert((room.clone(), client.to_owned())), "{client} left {room} twice");
        }
    }
}

/// Nobody else has left meanwhile: whoever comes now is the next of whom is heard.
async fn nobody_leaves_twice(scene: &Scene, listener: &mut Client) {
    for room in &scene.rooms {
        let newcomer = member_of(&scene.a, "newcomer", &[room]).await;
        let push = loop {
            let push = listener.push().await;
            if push["channel"] == **room {
                break push;
            }
        };
        assert_eq!(push["join"]["info"]["client"], *newcomer.id, "{push}");
        newcomer.close().await;
    }
}

#[tokio::test]
async fn presence_is_the_same_everywhere_whichever_server_has_the_channel() {
    let mut scene = Scene::volatile().await;
    let (one, two) =
        (scene.member(&scene.a, "ann", &[0, 1, 2]).await, scene.member(&scene.b, "ann", &[0, 1, 2]).await);
    let three = scene.member(&scene.b, "bob", &[0, 1, 2]).await;
    scene.converges(&[0, 1, 2], &[&one, &two, &three]).await;
    for room in &scene.rooms {
        for gateway in [&scene.a, &scene.b] {
            let counted = count_of(gateway, room).await;
            assert_eq!(counted, json!({ "num_clients": 3, "num_users": 2 }), "users count once");
        }
    }
    let mut listener = scene.listener(&scene.a).await;
    scene.converges(&[0, 1, 2], &[&one, &two, &three, &listener]).await;
    scene.b.kill();
    for room in &scene.rooms {
        converges_in(room, &[&scene.a], &ids(&[&one, &listener])).await;
    }
    let rooms: Vec<_> = scene.rooms.iter().map(String::as_str).collect();
    leaves(&mut listener, &rooms, &ids(&[&two, &three])).await;
    scene.settled().await;
    nobody_leaves_twice(&scene, &mut listener).await;
    let node = scene.a.post("/api/nodes", &json!({})).await.json();
    assert_eq!(node["result"]["nodes"].as_array().map(Vec::len), Some(1), "{node}");
    for server in &scene.servers {
        let left = server.ask(&["KEYS", "gateway:presen*"]).await.list();
        let nodes: BTreeSet<_> =
            left.iter().map(|key| key.text().rsplit(':').next().map(str::to_owned)).collect();
        assert!(nodes.len() <= 1, "something is left of the dead gateway: {left:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_killed_takes_the_presence_of_its_channels_and_no_other() {
    let mut scene = Scene::volatile().await;
    let [victim, other] = scene.others();
    let home = scene.home;
    let (one, mut two) =
        (scene.member(&scene.a, "ann", &[0, 1, 2]).await, scene.member(&scene.b, "bob", &[0, 1, 2]).await);
    scene.converges(&[0, 1, 2], &[&one, &two]).await;
    scene.kill(victim).await;
    let room = scene.rooms[victim].clone();
    let refused = two.ask("presence", json!({ "channel": room })).await.unwrap_err();
    assert_eq!((refused.code, refused.temporary), (100, true));
    // Meanwhile people come and go, there and elsewhere.
    let three = scene.member(&scene.b, "eve", &[0, 1, 2]).await;
    scene.converges(&[home, other], &[&one, &two, &three]).await;
    two.close().await;
    scene.converges(&[home, other], &[&one, &three]).await;
    scene.servers[victim].revive(Data::Lost).await;
    let expected = ids(&[&one, &three]);
    eventually_within(CONVERGED, "presence to be complete again", async || {
        for server in [home, other] {
            assert_eq!(present(&scene.b, &scene.rooms[server]).await.as_ref(), Some(&expected));
        }
        let both = [present(&scene.a, &room).await, present(&scene.b, &room).await];
        both.iter().all(|one| one.as_ref() == Some(&expected)).then_some(())
    })
    .await;
    assert_eq!(count_of(&scene.a, &room).await, json!({ "num_clients": 2, "num_users": 2 }));
}

#[tokio::test]
async fn while_home_is_away_presence_elsewhere_goes_on_and_its_list_comes_back() {
    let mut scene = Scene::volatile().await;
    let (home, others) = (scene.home, scene.others());
    let (one, two) =
        (scene.member(&scene.a, "ann", &[0, 1, 2]).await, scene.member(&scene.b, "bob", &[0, 1, 2]).await);
    scene.converges(&[0, 1, 2], &[&one, &two]).await;
    scene.kill(home).await;
    let three = scene.member(&scene.b, "eve", &[0, 1, 2]).await;
    scene.converges(&others, &[&one, &two, &three]).await;
    two.close().await;
    scene.converges(&others, &[&one, &three]).await;
    scene.servers[home].revive(Data::Lost).await;
    scene.converges(&[0, 1, 2], &[&one, &three]).await;
    // From the list others learn what a dead gateway has left.
    let mut listener = scene.listener(&scene.a).await;
    scene.converges(&[0, 1, 2], &[&one, &three, &listener]).await;
    scene.b.kill();
    let rooms: Vec<_> = scene.rooms.iter().map(String::as_str).collect();
    leaves(&mut listener, &rooms, &ids(&[&three])).await;
    scene.settled().await;
}

#[tokio::test]
async fn what_a_dead_gateway_left_at_a_server_that_is_away_is_settled_after_its_return() {
    let mut servers = vec![];
    for _ in 0..3 {
        // A killed process loses nothing that it has written, and waits for no disk.
        servers.push(Redis::with("appendfsync no").persistent().start().await);
    }
    let mut scene = Scene::open(servers).await;
    let [victim, other] = scene.others();
    let home = scene.home;
    let one = scene.member(&scene.a, "ann", &[0, 1, 2]).await;
    let two = scene.member(&scene.b, "bob", &[0, 1, 2]).await;
    let mut listener = scene.listener(&scene.a).await;
    scene.converges(&[0, 1, 2], &[&one, &two, &listener]).await;
    scene.kill(victim).await;
    scene.b.kill();
    let elsewhere = [scene.rooms[home].clone(), scene.rooms[other].clone()];
    for room in &elsewhere {
        converges_in(room, &[&scene.a], &ids(&[&one, &listener])).await;
    }
    leaves(&mut listener, &[&elsewhere[0], &elsewhere[1]], &ids(&[&two])).await;
    let dead = scene.servers[home].ask(&["HLEN", "gateway:dead:{nodes}"]).await;
    assert_eq!(dead.text(), "1", "something is left to be settled");
    scene.servers[victim].revive(Data::Kept).await;
    let room = scene.rooms[victim].clone();
    converges_in(&room, &[&scene.a], &ids(&[&one, &listener])).await;
    leaves(&mut listener, &[&room], &ids(&[&two])).await;
    scene.settled().await;
    nobody_leaves_twice(&scene, &mut listener).await;
}
