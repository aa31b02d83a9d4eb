// What the library does about tokens that end or are wrong.
import assert from "node:assert/strict";
import { client, connected, done, event, inSeconds, token, within } from "./support.mjs";

// An expired token is replaced, and the client is admitted.
let asked = 0;
const fresh = async () => {
  asked += 1;
  return token("ann");
};
const late = await connected({ token: token("ann", { exp: inSeconds(-10) }), getToken: fresh });
assert.equal(asked, 1);
late.disconnect();
done("replaced");

// A token that is about to end is refreshed, and the connection stays: it outlives one that has nothing to refresh with.
let renewed = 0;
const renewal = { resolve: undefined };
const refreshed = new Promise((resolve) => (renewal.resolve = resolve));
const getToken = async () => {
  renewed += 1;
  renewal.resolve();
  return token("ann");
};
const staying = await connected({ token: token("ann", { exp: inSeconds(2) }), getToken });
const leaving = await connected({ token: token("ann", { exp: inSeconds(2) }) });
let interrupted = false;
staying.on("connecting", () => (interrupted = true));
const expired = event(leaving, "disconnected");
await within("the refresh", refreshed);
await expired;
await staying.ready(1000);
assert.equal(interrupted, false);
assert.equal(renewed, 1);
staying.disconnect();
done("refreshed");

// A wrong one is the end.
const wrong = client({ token: `${token("ann")}x` });
const { code } = await event(wrong, "disconnected", () => wrong.connect());
assert.equal(code, 3500);
done("rejected");
