// A client of each encoding in one channel: both see the same, payloads in the form of their encoding.
import assert from "node:assert/strict";
import { api, client, connected, data, done, event, subscribed, token, value, within } from "./support.mjs";

const ENCODINGS = ["json", "protobuf"];
// In Protobuf the library hands over offsets as objects that hold 64 bits.
const offsets = (publications) => publications.map(({ offset }) => Number(offset));
const text = (bytes) => new TextDecoder().decode(bytes);
const both = (make) => Promise.all(ENCODINGS.map(make));

const claims = { info: { color: "red" } };
// Code 3014 takes their token away: they fetch another one.
const clients = await both((encoding) => connected({ encoding, getToken: async () => token(encoding, claims) }));
const [json, protobuf] = clients;
const inChat = [];
for (const one of clients) {
  inChat.push(await subscribed(one, "chat:1", { joinLeave: true }));
}
const [jsons, protobufs] = inChat;
const heard = () => both((_, index) => inChat[index].heard.publication());

// Each has seen both come, and the information about the other in its own form.
const joins = [await jsons.heard.join(), await jsons.heard.join()];
assert.deepEqual(joins.map(({ info }) => info.user), ENCODINGS);
assert.deepEqual(joins[1].info.connInfo, { color: "red" });
assert.deepEqual(value((await protobufs.heard.join()).info.connInfo), { color: "red" });

let offset = 0;
for (const [publisher, encoding] of [[jsons, "json"], [protobufs, "protobuf"]]) {
  await publisher.publish(data({ text: "hi" }, encoding));
  const [inJson, inProtobuf] = await heard();
  offset += 1;
  assert.deepEqual(inJson.data, { text: "hi" });
  assert.equal(text(inProtobuf.data), '{"text":"hi"}');
  assert.deepEqual(offsets([inJson, inProtobuf]), [offset, offset]);
  assert.deepEqual([inJson.info.user, inProtobuf.info.user], [encoding, encoding]);
}
// A line feed separates messages in JSON, and means nothing in a payload.
await protobufs.publish(new TextEncoder().encode('{\n "a": [1,\n2]\n}\n'));
const [folded, bytes] = await heard();
assert.deepEqual(folded.data, { a: [1, 2] });
assert.equal(text(bytes.data), '{ "a": [1,2]}');
done("json for both");

const all = Uint8Array.from({ length: 256 }, (_, byte) => byte);
for (const [sent, seen] of [
  [all, Buffer.from(all).toString("base64")],
  [new TextEncoder().encode('no JSON\n"at all"'), 'no JSON\n"at all"'],
]) {
  await protobufs.publish(sent);
  const [inJson, inProtobuf] = await heard();
  assert.equal(inJson.data, seen);
  assert.deepEqual([...inProtobuf.data], [...sent]);
}
done("bytes for both");

const [members, sameMembers] = await both((_, index) => inChat[index].presence());
assert.deepEqual(Object.keys(members.clients).sort(), Object.keys(sameMembers.clients).sort());
for (const [id, member] of Object.entries(members.clients)) {
  const same = sameMembers.clients[id];
  assert.deepEqual([member.user, member.client, member.connInfo], [same.user, same.client, value(same.connInfo)]);
}
assert.deepEqual(await jsons.presenceStats(), await protobufs.presenceStats());
done("members");

const [history, sameHistory] = await both((_, index) => inChat[index].history({ limit: -1 }));
assert.deepEqual([history.offset, history.epoch], [Number(sameHistory.offset), sameHistory.epoch]);
assert.deepEqual(offsets(history.publications), [1, 2, 3, 4, 5]);
assert.deepEqual(offsets(sameHistory.publications), [1, 2, 3, 4, 5]);
assert.equal(history.publications[3].data, Buffer.from(all).toString("base64"));
assert.deepEqual([...sameHistory.publications[3].data], [...all]);
const page = { limit: 2, reverse: true, since: { offset: 4, epoch: history.epoch } };
const pages = await both((_, index) => inChat[index].history(page));
assert.deepEqual(pages.map(({ publications }) => offsets(publications)), [[3, 2], [3, 2]]);
done("history");

const inNews = await both((_, index) => subscribed(clients[index], "news:1"));
const back = inNews.map((subscription) => event(subscription, "subscribed"));
const lost = clients.map((one) => event(one, "connecting"));
for (const user of ENCODINGS) {
  await api("disconnect", { user, disconnect: { code: 3011, reason: "force reconnect" } });
}
assert.deepEqual((await Promise.all(lost)).map(({ code }) => code), [3011, 3011]);
await api("publish", { channel: "news:1", data: { n: 1 } });
for (const [index, context] of (await Promise.all(back)).entries()) {
  assert.deepEqual([context.wasRecovering, context.recovered], [true, true]);
  assert.deepEqual(value((await inNews[index].heard.publication()).data), { n: 1 });
}
done("recovered");

const messages = clients.map((one) => event(one, "message"));
await protobuf.send(data({ to: "json", text: "psst" }, "protobuf"));
await json.send({ to: "protobuf", text: "psst" });
const [toJson, toProtobuf] = await Promise.all(messages);
assert.deepEqual(toJson.data, { to: "json", text: "psst" });
assert.deepEqual(value(toProtobuf.data), { to: "protobuf", text: "psst" });
done("direct");

for (const [index, encoding] of ENCODINGS.entries()) {
  const answer = await clients[index].rpc("whoami", data({}, encoding));
  assert.deepEqual(value(answer.data), { you: encoding });
  await assert.rejects(clients[index].publish("closed:1", data({}, encoding)), { code: 103, message: "permission denied" });
}
done("called");

// Every code of the protocol ends both in the same way.
const RETRIED = [3000, 3001, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012, 3013, 3014, 4000, 4499];
const FINAL = [3500, 3501, 3502, 3503, 3504, 3505, 3506, 3507, 3508, 3509, 4500, 4999];
for (const code of [...RETRIED, ...FINAL]) {
  const name = code < 3500 || code >= 4000 && code < 4500 ? "connecting" : "disconnected";
  const ending = clients.map((one) => event(one, name));
  for (const user of ENCODINGS) {
    await api("disconnect", { user, disconnect: { code, reason: `because of ${code}` } });
  }
  for (const end of await Promise.all(ending)) {
    assert.deepEqual(end, { code, reason: `because of ${code}` });
  }
  for (const one of clients) {
    one.connect();
    await within("the connection", one.ready());
  }
}
const wrong = await both((encoding) => {
  const one = client({ encoding, token: "wrong" });
  return event(one, "disconnected", () => one.connect());
});
assert.deepEqual(wrong[0], wrong[1]);
for (const one of clients) {
  one.disconnect();
}
done("closed");
