// The channel of a user: the server subscribes to it at each connect, and what was missed in it is recovered.
import assert from "node:assert/strict";
import { api, client, done, event, queue, token, value } from "./support.mjs";

const channel = process.env.CHANNEL;
const ann = client({ token: token("ann") });
const heard = queue(ann, "publication");

async function hears(data) {
  const publication = await heard();
  assert.deepEqual([publication.channel, value(publication.data)], [channel, data]);
}

const first = await event(ann, "subscribed", () => ann.connect());
assert.deepEqual([first.channel, first.recoverable, first.wasRecovering], [channel, true, false]);
await api("publish", { channel, data: 1 });
await hears(1);
done("subscribed");

ann.disconnect();
await api("publish", { channel, data: 2 });
const back = await event(ann, "subscribed", () => ann.connect());
assert.deepEqual([back.channel, back.recovered], [channel, true]);
await hears(2);
ann.disconnect();
done("recovered");
