// What is nothing is told as zero: the library hands its user numbers and lists, never `undefined`. And what is not there to
// be had is refused, not given in another form.
import assert from "node:assert/strict";
import { connected, data, done, event, subscribed, token } from "./support.mjs";

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

const delta = ann.newSubscription("chat:1", { delta: "fossil" });
const { code, reason } = await event(delta, "unsubscribed", () => delta.subscribe());
assert.deepEqual({ code, reason }, { code: 107, reason: "`delta` of `subscribe` is not offered here" });
ann.removeSubscription(delta);
await subscribed(ann, "chat:1", { positioned: true, recoverable: true });
done("refused");

ann.disconnect();
nobody.disconnect();
