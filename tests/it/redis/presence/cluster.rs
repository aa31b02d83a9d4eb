//! The same on a Redis Cluster, whose slots move and whose masters are replaced.

use gateway_tests::Cluster;

use super::servers::leaves;
use super::*;

const MASTERS: usize = 3;

struct Scene {
    cluster: Cluster,
    /// A channel of each master.
    rooms: Vec<String>,
    a: Gateway,
    b: Gateway,
}

impl Scene {
    async fn open() -> Self {
        let cluster = Cluster::start().await;
        let at = format!("cluster = ['redis://{}']", cluster.address(1));
        let (a, b) = (node_at(&at).await, node_at(&at).await);
        let mut rooms = vec![None; MASTERS];
        for number in 0.. {
            let room = format!("room:{number}");
            rooms[cluster.owner(slot(&cluster, &room).await).await].get_or_insert(room);
            if rooms.iter().all(Option::is_some) {
                break;
            }
        }
        Self { cluster, rooms: rooms.into_iter().flatten().collect(), a, b }
    }

    async fn member(&self, gateway: &Gateway, user: &str) -> Client {
        let rooms: Vec<_> = self.rooms.iter().map(String::as_str).collect();
        member_of(gateway, user, &rooms).await
    }

    async fn converges(&self, expected: &[&Client]) {
        for room in &self.rooms {
            converges_in(room, &[&self.a, &self.b], &ids(expected)).await;
        }
    }

    /// Moves everything of a name to another master.
    async fn reshard(&self, name: &str) {
        let slot = slot(&self.cluster, name).await;
        let to = (self.cluster.owner(slot).await + 1) % MASTERS;
        self.cluster.reshard(slot, to).await;
    }
}

/// The slot of everything that belongs to a name.
async fn slot(cluster: &Cluster, name: &str) -> u16 {
    cluster.slot(&format!("{{{name}}}")).await
}

#[tokio::test]
async fn presence_goes_on_when_slots_move_and_nothing_is_left_of_a_gateway_that_died() {
    let mut scene = Scene::open().await;
    let (one, two) = (scene.member(&scene.a, "ann").await, scene.member(&scene.b, "ann").await);
    scene.converges(&[&one, &two]).await;
    for room in &scene.rooms {
        let counted = count_of(&scene.b, room).await;
        assert_eq!(counted, json!({ "num_clients": 2, "num_users": 1 }));
    }
    scene.reshard(&scene.rooms[0]).await;
    let three = scene.member(&scene.b, "bob").await;
    scene.converges(&[&one, &two, &three]).await;
    // The lists of channels move, too.
    scene.reshard("nodes").await;
    let four = scene.member(&scene.b, "eve").await;
    two.close().await;
    scene.converges(&[&one, &three, &four]).await;

    let mut listener = Client::connect_as(&scene.a, "listener").await;
    for room in &scene.rooms {
        listener.ask("subscribe", json!({ "channel": room, "join_leave": true })).await.unwrap();
    }
    scene.converges(&[&one, &three, &four, &listener]).await;
    scene.b.kill();
    for room in &scene.rooms {
        converges_in(room, &[&scene.a], &ids(&[&one, &listener])).await;
    }
    let rooms: Vec<_> = scene.rooms.iter().map(String::as_str).collect();
    leaves(&mut listener, &rooms, &ids(&[&three, &four])).await;
}

#[tokio::test]
async fn presence_comes_back_with_a_new_master() {
    let mut scene = Scene::open().await;
    let (one, two) = (scene.member(&scene.a, "ann").await, scene.member(&scene.b, "bob").await);
    scene.converges(&[&one, &two]).await;
    let slot = slot(&scene.cluster, &scene.rooms[0]).await;
    let old = scene.cluster.owner(slot).await;
    scene.cluster.servers()[old].kill();
    two.close().await;
    scene.cluster.promoted(slot, old).await;
    let three = member_of(&scene.b, "eve", &[&scene.rooms[0]]).await;
    converges_in(&scene.rooms[0], &[&scene.a, &scene.b], &ids(&[&one, &three])).await;
}
