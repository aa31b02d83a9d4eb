// What is nothing is told as zero: the library hands its user numbers and lists, never `undefined`. And what a channel does
// not have is left out of its subscriptions.
import assert from "node:assert/strict";
import { connected, data, done, subscribed, token, value } from "./support.mjs";

const ann = await connected({ token: token("ann") });
assert.deepEqual(await ann.presenceStats("chat:empty"), { numClients: 0, numUsers: 0 });
assert.deepEqual(await ann.presence("chat:empty"), { clients: {} });
const history = await ann.history("chat:empty", { limit: 10 });
assert.deepEqual(history.publications, []);
assert.equal(Number(history.offset), 0);
assert.equal(typeof history.epoch, "string");
done("zeros");

const nobody = await connected({});
const theirs = await subscribed(ann, "open:1", { joinLeave: true });
assert.equal((await theirs.heard.join()).info.user, "ann");
const his = await subscribed(nobody, "open:1");
assert.equal((await theirs.heard.join()).info.user, "");
const { clients } = await ann.presence("open:1");
assert.equal(clients[nobody.context.client].user, "");
await his.publish(data("hi"));
assert.equal((await theirs.heard.publication()).info.user, "");
done("anonymous");

// The namespace has neither deltas nor recovery.
const offering = await subscribed(ann, "chat:1", { delta: "fossil", positioned: true, recoverable: true });
assert.deepEqual([offering.context.positioned, offering.context.recoverable], [false, false]);
await offering.publish(data({ text: "a text without deltas, which is long enough for one" }));
assert.deepEqual(value((await offering.heard.publication()).data), { text: "a text without deltas, which is long enough for one" });
done("without");

ann.disconnect();
nobody.disconnect();
