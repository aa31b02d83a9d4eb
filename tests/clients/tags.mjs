// Tags come with publications: at once, in a history and after a break. A filter leaves out what its subscriber does not want,
// and what is left out is no gap.
import assert from "node:assert/strict";
import { api, connected, done, event, subscribed, token, value } from "./support.mjs";

const publish = (n, kind, more = {}) =>
  api("publish", { channel: "goals:1", data: n, tags: kind ? { kind, [`h\u00e9`]: "" } : {}, ...more });
// Without tags the library hands over nothing in JSON, and an empty map in Protobuf.
const kind = ({ tags }) => (tags && Object.keys(tags).length > 0 ? (assert.equal(tags["h\u00e9"], ""), tags.kind) : undefined);
const seen = (publication) => [value(publication.data), kind(publication)];
const offset = (publication) => Number(publication.offset ?? 0);

const ann = await connected({ token: token("ann") });
const bob = await connected({ token: token("bob") });
const all = await subscribed(ann, "goals:1");
const some = await subscribed(bob, "goals:1", {
  tagsFilter: {
    op: "or",
    nodes: [{ key: "kind", cmp: "in", vals: ["goal", "penalty"] }, { op: "not", nodes: [{ key: "kind", cmp: "ex" }] }],
  },
});
await publish(1, "goal");
await publish(2, "foul");
await publish(3, undefined);
await publish(4, "penalty");
for (const expected of [[1, "goal"], [2, "foul"], [3, undefined], [4, "penalty"]]) {
  assert.deepEqual(seen(await all.heard.publication()), expected);
}
for (const expected of [[1, "goal"], [3, undefined], [4, "penalty"]]) {
  assert.deepEqual(seen(await some.heard.publication()), expected);
}
done("filtered");

const whole = await all.history({ limit: -1 });
assert.deepEqual(whole.publications.map(seen), [[1, "goal"], [2, "foul"], [3, undefined], [4, "penalty"]]);
const part = await some.history({ limit: -1 });
assert.deepEqual(part.publications.map(seen), [[1, "goal"], [3, undefined], [4, "penalty"]]);
assert.equal(Number(part.offset), 4);
done("remembered");

const lost = event(bob, "connecting");
const back = event(some, "subscribed");
await api("disconnect", { user: "bob", disconnect: { code: 3011, reason: "force reconnect" } });
await lost;
await publish(5, "foul");
await publish(6, "goal");
await publish(7, "foul");
assert.equal((await back).recovered, true);
assert.deepEqual(seen(await some.heard.publication()), [6, "goal"]);
await publish(8, "goal");
assert.deepEqual(seen(await some.heard.publication()), [8, "goal"]);
done("recovered");

await publish(9, "goal", { skip_history: true });
await publish(10, "goal");
for (const subscription of [all, some]) {
  const heard = [];
  do {
    heard.push(await subscription.heard.publication());
  } while (value(heard.at(-1).data) !== 10);
  const [past, next] = heard.slice(-2);
  assert.deepEqual([past, next].map((publication) => [...seen(publication), offset(publication)]), [
    [9, "goal", 0],
    [10, "goal", 9],
  ]);
}
const [last] = (await all.history({ limit: 1, reverse: true })).publications;
assert.equal(value(last.data), 10);
assert.equal((await all.history({ limit: -1 })).publications.length, 9);
done("passed by");

const bytes = Uint8Array.from([255, 0, 254]);
await api("publish", { channel: "goals:1", b64data: Buffer.from(bytes).toString("base64") });
const { data } = await some.heard.publication();
assert.deepEqual(data instanceof Uint8Array ? [...data] : data, data instanceof Uint8Array ? [...bytes] : "/wD+");
done("bytes");

for (const [tagsFilter, channel, why] of [
  [{ op: "and", nodes: [] }, "goals:2", "`tf` of `subscribe` has an `op` with the wrong number of `nodes`"],
  [{ key: "n", cmp: "lt", val: "many" }, "goals:2", "`tf` of `subscribe` compares with a `val` that is not a decimal number"],
  [{ key: "kind", cmp: "ex" }, "chat:1", "`tf` is not permitted in this channel"],
]) {
  const subscription = ann.newSubscription(channel, { tagsFilter });
  const { code, reason } = await event(subscription, "unsubscribed", () => subscription.subscribe());
  assert.equal(code, 107);
  assert.ok(reason.startsWith(why), reason);
  ann.removeSubscription(subscription);
}
done("refused");

const ends = event(ann, "disconnected");
const second = await connected({ token: token("ann") });
await api("disconnect", { user: "ann", whitelist: [second.context.client] });
assert.equal((await ends).code, 3503);
assert.deepEqual(Object.keys((await second.presence("chat:1")).clients), []);
assert.equal(second.state, "connected");
done("stayed");

second.disconnect();
bob.disconnect();
