// Opens the page of a gateway of one's own in a real browser. Takes turns with the test that runs it: the test
// serves and changes a rule, this looks at what the page makes of it.
import assert from "node:assert/strict";
import { openBrowser, turn } from "./chromium.mjs";

const { PAGE, TOKEN } = process.env;
const { browser, close } = await openBrowser();

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
  await close();
}
