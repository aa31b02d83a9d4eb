// What the scenarios share: clients of the published library, tokens, the HTTP API, and waiting that ends.
import { createHmac } from "node:crypto";
import { Centrifuge as Json } from "centrifuge";
import { Centrifuge as Protobuf } from "centrifuge/build/protobuf";
import { EventSource } from "eventsource";
import WebSocket from "ws";

const { GATEWAY, ADMIN, API_KEY, SECRET, ENCODING, TRANSPORT = "websocket" } = process.env;
const PATIENCE = 10_000;

export function token(user, claims = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256" })}.${part({ sub: user, exp: inSeconds(3600), ...claims })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

export function inSeconds(seconds) {
  return Math.ceil(Date.now() / 1000 + seconds);
}

// A client that comes back quickly. Without an encoding or a transport among its options it has that of the scenario.
// Commands of clients with a stream go to `emulation`, which may be another gateway.
export function client({ encoding = ENCODING, transport = TRANSPORT, gateway = GATEWAY, emulation = gateway, ...options } = {}) {
  const scheme = transport === "websocket" ? "ws" : "http";
  const endpoints = [{ transport, endpoint: `${scheme}://${gateway}/connection/${transport}` }];
  const streams = { fetch, readableStream: ReadableStream, eventsource: EventSource, emulationEndpoint: `http://${emulation}/emulation` };
  const all = { websocket: WebSocket, ...streams, minReconnectDelay: 50, maxReconnectDelay: 200, ...options };
  return encoding === "protobuf" ? new Protobuf(endpoints, { ...all, protocol: "protobuf" }) : new Json(endpoints, all);
}

// JSON as the library takes it for a payload: as bytes in Protobuf.
export function data(value, encoding = ENCODING) {
  return encoding === "protobuf" ? new TextEncoder().encode(JSON.stringify(value)) : value;
}

// JSON out of a payload that the library hands over.
export function value(data) {
  return data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data;
}

export async function connected(options) {
  const connecting = client(options);
  const context = await event(connecting, "connected", () => connecting.connect());
  return Object.assign(connecting, { context });
}

export async function subscribed(to, channel, options) {
  const subscription = to.newSubscription(channel, options);
  // What comes with or right behind the reply is not to be missed.
  const heard = Object.fromEntries(["publication", "join", "leave"].map((name) => [name, queue(subscription, name)]));
  const context = await event(subscription, "subscribed", () => subscription.subscribe());
  return Object.assign(subscription, { context, heard });
}

// The next event of that name, after the action that causes it.
export function event(emitter, name, action = () => {}) {
  return within(`the event ${name}`, new Promise((resolve) => {
    emitter.once(name, resolve);
    action();
  }));
}

// Everything that comes by an event, to be taken in order.
export function queue(emitter, name) {
  const items = [];
  const waiting = [];
  emitter.on(name, (item) => (waiting.length > 0 ? waiting.shift()(item) : items.push(item)));
  return () => within(`one more ${name}`, new Promise((resolve) => (items.length > 0 ? resolve(items.shift()) : waiting.push(resolve))));
}

export function within(what, promise) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`waited in vain for ${what}`)), PATIENCE).unref());
  return Promise.race([promise, late]);
}

export async function api(method, body) {
  const headers = { "X-API-Key": API_KEY, "Content-Type": "application/json" };
  const response = await fetch(`http://${ADMIN}/api/${method}`, { method: "POST", headers, body: JSON.stringify(body) });
  const { result, error } = await response.json();
  if (error) {
    throw new Error(`${method}: ${error.code} ${error.message}`);
  }
  return result;
}

// A line for the test that runs the scenario.
export function done(what) {
  console.log(what);
}
