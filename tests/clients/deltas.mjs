// Publications that change a little come as deltas, which the library applies: every payload comes back as it was published,
// live, after a break, and to those who asked for no deltas.
import assert from "node:assert/strict";
import { api, connected, done, event, subscribed, token } from "./support.mjs";

const text = (data) => (data instanceof Uint8Array ? new TextDecoder().decode(data) : data);
const value = (data) => (data instanceof Uint8Array ? JSON.parse(text(data)) : data);

// A list of prices, of which each round changes a few.
const names = ["Gr\u00f6\u00dfe", "\u4e16\u754c", "\u{1f600}\u{1f601}", "\u20ac", 'a "quote" and a \\'];
const prices = Array.from({ length: 60 }, (_, n) => ({ name: `${names[n % names.length]} ${n}`, price: n / 4, open: true }));
function next(round) {
  prices[(round * 7) % 60].price += 1.25;
  prices[(round * 11) % 60].name = `${names[(round + 2) % names.length]} ${round}`;
  if (round % 10 === 9) {
    prices.push(prices.shift());
  }
  return structuredClone(prices);
}

const publish = (channel, data) => api("publish", { channel, data });
const ann = await connected({ token: token("ann") });
const bob = await connected({ token: token("bob") });
const deltas = await subscribed(ann, "prices:1", { delta: "fossil" });
const whole = await subscribed(bob, "prices:1");
const fleeting = await subscribed(bob, "ticks:1", { delta: "fossil" });

async function round(number) {
  const data = next(number);
  await publish("prices:1", data);
  await publish("ticks:1", data);
  for (const subscription of [deltas, whole, fleeting]) {
    assert.deepEqual(value((await subscription.heard.publication()).data), data, `${subscription.channel} ${number}`);
  }
}
for (let number = 0; number < 30; number += 1) {
  await round(number);
}
done("the same");

for (const subscription of [deltas, fleeting]) {
  const { numFullPayloads, numDeltaPayloads, compressionRatio } = subscription.deltaStats();
  assert.deepEqual([numFullPayloads, numDeltaPayloads], [1, 29]);
  assert.ok(compressionRatio > 0.8, `saved only ${compressionRatio}`);
}
done("fewer bytes");

for (const number of [100, 200, 300]) {
  const lost = event(ann, "connecting");
  const back = event(deltas, "subscribed");
  await api("disconnect", { user: "ann", disconnect: { code: 3011, reason: "force reconnect" } });
  await lost;
  const missed = [0, 1, 2, 3].map((more) => next(number + more));
  for (const data of missed) {
    await publish("prices:1", data);
  }
  assert.equal((await back).recovered, true);
  for (const data of missed) {
    for (const subscription of [deltas, whole]) {
      assert.deepEqual(value((await subscription.heard.publication()).data), data);
    }
  }
  await round(number + 4);
  await round(number + 5);
}
assert.ok(deltas.deltaStats().numDeltaPayloads >= 32, "after each break the second publication is a delta again");
done("recovered");

// Payloads that are no JSON, in turn with those that are.
for (const payload of ["\u4e16\u754c, a text that stays as it is: 1", "\u4e16\u754c, a text that stays as it is: 2"]) {
  await api("publish", { channel: "prices:1", b64data: Buffer.from(payload).toString("base64") });
  for (const subscription of [deltas, whole]) {
    assert.equal(text((await subscription.heard.publication()).data), payload);
  }
}
await round(400);
await round(401);
done("texts");

const { publications } = await deltas.history({ limit: 2, reverse: true });
assert.deepEqual(publications.map(({ data }) => value(data)[0].open), [true, true]);
await event(deltas, "unsubscribed", () => deltas.unsubscribe());
await event(deltas, "subscribed", () => deltas.subscribe());
await round(402);
await round(403);
done("again");

ann.disconnect();
bob.disconnect();
