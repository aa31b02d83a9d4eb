"""Subscriptions that end with their tokens, with the library for Python, in both encodings."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time

from centrifuge import Client, SubscriptionEventHandler

PATIENCE = 10


class Events(SubscriptionEventHandler):
    """The codes of what happens to a subscription."""

    def __init__(self):
        self.queues = {name: asyncio.Queue() for name in ["subscribing", "subscribed", "unsubscribed"]}

    async def take(self, name):
        return await asyncio.wait_for(self.queues[name].get(), PATIENCE)

    async def on_subscribing(self, ctx):
        self.queues["subscribing"].put_nowait(ctx.code)

    async def on_subscribed(self, ctx):
        self.queues["subscribed"].put_nowait(ctx.channel)

    async def on_unsubscribed(self, ctx):
        self.queues["unsubscribed"].put_nowait(ctx.code)


def token(user, channel, seconds):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    claims = {"sub": user, "channel": channel, "exp": int(time.time()) + 1 + seconds}
    signed = b".".join(part(json.dumps(value).encode()) for value in [{"alg": "HS256"}, claims])
    signature = hmac.new(os.environ["SECRET"].encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + part(signature)).decode()


async def main():
    for encoding in ["json", "protobuf"]:
        client = Client(
            f"ws://{os.environ['GATEWAY']}/connection/websocket",
            token=os.environ["TOKEN"],
            use_protobuf=encoding == "protobuf",
            proxy=None,
        )
        await client.connect()
        await client.ready(PATIENCE)

        asked = asyncio.Queue()
        made = 0

        async def short_then_long(channel):
            nonlocal made
            made += 1
            asked.put_nowait(made)
            return token("ann", channel, 1 if made < 3 else 3600)

        staying = Events()
        kept = client.new_subscription("private:1", events=staying, get_token=short_then_long)
        await kept.subscribe()
        await staying.take("subscribed")
        for _ in range(3):
            await asyncio.wait_for(asked.get(), PATIENCE)
        # Longer than the last short one and its grace.
        await asyncio.sleep(4)
        assert staying.queues["unsubscribed"].empty()
        assert staying.queues["subscribing"].qsize() == 1, "only at the beginning"

        users = iter(["ann", "bob"])

        async def short_then_foreign(channel):
            return token(next(users), channel, 1)

        leaving = Events()
        ending = client.new_subscription("private:2", events=leaving, get_token=short_then_foreign)
        await ending.subscribe()
        await leaving.take("subscribed")
        assert await leaving.take("unsubscribed") == 103
        await client.disconnect()
        print(encoding)


asyncio.run(main())
