// Text as bytes and back. QuickJS is the language without a browser around it: it has no TextEncoder and no TextDecoder.

const BEYOND_ASCII = /[^\x00-\x7f]/;

/** The text that these UTF-8 bytes are. Throws if they are none. */
export function decode(bytes) {
  let text = "";
  // In pieces, because the arguments of a call lie on the stack.
  for (let at = 0; at < bytes.length; at += 4096) {
    text += String.fromCharCode.apply(null, bytes.subarray(at, at + 4096));
  }
  return BEYOND_ASCII.test(text) ? decodeURIComponent(escape(text)) : text;
}

/** The UTF-8 bytes of a text. */
export function encode(text) {
  const ascii = BEYOND_ASCII.test(text) ? unescape(encodeURIComponent(text)) : text;
  const bytes = new Uint8Array(ascii.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = ascii.charCodeAt(at);
  return bytes;
}
