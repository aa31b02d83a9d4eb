// A page in a browser in which WebSocket does not get through. Takes turns with the test that runs it: the test restarts the
// gateway and publishes, this looks at what the page makes of it.
import assert from "node:assert/strict";
import { turn } from "./chromium.mjs";
import { openClients } from "./watched.mjs";

const gateway = `http://${process.env.GATEWAY}`;
const blocked = { transport: "websocket", endpoint: "ws://127.0.0.1:1/connection/websocket" };
const fallbacks = ["http_stream", "sse"].map((transport) => ({ transport, endpoint: `${gateway}/connection/${transport}` }));
const { page, seen, all, end } = await openClients(gateway, [[blocked, ...fallbacks], [blocked, fallbacks[1]]]);

try {
  await all("return seen.subscription.state === 'subscribed'");
  assert.deepEqual(await page.evaluate(() => clients.map(({ transports }) => transports.at(-1))), ["http_stream", "sse"]);
  await page.evaluate(() => clients[0].client.publish("open:1", { from: "a page" }));
  await all("return seen.offsets.length === 1");
  await turn("they fell back", "restart is under way");
  await all("return seen.subscription.state !== 'subscribed'");
  await turn("they noticed", "it is back, and 5 were published meanwhile");
  await all("return seen.offsets.length === expected", 6);
  await page.evaluate(() => clients[1].client.publish("open:1", { from: "a page" }));
  await all("return seen.offsets.length === expected", 7);
  for (const { offsets, recovered, transports } of await seen()) {
    assert.deepEqual(offsets, [1, 2, 3, 4, 5, 6, 7]);
    assert.ok(recovered.length > 0 && recovered.every(Boolean));
    assert.equal(transports.includes("websocket"), false);
  }
  console.log("done");
} finally {
  await end();
}
