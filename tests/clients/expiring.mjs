// What the library does about subscriptions that end with their tokens.
import assert from "node:assert/strict";
import { api, connected, done, event, inSeconds, subscribed, token, value } from "./support.mjs";

const ann = await connected({ token: token("ann") });
let counter = 0;

// The options of a subscription whose tokens come from these functions, one after the other, and then are good.
function tokens(...given) {
  const asked = [];
  const getToken = async ({ channel }) => {
    const make = given[asked.length] ?? (() => token("ann", { channel }));
    asked.push(channel);
    return make(channel);
  };
  return { asked, getToken };
}

const short = (channel) => token("ann", { channel, exp: inSeconds(1) });

async function hears(subscription) {
  counter += 1;
  await api("publish", { channel: subscription.channel, data: { counter } });
  assert.deepEqual(value((await subscription.heard.publication()).data), { counter });
}

// It fetches another one in time, and the subscription stays.
const staying = tokens(short, short);
const kept = await subscribed(ann, "private:1", staying);
const disturbances = [];
for (const name of ["subscribing", "unsubscribed"]) {
  kept.on(name, (context) => disturbances.push(context));
}
while (staying.asked.length < 3) {
  await new Promise((resolve) => setTimeout(resolve, 50));
}
// Longer than the last short one and its grace.
await new Promise((resolve) => setTimeout(resolve, 3500));
await hears(kept);
assert.deepEqual(disturbances, []);
assert.deepEqual(staying.asked, ["private:1", "private:1", "private:1"]);
done("refreshed");

// One that is refused, or has expired already, is the end of the subscription and of nothing else.
for (const [channel, second, code] of [
  ["private:2", (channel) => token("bob", { channel }), 103],
  ["private:3", (channel) => token("ann", { channel, exp: inSeconds(-10) }), 110],
]) {
  const ending = await subscribed(ann, channel, tokens(short, second));
  assert.equal((await event(ending, "unsubscribed")).code, code);
  assert.equal(ann.state, "connected");
}
done("refused");

// Without another one the gateway ends it after the grace, and the library subscribes again.
const late = tokens(short, () => new Promise(() => {}));
const again = await subscribed(ann, "private:4", late);
const back = event(again, "subscribed");
const { code, reason } = await event(again, "subscribing");
assert.deepEqual({ code, reason }, { code: 2501, reason: "expired" });
await back;
await hears(again);
assert.equal(ann.state, "connected");
ann.disconnect();
done("subscribed again");
