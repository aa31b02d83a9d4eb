// A page of another origin with the published library, in a real browser in which WebSocket does not get through. Takes turns
// with the test that runs it: the test restarts the gateway and publishes, this looks at what the page makes of it.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { openBrowser, turn } from "./chromium.mjs";

const { GATEWAY } = process.env;
const library = await readFile(new URL("node_modules/centrifuge/dist/centrifuge.js", import.meta.url));

const html = `<!doctype html><meta charset="utf-8"><script src="/centrifuge.js"></script><script>
  const gateway = "http://${GATEWAY}";
  const blocked = { transport: "websocket", endpoint: "ws://127.0.0.1:1/connection/websocket" };
  const fallbacks = ["http_stream", "sse"].map((transport) => ({ transport, endpoint: gateway + "/connection/" + transport }));
  window.clients = [[blocked, ...fallbacks], [blocked, fallbacks[1]]].map((transports) => {
    const seen = { transports: [], states: [], offsets: [], recovered: [] };
    const client = new Centrifuge(transports, { emulationEndpoint: gateway + "/emulation", minReconnectDelay: 50, maxReconnectDelay: 200 });
    client.on("connected", ({ transport }) => seen.transports.push(transport));
    const subscription = client.newSubscription("open:1");
    subscription.on("subscribed", ({ wasRecovering, recovered }) => wasRecovering && seen.recovered.push(recovered));
    subscription.on("publication", ({ offset }) => seen.offsets.push(offset));
    client.on("error", (error) => seen.states.push(JSON.stringify(error)));
    client.on("connecting", ({ code, reason }) => seen.states.push(code + " " + reason));
    subscription.on("subscribing", ({ code, reason }) => seen.states.push("subscribing " + code + " " + reason));
    subscription.subscribe();
    client.connect();
    return Object.assign(seen, { client, subscription });
  });
</script>`;

const server = createServer((request, response) => {
  const script = request.url === "/centrifuge.js";
  response.setHeader("Content-Type", script ? "text/javascript" : "text/html");
  response.end(script ? library : html);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const { browser, close } = await openBrowser();

try {
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const seen = () => page.evaluate(() => clients.map(({ client, subscription, ...seen }) => ({ ...seen, state: subscription.state })));
  const all = async (condition, expected) => {
    try {
      await page.waitForFunction(([condition, expected]) => {
        const holds = new Function("seen", "expected", condition);
        return clients.every((seen) => holds(seen, expected));
      }, [condition, expected]);
    } catch (error) {
      throw new Error(`waited in vain for ${condition} (${expected}): ${JSON.stringify(await seen())}`, { cause: error });
    }
  };

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
  await close();
  server.close();
}
