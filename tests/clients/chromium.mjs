// A real browser, and turns with the test that runs the script.
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

// Opens a browser with a profile of its own, and with more options. `close` ends it and removes the profile.
export async function openBrowser(options = {}) {
  const profile = await mkdtemp(join(tmpdir(), "gateway-browser-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM,
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
    ...options,
  });
  const close = async () => {
    await browser.close();
    await rm(profile, { recursive: true, force: true });
  };
  return { browser, close };
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// Tells the test that it is its turn, and waits until it has done its part.
export async function turn(done, expected) {
  console.log(done);
  const { value } = await lines.next();
  assert.equal(value, expected);
}
