// The connection breaks while messages are published: the library comes back and has them all, in order.
import assert from "node:assert/strict";
import { api, connected, done, event, queue, subscribed, token, value } from "./support.mjs";

const ann = await connected({ token: token("ann", { channels: ["news:server"] }) });
const server = queue(ann, "publication");
const subscription = await subscribed(ann, "news:1");
const heard = subscription.heard.publication;
assert.equal(subscription.context.recoverable, true);
const publish = (channel, data) => api("publish", { channel, data });
await publish("news:1", 1);
await publish("news:server", 1);
assert.equal(value((await heard()).data), 1);
assert.deepEqual(await server().then(({ channel, data }) => [channel, value(data)]), ["news:server", 1]);
done("subscribed");

for (const round of [1, 2, 3]) {
  const lost = event(ann, "connecting");
  const back = event(subscription, "subscribed");
  const backOfServer = event(ann, "subscribed");
  await api("disconnect", { user: "ann", disconnect: { code: 3011, reason: "force reconnect" } });
  assert.equal((await lost).code, 3011);
  const first = 10 * round;
  for (const data of [first, first + 1, first + 2]) {
    await publish("news:1", data);
    await publish("news:server", data);
  }
  const { wasRecovering, recovered } = await back;
  assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: true });
  assert.equal((await backOfServer).recovered, true);
  for (const data of [first, first + 1, first + 2]) {
    assert.equal(value((await heard()).data), data);
    assert.equal(value((await server()).data), data);
  }
}
await publish("news:1", "last");
assert.equal(value((await heard()).data), "last");
ann.disconnect();
done("recovered");
