// What is not allowed fails in the place that asked, and the connection goes on; what ends it for good is not retried.
import assert from "node:assert/strict";
import { api, connected, data, done, event, subscribed, token, value } from "./support.mjs";

const ann = await connected({ token: token("ann") });
for (const [channel, expected] of [["closed:1", 103], ["unknown:1", 102], ["no spaces", 107]]) {
  const subscription = ann.newSubscription(channel);
  const { code } = await event(subscription, "unsubscribed", () => subscription.subscribe());
  assert.equal(code, expected, channel);
  ann.removeSubscription(subscription);
}
done("not subscribed");

await assert.rejects(ann.publish("closed:1", data({})), { code: 103 });
await assert.rejects(ann.history("closed:1", { limit: 1 }), { code: 103 });
await assert.rejects(ann.presence("closed:1"), { code: 103 });
await assert.rejects(ann.rpc("nothing", data({})), { code: 108 });
await assert.rejects(ann.publish("chat:1", data({ text: "shame" })), { code: 400, message: "not here" });
done("not done");

const subscription = await subscribed(ann, "chat:1");
const heard = event(subscription, "publication");
await subscription.publish(data({ text: "still here" }));
assert.deepEqual(value((await heard).data), { text: "still here" });
done("still connected");

const end = event(ann, "disconnected");
await api("disconnect", { user: "ann", disconnect: { code: 4500, reason: "go" } });
assert.deepEqual(await end, { code: 4500, reason: "go" });
done("gone for good");
