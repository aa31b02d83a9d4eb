// The library over TLS, with nothing but another address and an authority to trust.
import assert from "node:assert/strict";
import { Centrifuge } from "centrifuge";
import WebSocket from "ws";
import { done, event, queue } from "./support.mjs";

const client = new Centrifuge(`wss://localhost:${process.env.PORT}/connection/websocket`, { websocket: WebSocket });
await event(client, "connected", () => client.connect());
done("connected");

const subscription = client.newSubscription("news");
const publications = queue(subscription, "publication");
await event(subscription, "subscribed", () => subscription.subscribe());
const text = "x".repeat(200_000);
await subscription.publish("small");
assert.equal((await publications()).data, "small");
for (const n of [1, 2, 3]) {
  await subscription.publish({ n, text: text.slice(0, 50_000) });
  assert.deepEqual((await publications()).data, { n, text: text.slice(0, 50_000) });
}
done("published");
client.disconnect();
