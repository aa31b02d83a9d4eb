// What the library does about channels that take a token of their own.
import assert from "node:assert/strict";
import { connected, done, event, inSeconds, subscribed, token } from "./support.mjs";

const ann = await connected({ token: token("ann") });
const asked = [];
const fetching = (claims) => ({
  getToken: async ({ channel }) => {
    asked.push(channel);
    return token("ann", { channel, ...claims });
  },
});
const one = await subscribed(ann, "private:1", fetching({}));
assert.deepEqual(asked, ["private:1"]);
one.unsubscribe();
done("fetched");

// One that has expired is replaced.
const late = { token: token("ann", { channel: "private:2", exp: inSeconds(-10) }), ...fetching({}) };
await subscribed(ann, "private:2", late);
assert.deepEqual(asked, ["private:1", "private:2"]);
done("fetched again");

// One for another user is the end of the subscription, and of nothing else.
const foreign = ann.newSubscription("private:3", fetching({ sub: "bob" }));
const { code } = await event(foreign, "unsubscribed", () => foreign.subscribe());
assert.equal(code, 103);
assert.equal(ann.state, "connected");
ann.disconnect();
done("refused");
