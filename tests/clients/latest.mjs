// Where only the latest publication counts, a client gets that one: at first, after a break, and not a second time.
import assert from "node:assert/strict";
import { api, connected, done, event, queue, subscribed, token, value } from "./support.mjs";

const publish = (data) => Promise.all(["scores:1", "scores:server"].map((channel) => api("publish", { channel, data })));
const since = { offset: 0, epoch: "" };
const outcome = ({ wasRecovering, recovered }) => ({ wasRecovering, recovered });
const ann = await connected({ token: token("ann", { channels: ["scores:server"] }) });
const server = queue(ann, "publication");
const nothing = await subscribed(ann, "scores:nothing", { since });
assert.deepEqual(outcome(nothing.context), { wasRecovering: true, recovered: false });
done("nothing");

for (const data of [1, 2, 3]) {
  await publish(data);
  assert.equal(value((await server()).data), data);
}
const subscription = await subscribed(ann, "scores:1", { since });
const heard = subscription.heard.publication;
assert.deepEqual(outcome(subscription.context), { wasRecovering: true, recovered: true });
assert.equal(value((await heard()).data), 3);
done("latest");

for (const missed of [[10, 11, 12], [20], []]) {
  ann.disconnect();
  for (const data of missed) {
    await publish(data);
  }
  const back = event(subscription, "subscribed");
  const backOfServer = event(ann, "subscribed");
  ann.connect();
  assert.deepEqual(outcome(await back), { wasRecovering: true, recovered: true });
  assert.equal((await backOfServer).recovered, true);
  const live = `after ${missed}`;
  await publish(live);
  for (const data of [...missed.slice(-1), live]) {
    assert.equal(value((await heard()).data), data);
    assert.equal(value((await server()).data), data);
  }
}
ann.disconnect();
done("recovered");
