// A chat over the Centrifuge protocol (version 2, JSON), written out to show what goes over the wire. An application
// installs a client library instead.
const CHANNEL = "chat:lobby";
const MESSAGES_MAX = 500;
const HISTORY_SHOWN = 50;
const RECONNECT_MIN = 500;
const RECONNECT_MAX = 20_000;
const REPLY_TIMEOUT = 5_000;
const PING_SLACK = 10_000;
const PLUGINS_INTERVAL = 1_000;
const EVENTS_MAX = 50;

const element = (id) => document.getElementById(id);
const status = element("status");
const messages = element("messages");
const members = element("members");
const recovered = element("recovered");
const error = element("error");
const text = element("text");
const send = element("send");

// ---- The connection ----

// Where we stand in the channel: what is sent back after a break, so that nothing is missed.
const position = { offset: 0, epoch: "", known: false };
// Replies that are waited for, by the id of their command.
const waiting = new Map();
let user = "";
let socket = null;
let lastId = 0;
let attempts = 0;
let pongs = false;
let silence = 0;
let silenceTimer;
let reconnectTimer;
let refreshTimer;

function show(state, sentence) {
  status.dataset.state = state;
  status.textContent = sentence;
  send.disabled = state !== "connected";
}

async function connect() {
  clearTimeout(reconnectTimer);
  reconnectTimer = undefined;
  show("connecting", `connecting as ${user}`);
  let token;
  try {
    token = await fetchToken();
  } catch {
    return reconnectLater("the gateway does not answer");
  }
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const opened = new WebSocket(`${scheme}//${location.host}/connection/websocket`);
  socket = opened;
  opened.onopen = () => greet(token);
  opened.onmessage = (event) => event.data.split("\n").filter(Boolean).forEach((line) => receive(JSON.parse(line)));
  opened.onclose = (event) => {
    if (socket === opened) {
      closed(event.code, event.reason);
    }
  };
  expectSound(REPLY_TIMEOUT * 2);
}

async function fetchToken() {
  const response = await fetch(`/demo/token?user=${encodeURIComponent(user)}`, { cache: "no-store" });
  if (!response.ok) {
    throw new Error(`status ${response.status}`);
  }
  return (await response.json()).token;
}

// Both commands go out in one message; they are answered in order.
function greet(token) {
  const subscribe = { channel: CHANNEL, join_leave: true };
  if (position.known) {
    Object.assign(subscribe, { recover: true, offset: position.offset, epoch: position.epoch });
  }
  const connected = command({ connect: { token, name: "demo" } });
  const subscribed = command({ subscribe });
  socket.send(`${connected.line}\n${subscribed.line}`);
  connected.reply.then(admitted, refused);
  subscribed.reply.then(joined, (problem) => fail("Not subscribed", problem));
}

function command(request) {
  const id = ++lastId;
  const reply = new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      waiting.delete(id);
      reject({ code: 0, message: "no reply in time" });
    }, REPLY_TIMEOUT);
    waiting.set(id, { resolve, reject, timer });
  });
  return { line: JSON.stringify({ id, ...request }), reply };
}

function call(request) {
  if (!socket || socket.readyState !== WebSocket.OPEN) {
    return Promise.reject({ code: 0, message: "not connected" });
  }
  const { line, reply } = command(request);
  socket.send(line);
  return reply;
}

function receive(message) {
  expectSound(silence);
  if (message.id) {
    const waiter = waiting.get(message.id);
    waiting.delete(message.id);
    if (waiter) {
      clearTimeout(waiter.timer);
      message.error ? waiter.reject(message.error) : waiter.resolve(message);
    }
  } else if (message.push) {
    pushed(message.push);
  } else if (pongs) {
    // An empty object is a ping, and so is the answer to it.
    socket.send("{}");
  }
}

function admitted({ connect: { client, ping = 0, pong = false, expires = false, ttl = 0 } }) {
  attempts = 0;
  pongs = pong;
  expectSound(ping ? ping * 1000 + PING_SLACK : 0);
  show("connected", `connected as ${user}`);
  status.dataset.client = client;
  refreshAfter(expires ? ttl : 0);
}

// The token ends before the connection does: a new one extends it.
function refreshAfter(seconds) {
  clearTimeout(refreshTimer);
  if (seconds > 0) {
    refreshTimer = setTimeout(refresh, Math.min(seconds * 800, 2 ** 31 - 1));
  }
}

async function refresh() {
  try {
    const { refresh: { expires = false, ttl = 0 } } = await call({ refresh: { token: await fetchToken() } });
    refreshAfter(expires ? ttl : 0);
  } catch {
    // The gateway will close the connection when it expires, and we come back with a new token.
  }
}

function refused(problem) {
  if (problem.temporary || problem.code < 100 || problem.code === 109) {
    leave();
    reconnectLater(problem.message);
  } else {
    leave();
    show("closed", `refused: ${problem.code} ${problem.message}`);
    element("entrance").hidden = false;
  }
}

function closed(code, reason) {
  leave();
  // The code says whether to come back: these ranges mean no.
  if (code === 1009 || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000)) {
    show("closed", `closed for good: ${code} ${reason}`);
    element("entrance").hidden = false;
  } else {
    reconnectLater(reason || `connection lost (${code})`);
  }
}

function leave() {
  const left = socket;
  socket = null;
  pongs = false;
  silence = 0;
  clearTimeout(silenceTimer);
  clearTimeout(refreshTimer);
  for (const { reject, timer } of waiting.values()) {
    clearTimeout(timer);
    reject({ code: 0, message: "the connection was lost" });
  }
  waiting.clear();
  members.replaceChildren();
  left?.close();
}

// A random time up to a bound that doubles: many clients that lost the same gateway do not come back as one.
function reconnectLater(why) {
  const bound = Math.min(RECONNECT_MAX, RECONNECT_MIN * 2 ** attempts++);
  const delay = Math.random() * bound;
  show("waiting", `${why}; trying again in ${(delay / 1000).toFixed(1)} s`);
  reconnectTimer = setTimeout(connect, delay);
}

// A connection that has gone silent may be dead without a word.
function expectSound(milliseconds) {
  silence = milliseconds;
  clearTimeout(silenceTimer);
  if (milliseconds > 0) {
    silenceTimer = setTimeout(() => closed(1006, "the gateway has gone silent"), milliseconds);
  }
}

// ---- The channel ----

async function joined({ subscribe: result }) {
  const { epoch = "", offset = 0, publications = [], was_recovering: tried = false } = result;
  const ok = result.recovered === true;
  if (!tried) {
    recovered.textContent = "";
    delete recovered.dataset.recovered;
  } else if (ok) {
    const count = publications.length;
    recovered.textContent = count === 0 ? "back, nothing was missed" : `back, ${count} missed message${count === 1 ? "" : "s"} recovered`;
    recovered.dataset.recovered = "true";
  } else {
    recovered.textContent = "back, but what was missed is not kept any more: messages may be missing";
    recovered.dataset.recovered = "false";
  }
  // If it was recovered, `offset` is our own: the publications lead from there to where the channel stands.
  Object.assign(position, { epoch, offset, known: result.recoverable === true });
  publications.forEach(published);
  listMembers();
  if (!ok) {
    try {
      const page = { channel: CHANNEL, limit: HISTORY_SHOWN, reverse: true };
      const { history } = await call({ history: page });
      (history.publications ?? []).reverse().forEach((publication) => add(publication, history.epoch));
    } catch (problem) {
      fail("No history", problem);
    }
  }
}

async function listMembers() {
  try {
    const { presence: { presence = {} } } = await call({ presence: { channel: CHANNEL } });
    members.replaceChildren();
    Object.values(presence).forEach(enter);
  } catch (problem) {
    fail("No list of who is here", problem);
  }
}

function pushed({ channel, pub, join, leave: left, unsubscribe }) {
  if (channel !== CHANNEL) {
    return;
  }
  if (pub) {
    published(pub);
  } else if (join) {
    enter(join.info);
  } else if (left) {
    members.querySelector(`[data-client="${CSS.escape(left.info.client)}"]`)?.remove();
  } else if (unsubscribe) {
    removed(unsubscribe);
  }
}

// From 2500 on the gateway asks us to subscribe again, from where we stand.
function removed({ code = 0, reason = "" }) {
  if (code < 2500) {
    return fail("Unsubscribed", { code, message: reason });
  }
  const subscribe = { channel: CHANNEL, join_leave: true, recover: position.known, offset: position.offset, epoch: position.epoch };
  call({ subscribe }).then(joined, (problem) => fail("Not subscribed", problem));
}

function published(publication) {
  if (publication.offset > position.offset) {
    position.offset = publication.offset;
  }
  add(publication, position.epoch);
}

// ---- What is seen ----

function add({ data, info, offset = 0 }, epoch = "") {
  const place = `${epoch}:${offset}`;
  if (offset > 0 && messages.querySelector(`[data-place="${CSS.escape(place)}"]`)) {
    return;
  }
  const item = document.createElement("li");
  item.dataset.offset = offset;
  item.dataset.epoch = epoch;
  if (offset > 0) {
    item.dataset.place = place;
  }
  const from = document.createElement("b");
  from.textContent = info?.user || "server";
  const body = document.createElement("span");
  body.textContent = typeof data?.text === "string" ? data.text : JSON.stringify(data);
  item.append(from, body);
  const bottom = messages.scrollHeight - messages.scrollTop - messages.clientHeight < 40;
  messages.insertBefore(item, later(epoch, offset));
  while (messages.children.length > MESSAGES_MAX) {
    messages.firstElementChild.remove();
  }
  if (bottom) {
    messages.scrollTop = messages.scrollHeight;
  }
}

// The first message of the same stream that comes after an offset: history may arrive behind live messages.
function later(epoch, offset) {
  if (offset === 0) {
    return null;
  }
  const behind = (item) => item.dataset.epoch === epoch && Number(item.dataset.offset) > offset;
  return [...messages.children].find(behind) ?? null;
}

function enter(info) {
  if (members.querySelector(`[data-client="${CSS.escape(info.client)}"]`)) {
    return;
  }
  const item = document.createElement("li");
  item.dataset.client = info.client;
  item.dataset.user = info.user ?? "";
  item.textContent = info.client === status.dataset.client ? `${info.user} (you)` : info.user;
  members.append(item);
}

function fail(what, { code, message }) {
  error.textContent = code ? `${what}: ${message} (${code})` : `${what}: ${message}`;
}

// ---- The plugins ----

let shownPlugins = "";

async function pollPlugins() {
  try {
    const response = await fetch("/demo/plugins", { cache: "no-store" });
    const { folder, generation, plugins } = await response.json();
    showPath(element("folder"), folder);
    showPath(element("rules"), `${folder}/50-router.toml`);
    tellWhatHappened(plugins);
    showPlugins(plugins);
    element("generation").textContent = `Generation ${generation} of the chain`;
    element("generation").dataset.generation = generation;
  } catch {
    element("generation").textContent = "the gateway does not answer";
  }
  setTimeout(pollPlugins, PLUGINS_INTERVAL);
}

// A long path continues on the next line behind a slash, and not within a name such as 50-router.toml. It is written
// once, so that a reader can select it.
function showPath(place, path) {
  if (place.textContent === path) {
    return;
  }
  const parts = path.split(/(?<=.\/)/);
  place.replaceChildren(...parts.map((textContent) => Object.assign(document.createElement("span"), { textContent })));
}

// The plugins as they were at the last look, by name.
let knownPlugins = null;

function tellWhatHappened(plugins) {
  const known = knownPlugins;
  knownPlugins = new Map(plugins.map((plugin) => [plugin.name, plugin]));
  if (known === null) {
    return;
  }
  for (const plugin of plugins) {
    const { name, state, version = "", error: problem } = plugin;
    const before = known.get(name) ?? {};
    if (problem && problem.at !== before.error?.at) {
      happened(false, `${name}: refused, because it ${problem.sentence}. What ran before goes on.`);
    } else if (state === "removed" && before.state !== "removed") {
      happened(true, `${name}: taken out of the chain`);
    } else if (state === "rolled-back" && before.state !== state) {
      happened(true, `${name}: rolled back to ${version || "an earlier version"}`);
    } else if (plugin.digest && plugin.digest !== before.digest) {
      happened(true, `${name}: version ${version || plugin.digest.slice(0, 12)} is live`);
    } else if (plugin.digest && plugin.settings_digest !== before.settings_digest) {
      happened(true, `${name}: new settings are live`);
    }
  }
}

function happened(good, sentence) {
  const item = document.createElement("li");
  item.dataset.good = good;
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString();
  item.append(time, sentence);
  const events = element("events");
  events.hidden = false;
  events.prepend(item);
  while (events.children.length > EVENTS_MAX) {
    events.lastElementChild.remove();
  }
}

// What each plugin decided of the message that was just sent. The gateway explains it to the demo; see `gateway tail`.
async function showDecision(milliseconds) {
  const response = await fetch(`/demo/decision?user=${encodeURIComponent(user)}`, { cache: "no-store" });
  const trace = await response.json();
  if (!trace) {
    return;
  }
  element("decided").textContent =
    `Your last message was ${trace.decision} after ${milliseconds.toFixed(1)} ms, there and back:`;
  const verdicts = trace.plugins.map(({ plugin, answer, took_ns: took, reason }) => {
    const time = took === undefined ? "" : ` in ${(took / 1000).toFixed(0)} µs`;
    const item = document.createElement("li");
    item.dataset.answer = answer;
    item.textContent = answer === "not-called" ? `${plugin}: not called` : `${plugin}: ${answer}${time}`;
    item.title = reason ?? "";
    return item;
  });
  element("verdicts").replaceChildren(...verdicts);
  element("decision").hidden = false;
}

function showPlugins(plugins) {
  const now = JSON.stringify(plugins.map(({ counts, ...rest }) => rest));
  if (now === shownPlugins) {
    return;
  }
  const body = element("plugins").tBodies[0];
  const before = new Map([...body.rows].map((row) => [row.dataset.plugin, { ...row.dataset }]));
  const rows = plugins.map(pluginRow);
  for (const row of rows) {
    const old = before.get(row.dataset.plugin);
    const same = old && ["state", "digest", "since"].every((key) => old[key] === row.dataset[key]);
    row.classList.toggle("changed", shownPlugins !== "" && !same);
  }
  body.replaceChildren(...rows);
  shownPlugins = now;
}

function pluginRow({ name, state, version = "", digest = "", since = 0, error: problem }) {
  const row = document.createElement("tr");
  Object.assign(row.dataset, { plugin: name, state, version, digest, since });
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = state === "live" ? name : `${name} (${state.replace("-", ", ")})`;
  const texts = [version, digest.slice(0, 12), since ? new Date(since * 1000).toLocaleTimeString() : ""];
  const cells = texts.map((textContent) => Object.assign(document.createElement("td"), { textContent }));
  cells[1].className = "digest";
  row.append(head, ...cells);
  if (problem) {
    row.title = `${problem.code}: the file ${problem.sentence}`;
  }
  return row;
}

// ---- The forms ----

element("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  user = element("name").value;
  sessionStorage.setItem("user", user);
  element("entrance").hidden = true;
  element("chat").hidden = false;
  element("people").hidden = false;
  attempts = 0;
  connect();
  text.focus();
});

element("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  error.textContent = "";
  const written = text.value;
  const begin = performance.now();
  const sent = call({ publish: { channel: CHANNEL, data: { text: written } } }).then(
    () => {
      if (text.value === written) {
        text.value = "";
      }
    },
    (problem) => fail("Not sent", problem),
  );
  sent.then(() => showDecision(performance.now() - begin)).catch(() => {});
});

window.addEventListener("online", () => {
  if (reconnectTimer !== undefined) {
    connect();
  }
});

element("name").value = new URLSearchParams(location.search).get("user") ?? sessionStorage.getItem("user") ?? "";
if (new URLSearchParams(location.search).has("user") && element("sign-in").checkValidity()) {
  element("sign-in").requestSubmit();
}
pollPlugins();
