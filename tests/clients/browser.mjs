// Two tabs of the demo page in a real browser. Takes turns with the test that runs it: the test restarts the gateway and
// changes the plugin folder, this looks at what the tabs make of it.
import assert from "node:assert/strict";
import { openBrowser, turn } from "./chromium.mjs";

const { GATEWAY } = process.env;
const PATIENCE = 15_000;
const { browser, close } = await openBrowser();

// While the gateway is away the browser complains about connections that fail; nothing else is to be complained about.
const complaints = [];
const away = /net::ERR_CONNECTION_(REFUSED|RESET|CLOSED)|net::ERR_EMPTY_RESPONSE|WebSocket connection to .* failed/;

async function tab(user) {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (error) => complaints.push(`${user}: ${error}`));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !away.test(message.text())) {
      complaints.push(`${user}: ${message.text()}`);
    }
  });
  await page.goto(`http://${GATEWAY}/?user=${user}`);
  await connected(page);
  return page;
}

const connected = (page) => page.waitForSelector("#status[data-state=connected]");
const reads = (page, text) => page.locator("#messages li", { hasText: text }).waitFor();
const plugin = (page, name, state) => page.waitForSelector(`#plugins tr[data-plugin="${name}"][data-state="${state}"]`);

const happened = (page, text) => page.locator("#events li", { hasText: text }).first().waitFor();

async function writes(page, text) {
  await page.fill("#text", text);
  await page.click("#send");
}

async function talk(ann, bob, topic) {
  await writes(ann, `${topic}? asks ann`);
  await reads(bob, `${topic}? asks ann`);
  await writes(bob, `${topic}! says bob`);
  await reads(ann, `${topic}! says bob`);
  assert.equal(await ann.locator("#messages li", { hasText: `${topic}! says bob` }).count(), 1);
}

try {
  const ann = await tab("ann");
  const bob = await tab("bob");
  await talk(ann, bob, "lunch");
  assert.equal(await ann.locator("#members li").count(), 2);
  for (const name of ["auth-jwt", "router", "echo"]) {
    await plugin(ann, name, "live");
  }
  // What each plugin decided of the last message, and how long it took.
  await ann.locator("#verdicts li[data-answer=allow]", { hasText: "router: allow in" }).waitFor();
  assert.match(await ann.textContent("#decided"), /^Your last message was allowed after \d+\.\d ms/);
  assert.match(await ann.textContent("#rules"), /plugins\/50-router\.toml$/);
  await turn("they talk", "restart is under way");
  await ann.waitForSelector("#status:not([data-state=connected])");
  await turn("they noticed", "it is back");
  await connected(ann);
  await connected(bob);
  await talk(ann, bob, "dinner");
  await turn("they talk again", "a plugin is there");
  await plugin(ann, "no-sdk", "live");
  await plugin(bob, "no-sdk", "live");
  await happened(ann, "no-sdk: version");
  await turn("they see it", "it is replaced by rubbish");
  await plugin(ann, "no-sdk", "live-older");
  await happened(ann, "no-sdk: refused, because it is not WebAssembly");
  await turn("they see that it was refused", "it is gone");
  await plugin(ann, "no-sdk", "removed");
  await happened(ann, "no-sdk: taken out of the chain");
  // The narrowest window with two columns, and phones: nothing is wider than the screen.
  for (const width of [769, 360, 320]) {
    await ann.setViewportSize({ width, height: 740 });
    assert.ok(await ann.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `the page scrolls sideways at ${width}`);
  }
  await talk(ann, bob, "breakfast");
  assert.deepEqual(complaints, []);
  console.log("done");
} finally {
  await close();
}
