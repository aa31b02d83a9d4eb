// What the library does about tokens that end or are wrong.
import assert from "node:assert/strict";
import { client, connected, done, event, inSeconds, token } from "./support.mjs";

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

// A token that ends is refreshed, and the connection stays: it outlives one whose new token does not come.
let renewed = 0;
const renewing = async () => {
  renewed += 1;
  return token("ann");
};
const never = () => new Promise(() => {});
const staying = await connected({ token: token("ann", { exp: inSeconds(2) }), getToken: renewing });
const leaving = await connected({ token: token("ann", { exp: inSeconds(2) }), getToken: never });
let interrupted = false;
staying.on("connecting", () => (interrupted = true));
assert.equal((await event(leaving, "connecting")).code, 3005);
assert.equal(interrupted, false);
assert.equal(renewed, 1);
staying.disconnect();
leaving.disconnect();
done("refreshed");

// A wrong one is the end.
const wrong = client({ token: `${token("ann")}x` });
const { code } = await event(wrong, "disconnected", () => wrong.connect());
assert.equal(code, 3500);
done("rejected");
