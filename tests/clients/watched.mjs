// A page of another origin with the published library, in a real browser. Its clients write down what they see.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { openBrowser } from "./chromium.mjs";

const library = await readFile(new URL("node_modules/centrifuge/dist/centrifuge.js", import.meta.url));

const html = (lists, emulationEndpoint) => `<!doctype html><meta charset="utf-8"><script src="/centrifuge.js"></script><script>
  window.clients = ${JSON.stringify(lists)}.map((transports) => {
    const seen = { transports: [], states: [], offsets: [], recovered: [] };
    const emulationEndpoint = ${JSON.stringify(emulationEndpoint)};
    const client = new Centrifuge(transports, { emulationEndpoint, minReconnectDelay: 50, maxReconnectDelay: 200 });
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

// Opens the page, with a client for each list of transports. `gateway` is a URL, and `options` are of the browser.
//
// `seen` tells what the clients have seen, and `all` waits until each has seen that a condition holds.
export async function openClients(gateway, lists, options) {
  const text = html(lists, `${gateway}/emulation`);
  const server = createServer((request, response) => {
    const script = request.url === "/centrifuge.js";
    response.setHeader("Content-Type", script ? "text/javascript" : "text/html");
    response.end(script ? library : text);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { browser, close } = await openBrowser(options);
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
  const end = async () => {
    await close();
    server.close();
  };
  return { page, seen, all, end };
}
