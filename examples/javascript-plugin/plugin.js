// Turns `:tada:` in the text of chat messages into an emoji. The settings file says which names there are.

import interests from "gateway:plugin/interests@0.1.0";
import { decode, encode } from "./utf8.js";

/** The number of a publication among the kinds of the interface. */
const PUBLISH = 1;

let emoji;

/** Runs once, before any message. What it throws is the reason why the plugin is refused. */
export const configure = {
  call(settings) {
    const { names = {}, channels = ["*"] } = JSON.parse(settings);
    for (const [name, value] of Object.entries(names)) {
      if (typeof value !== "string") throw `names.${name} is ${JSON.stringify(value)}; expected a text`;
    }
    emoji = new Map(Object.entries(names));
    interests.kinds([PUBLISH]);
    interests.channels(channels);
  },
};

/** Runs for every publication on those channels. `next` leaves the decision to later plugins and to the channel. */
export const onMessage = {
  call(_connection, _kind, payload) {
    const message = JSON.parse(decode(payload));
    if (typeof message?.text !== "string") return { tag: "next" };
    const text = message.text.replace(/:([a-z0-9_+-]+):/g, (shortcode, name) => emoji.get(name) ?? shortcode);
    if (text === message.text) return { tag: "next" };
    return { tag: "replace", val: encode(JSON.stringify({ ...message, text })) };
  },
};
