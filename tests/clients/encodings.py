"""A client of each encoding in one channel, with the library for Python: both see the same."""

import asyncio
import base64
import json
import os
import urllib.request

from centrifuge import Client, ClientEventHandler, DeltaType, ReplyError, SubscriptionEventHandler

PATIENCE = 10
ENCODINGS = ["json", "protobuf"]


class Events(SubscriptionEventHandler, ClientEventHandler):
    """Everything that comes, to be taken in order."""

    def __init__(self):
        self.queues = {}

    def queue(self, name):
        return self.queues.setdefault(name, asyncio.Queue())

    async def take(self, name):
        return await asyncio.wait_for(self.queue(name).get(), PATIENCE)

    async def on_subscribed(self, ctx):
        self.queue("subscribed").put_nowait(ctx)

    async def on_publication(self, ctx):
        self.queue("publication").put_nowait(ctx.pub)

    async def on_join(self, ctx):
        self.queue("join").put_nowait(ctx.info)

    async def on_connecting(self, ctx):
        self.queue("connecting").put_nowait(ctx.code)

    async def on_disconnected(self, ctx):
        self.queue("disconnected").put_nowait(ctx.code)


def data(value, encoding):
    return json.dumps(value).encode() if encoding == "protobuf" else value


def value(data):
    return json.loads(data) if isinstance(data, bytes) else data


def api(method, body):
    headers = {"X-API-Key": os.environ["API_KEY"], "Content-Type": "application/json"}
    url = f"http://{os.environ['ADMIN']}/api/{method}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        assert "error" not in json.load(response), method


async def main():
    clients, events, subscriptions, heard = {}, {}, {}, {}
    for encoding in ENCODINGS:
        events[encoding], heard[encoding] = Events(), Events()
        clients[encoding] = Client(
            f"ws://{os.environ['GATEWAY']}/connection/websocket",
            events=events[encoding],
            token=os.environ[f"TOKEN_{encoding.upper()}"],
            use_protobuf=encoding == "protobuf",
            max_reconnect_delay=0.2,
            proxy=None,
        )
        await clients[encoding].connect()
        await clients[encoding].ready(PATIENCE)
        subscription = clients[encoding].new_subscription("chat:1", events=heard[encoding], join_leave=True)
        subscriptions[encoding] = subscription
        await subscription.subscribe()
        await heard[encoding].take("subscribed")
    joined = [(await heard["json"].take("join")).user for _ in ENCODINGS]
    assert joined == ENCODINGS, joined
    print("joined")

    every_byte = bytes(range(256))
    for publisher, sent in [
        ("json", {"text": "hi"}),
        ("protobuf", data({"text": "hi"}, "protobuf")),
        ("protobuf", every_byte),
    ]:
        await subscriptions[publisher].publish(sent)
        in_json, in_protobuf = [await heard[encoding].take("publication") for encoding in ENCODINGS]
        assert in_json.offset == in_protobuf.offset > 0
        assert in_json.info.user == in_protobuf.info.user == publisher
        if sent == every_byte:
            assert in_json.data == base64.b64encode(every_byte).decode()
            assert in_protobuf.data == every_byte
        else:
            assert in_json.data == value(in_protobuf.data) == {"text": "hi"}
    print("published")

    present = [await subscriptions[encoding].presence() for encoding in ENCODINGS]
    users = [sorted(info.user for info in result.clients.values()) for result in present]
    assert users == [ENCODINGS, ENCODINGS], users
    pages = [await subscriptions[encoding].history(limit=-1) for encoding in ENCODINGS]
    assert pages[0].epoch == pages[1].epoch and pages[0].offset == pages[1].offset == 3
    assert [[one.offset for one in page.publications] for page in pages] == [[1, 2, 3], [1, 2, 3]]
    print("remembered")

    for encoding in ENCODINGS:
        answer = await clients[encoding].rpc("whoami", data({}, encoding))
        assert value(answer.data) == {"you": encoding}
        try:
            await clients[encoding].publish("closed:1", data({}, encoding))
            raise AssertionError("it is closed")
        except ReplyError as error:
            assert error.code == 103, error
    print("called")

    changing = {}
    for encoding in ENCODINGS:
        changing[encoding] = Events()
        subscription = clients[encoding].new_subscription(
            "prices:1", events=changing[encoding], delta=DeltaType.FOSSIL
        )
        await subscription.subscribe()
        await changing[encoding].take("subscribed")
    prices = [{"name": f"Gr\u00f6\u00dfe \u4e16\u754c {n}", "price": n} for n in range(40)]
    for n in range(20):
        prices[n * 7 % 40]["price"] += 1.5
        api("publish", {"channel": "prices:1", "data": prices})
        for encoding in ENCODINGS:
            got = await changing[encoding].take("publication")
            assert value(got.data) == prices, f"{encoding} {n}"
            assert got.delta == (n > 0), f"{encoding} {n}"
    print("deltas")

    for code, event in [(3011, "connecting"), (4500, "disconnected")]:
        for encoding in ENCODINGS:
            while not events[encoding].queue(event).empty():
                events[encoding].queue(event).get_nowait()
            api("disconnect", {"user": encoding, "disconnect": {"code": code, "reason": "go"}})
            assert await events[encoding].take(event) == code
            if event == "connecting":
                await clients[encoding].ready(PATIENCE)
    print("closed")


asyncio.run(main())
