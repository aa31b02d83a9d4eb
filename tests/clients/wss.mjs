// A page in a browser whose clients connect over TLS: one by WebSocket, and two that fall back because it does not get through.
// Takes turns with the test that runs it: the test exchanges the certificate, restarts the gateway and publishes, this looks at
// what the page makes of it.
import assert from "node:assert/strict";
import { turn } from "./chromium.mjs";
import { openClients } from "./watched.mjs";

const gateway = `https://${process.env.GATEWAY}`;
const websocket = { transport: "websocket", endpoint: `wss://${process.env.GATEWAY}/connection/websocket` };
const blocked = { transport: "websocket", endpoint: "wss://127.0.0.1:1/connection/websocket" };
const fallbacks = ["http_stream", "sse"].map((transport) => ({ transport, endpoint: `${gateway}/connection/${transport}` }));
const lists = [[websocket], [blocked, ...fallbacks], [blocked, fallbacks[1]]];
// The browser does not know the authority of the test.
const { page, seen, all, end } = await openClients(gateway, lists, { ignoreHTTPSErrors: true });

// The name in the certificate that the browser gets for a new connection.
async function served() {
  const url = `${gateway}/served?${Math.random()}`;
  const [response] = await Promise.all([
    page.waitForResponse((response) => response.url() === url),
    page.evaluate((url) => fetch(url, { mode: "no-cors" }).then(() => null, () => null), url),
  ]);
  return (await response.securityDetails()).subjectName;
}

const transports = async () => (await seen()).map(({ transports }) => transports);

try {
  await all("return seen.subscription.state === 'subscribed'");
  assert.deepEqual(await transports(), [["websocket"], ["http_stream"], ["sse"]]);
  assert.equal(await served(), "first");
  for (const index of [0, 1, 2]) {
    await page.evaluate((index) => clients[index].client.publish("open:1", { from: "a page" }), index);
  }
  await all("return seen.offsets.length === expected", 3);
  await turn("they are connected", "the certificate is another, and 2 were published");
  await all("return seen.offsets.length === expected", 5);
  assert.deepEqual(await transports(), [["websocket"], ["http_stream"], ["sse"]], "the connections stayed");
  await page.evaluate(() => clients[0].client.publish("open:1", { from: "a page" }));
  await all("return seen.offsets.length === expected", 6);
  await turn("they stayed", "restart is under way");
  await all("return seen.subscription.state !== 'subscribed'");
  await turn("they noticed", "it is back, and 5 were published meanwhile");
  await all("return seen.offsets.length === expected", 11);
  await page.evaluate(() => clients[2].client.publish("open:1", { from: "a page" }));
  await all("return seen.offsets.length === expected", 12);
  assert.equal(await served(), "second");
  for (const { offsets, recovered } of await seen()) {
    assert.deepEqual(offsets, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert.ok(recovered.length > 0 && recovered.every(Boolean));
  }
  const [first, ...others] = await transports();
  assert.ok(first.length > 1 && first.every((transport) => transport === "websocket"));
  assert.ok(others.every((all) => all.length > 1 && !all.includes("websocket")));
  console.log("done");
} finally {
  await end();
}
