// Compressed messages in both directions, with two independent implementations: `ws`, and the WebSocket of Node itself. A
// client that offers no compression is the measure.
import assert from "node:assert/strict";
import Ws from "ws";
import { api, client, done, event, subscribed } from "./support.mjs";

const opened = [];
class Compressing extends Ws {
  constructor(...parameters) {
    super(...parameters);
    opened.push(this);
  }
}
class Plain extends Ws {
  constructor(url, protocols) {
    super(url, protocols, { perMessageDeflate: false });
    opened.push(this);
  }
}

const text = (length) => "They say that a message which repeats itself is small. ".repeat(Math.ceil(length / 50)).slice(0, length);

// Publishes messages of several sizes as a client and over the API, and reads all of them. Returns the bytes of the socket, if
// it tells them.
async function exchange(websocket) {
  const one = client({ encoding: "json", websocket });
  await event(one, "connected", () => one.connect());
  const news = await subscribed(one, "news:1");
  for (const length of [1, 99, 100, 1000, 4096, 30_000, 60_000]) {
    await news.publish({ text: text(length) });
    assert.equal((await news.heard.publication()).data.text, text(length));
  }
  for (const length of [10, 2000, 100_000, 250_000]) {
    await api("publish", { channel: "news:1", data: text(length) });
    assert.equal((await news.heard.publication()).data, text(length));
  }
  const { publications } = await news.history({ limit: 1, reverse: true });
  assert.deepEqual(publications.map(({ data }) => data), [text(250_000)]);
  const socket = opened.at(-1)?._socket;
  const bytes = { received: socket?.bytesRead, sent: socket?.bytesWritten };
  await event(one, "disconnected", () => one.disconnect());
  return bytes;
}

const compressed = await exchange(Compressing);
assert.equal(opened[0].extensions, "permessage-deflate");
done(`ws: ${JSON.stringify(compressed)}`);

await exchange(globalThis.WebSocket);
done("Node's own");

const plain = await exchange(Plain);
for (const way of ["received", "sent"]) {
  assert.ok(compressed[way] < plain[way] / 4, `${way} ${compressed[way]} of ${plain[way]} bytes`);
}
done(`fewer bytes: not ${JSON.stringify(plain)}`);
