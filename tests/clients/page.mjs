// Opens the page of a gateway of one's own in a real browser. Takes turns with the test that runs it: the test
// serves and changes a rule, this looks at what the page makes of it.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const { PAGE, TOKEN, CHROMIUM } = process.env;
const profile = await mkdtemp(join(tmpdir(), "gateway-page-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: CHROMIUM,
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// Tells the test that it is its turn, and waits until it has done its part.
async function turn(done, expected) {
  console.log(done);
  const { value } = await lines.next();
  assert.equal(value, expected);
}

try {
  const page = await browser.newPage();
  page.setDefaultTimeout(15_000);
  await page.goto(`${PAGE}#${TOKEN}`);
  const shows = (text) => page.locator("li", { hasText: text }).first().waitFor();
  const says = async (text) => {
    await page.fill("input", text);
    await page.press("input", "Enter");
  };
  await shows("connected");
  await says("hello");
  await shows("ann: hello");
  await turn("it is connected", "a rule has changed");
  await says("hello again");
  await shows("refused: the chat is closed for the night");
  assert.equal(await page.locator("li", { hasText: "closed: " }).count(), 0, "the connection stayed open");
  assert.equal(await page.locator("li", { hasText: "connected" }).count(), 1, "the connection is the same");
  console.log("done");
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
}
