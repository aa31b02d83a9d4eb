// Two users in a channel: everything a subscription of the library offers.
import assert from "node:assert/strict";
import { connected, data, done, event, subscribed, token, value } from "./support.mjs";

const ann = await connected({ token: token("ann") });
const bob = await connected({ token: token("bob") });
assert.match(ann.context.client, /^[0-9a-f-]{36}$/);
done("connected");

const hers = await subscribed(ann, "chat:1", { joinLeave: true });
const { join, leave, publication: heard } = hers.heard;
assert.equal((await join()).info.user, "ann");
const his = await subscribed(bob, "chat:1");
assert.equal((await join()).info.user, "bob");
done("joined");

await his.publish(data({ text: "hello" }));
const publication = await heard();
assert.deepEqual(value(publication.data), { text: "hello" });
assert.equal(publication.info.user, "bob");
// In Protobuf the library hands over an object that holds 64 bits.
assert.equal(Number(publication.offset), 1);
done("published");

const { clients } = await hers.presence();
assert.deepEqual(Object.values(clients).map(({ user }) => user).sort(), ["ann", "bob"]);
assert.deepEqual(await hers.presenceStats(), { numClients: 2, numUsers: 2 });
done("present");

await his.publish(data({ text: "again" }));
await heard();
const history = await hers.history({ limit: 10 });
assert.deepEqual(history.publications.map(({ data }) => value(data).text), ["hello", "again"]);
const since = { offset: history.publications[0].offset, epoch: history.epoch };
const rest = await ann.history("chat:1", { limit: -1, since });
assert.deepEqual(rest.publications.map(({ data }) => value(data).text), ["again"]);
done("remembered");

assert.deepEqual(value((await ann.rpc("whoami", data({}))).data), { you: "ann" });
const message = event(bob, "message");
await ann.send(data({ to: "bob", text: "psst" }));
assert.deepEqual(value((await message).data), { to: "bob", text: "psst" });
done("called");

his.unsubscribe();
assert.equal((await leave()).info.user, "bob");
bob.disconnect();
ann.disconnect();
done("left");
