// A subscription to a pattern gets the publications of all channels that match it. The library names the pattern as their
// channel, so publishers that want more put it into the payload or the tags.
import assert from "node:assert/strict";
import { api, connected, done, event, subscribed, token, value } from "./support.mjs";

const publish = (channel, n) => api("publish", { channel, data: n, tags: { from: channel } });
const seen = ({ channel, data, tags, offset }) => [channel, value(data), tags.from, Number(offset ?? 0)];

const ann = await connected({ token: token("ann") });
const one = await subscribed(ann, "wide:eu.*");
const rest = await subscribed(ann, "wide:eu.**");
const channel = await subscribed(ann, "wide:eu.sport");
assert.ok(!one.context.recoverable && !one.context.positioned, "a pattern has no stream");
assert.ok(channel.context.recoverable, "its channels do");
await publish("wide:us.sport", 1);
await publish("wide:eu.sport", 2);
await publish("wide:eu.sport.tennis", 3);
await publish("wide:eu.news", 4);
assert.deepEqual(seen(await channel.heard.publication()), ["wide:eu.sport", 2, "wide:eu.sport", 1]);
for (const [n, from] of [[2, "wide:eu.sport"], [4, "wide:eu.news"]]) {
  assert.deepEqual(seen(await one.heard.publication()), ["wide:eu.*", n, from, 0]);
}
for (const [n, from] of [[2, "wide:eu.sport"], [3, "wide:eu.sport.tennis"], [4, "wide:eu.news"]]) {
  assert.deepEqual(seen(await rest.heard.publication()), ["wide:eu.**", n, from, 0]);
}
done("matched");

await assert.rejects(one.history({ limit: 1 }), { code: 108 });
await assert.rejects(one.presence(), { code: 108 });
await assert.rejects(one.presenceStats(), { code: 108 });
await assert.rejects(ann.publish("wide:eu.*", 1), { code: 107 });
for (const [name, why] of [
  ["news:*", "patterns are not permitted here"],
  ["wide:eu*", "a pattern is a namespace"],
]) {
  const subscription = ann.newSubscription(name);
  const { code, reason } = await event(subscription, "unsubscribed", () => subscription.subscribe());
  assert.equal(code, 107);
  assert.ok(reason.startsWith(why), reason);
  ann.removeSubscription(subscription);
}
done("refused");

const back = event(one, "subscribed");
await api("disconnect", { user: "ann", disconnect: { code: 3011, reason: "force reconnect" } });
assert.ok(!(await back).recovered);
await publish("wide:eu.sport", 5);
assert.deepEqual(seen(await one.heard.publication()), ["wide:eu.*", 5, "wide:eu.sport", 0]);
done("back");

const ends = event(one, "unsubscribed", () => one.unsubscribe());
await ends;
await publish("wide:eu.sport", 6);
let last;
do {
  last = value((await channel.heard.publication()).data);
} while (last !== 6);
done("ended");

ann.disconnect();
