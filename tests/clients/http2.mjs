// More clients without WebSocket than a browser has connections of HTTP/1.1 for one host, in a real browser.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { openBrowser } from "./chromium.mjs";

const { GATEWAY } = process.env;
const library = await readFile(new URL("node_modules/centrifuge/dist/centrifuge.js", import.meta.url));
const CLIENTS = 10;

const html = `<!doctype html><meta charset="utf-8"><script src="/centrifuge.js"></script><script>
  const gateway = "https://${GATEWAY}";
  const streams = ["http_stream", "sse"].map((transport) => [{ transport, endpoint: gateway + "/connection/" + transport }]);
  const websocket = [{ transport: "websocket", endpoint: gateway.replace("https", "wss") + "/connection/websocket" }];
  window.connect = (transports) => {
    const seen = { data: [], errors: [] };
    const client = new Centrifuge(transports, { emulationEndpoint: gateway + "/emulation" });
    client.on("error", (error) => seen.errors.push(JSON.stringify(error)));
    const subscription = client.newSubscription("news");
    subscription.on("publication", ({ data }) => seen.data.push(data));
    subscription.subscribe();
    client.connect();
    return Object.assign(seen, { client, subscription });
  };
  window.clients = Array.from({ length: ${CLIENTS} }, (_, n) => connect(streams[n % 2]));
</script>`;

const server = createServer((request, response) => {
  const script = request.url === "/centrifuge.js";
  response.setHeader("Content-Type", script ? "text/javascript" : "text/html");
  response.end(script ? library : html);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const { browser, close } = await openBrowser({ ignoreHTTPSErrors: true });

try {
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const all = async (condition) => {
    try {
      await page.waitForFunction((condition) => {
        const holds = new Function("seen", condition);
        return clients.every((seen) => holds(seen));
      }, condition);
    } catch (error) {
      const seen = await page.evaluate(() => clients.map(({ errors, subscription }) => [subscription.state, ...errors]));
      throw new Error(`waited in vain for ${condition}: ${JSON.stringify(seen)}`, { cause: error });
    }
  };
  await all("return seen.subscription.state === 'subscribed'");
  await page.evaluate(() => clients[9].client.publish("news", "from a tab"));
  await all("return seen.data.includes('from a tab')");
  // A WebSocket, on the connection that the browser has or on one of its own.
  await page.evaluate(() => clients.push(connect(websocket)));
  await all("return seen.subscription.state === 'subscribed'");
  await page.evaluate(() => clients.at(-1).client.publish("news", "from a WebSocket"));
  await all("return seen.data.includes('from a WebSocket')");
  const versions = await page.evaluate(() => performance.getEntriesByType("resource").map(({ name, nextHopProtocol }) => [name, nextHopProtocol]));
  const streams = versions.filter(([name]) => name.includes("/emulation"));
  assert.ok(streams.every(([, version]) => version === "h2" || version === ""), JSON.stringify(streams));
  console.log("done");
} finally {
  await close();
  server.close();
}
