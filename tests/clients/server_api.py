"""Every method of the library for the server API, `cent`, with its client and with its asynchronous client.

Prints each method that does what it should, twice.
"""

import asyncio
import base64
import os
import time

import cent
from cent import dto

URL, KEY, CLIENT = (os.environ[name] for name in ["URL", "API_KEY", "CLIENT"])

# Those of the library that the gateway answers with error 108.
ABSENT = [
    cent.UpdateUserStatusRequest(users=["ann"]),
    cent.GetUserStatusRequest(users=["ann"]),
    cent.DeleteUserStatusRequest(users=["ann"]),
    cent.DeviceRegisterRequest(provider="fcm", token="t", platform="web"),
    cent.DeviceUpdateRequest(ids=["d"]),
    cent.DeviceRemoveRequest(ids=["d"]),
    cent.DeviceListRequest(limit=1),
    cent.DeviceTopicListRequest(limit=1),
    cent.DeviceTopicUpdateRequest(device_id="d", op="add", topics=["t"]),
    cent.UserTopicListRequest(limit=1),
    dto.UserTopicUpdateRequest(user="ann", op="add", topics=["t"]),
    cent.SendPushNotificationRequest(
        recipient=dto.PushRecipient(), notification=dto.PushNotification(expire_at=1)
    ),
    cent.UpdatePushStatusRequest(analytics_uid="u", status="delivered"),
    cent.CancelPushRequest(uid="u"),
]


async def methods(call, channel):
    """Calls every method, and yields the name of each after its result was looked at."""
    done = set()

    def did(name):
        done.add(name)
        return name

    first = await call(
        cent.PublishRequest(
            channel=channel, data={"n": 1}, tags={"kind": "one"}, idempotency_key="k", skip_history=False
        )
    )
    again = await call(cent.PublishRequest(channel=channel, data={"n": 2}, idempotency_key="k"))
    assert first.offset == again.offset == 1 and first.epoch == again.epoch, (first, again)
    await call(cent.PublishRequest(channel=channel, data=None, b64data=base64.b64encode(b"\xff").decode()))
    yield did("publish")

    sent = await call(cent.BroadcastRequest(channels=[channel, "unknown:1"], data=[3], tags={"kind": "three"}))
    assert sent.responses[0].result.offset == 3 and sent.responses[1].error.code == 102, sent
    yield did("broadcast")

    page = await call(cent.HistoryRequest(channel=channel, limit=2, reverse=True))
    assert [entry.offset for entry in page.publications] == [3, 2], page
    assert page.publications[0].tags == {"kind": "three"} and page.offset == 3, page
    since = cent.StreamPosition(offset=2, epoch=page.epoch)
    page = await call(cent.HistoryRequest(channel=channel, limit=9, since=since))
    assert [entry.data for entry in page.publications] == [[3]], page
    yield did("history")

    await call(cent.HistoryRemoveRequest(channel=channel))
    page = await call(cent.HistoryRequest(channel=channel, limit=9))
    assert page.publications == [] and page.offset == 3, page
    yield did("history_remove")

    await call(
        cent.SubscribeRequest(
            user="ann",
            client=CLIENT,
            channel=channel,
            info={"color": "red"},
            data={"why": "she asked"},
            recover_since=cent.StreamPosition(offset=3, epoch=page.epoch),
            override=cent.ChannelOptionsOverride(presence=cent.BoolValue(value=True)),
        )
    )

    async def members(count):
        while True:
            present = (await call(cent.PresenceRequest(channel=channel))).presence
            if len(present) == count:
                return present
            await asyncio.sleep(0.02)

    present = await asyncio.wait_for(members(1), 10)
    assert present[CLIENT].user == "ann" and present[CLIENT].chan_info == {"color": "red"}, present
    yield did("subscribe")
    yield did("presence")

    counts = await call(cent.PresenceStatsRequest(channel=channel))
    assert (counts.num_clients, counts.num_users) == (1, 1), counts
    yield did("presence_stats")

    listed = await call(cent.ChannelsRequest(pattern="chat:*"))
    assert listed.channels[channel].num_clients == 1, listed
    yield did("channels")

    of_ann = await call(cent.ConnectionsRequest(user="ann", expression=""))
    connection = of_ann.connections[CLIENT]
    assert (connection.user, connection.transport, connection.protocol) == (
        "ann",
        "websocket",
        "centrifuge-json",
    ), connection
    yield did("connections")

    for other in [{"user": "bob", "client": CLIENT}, {"user": "ann", "session": "none"}]:
        await call(cent.UnsubscribeRequest(channel=channel, **other))
        await call(cent.DisconnectRequest(**other, disconnect=cent.Disconnect(code=4000, reason="no")))
        await call(cent.RefreshRequest(**other, expired=True))
    await call(cent.RefreshRequest(user="ann", client=CLIENT, expire_at=0))
    yield did("refresh")
    await call(cent.DisconnectRequest(user="ann", whitelist=[CLIENT]))
    assert len(await members(1)) == 1
    yield did("disconnect")
    await call(cent.UnsubscribeRequest(user="ann", client=CLIENT, channel=channel))
    await asyncio.wait_for(members(0), 10)
    yield did("unsubscribe")

    info = await call(cent.InfoRequest())
    assert info.nodes[0].num_clients >= 1 and info.nodes[0].num_users >= 1, info
    yield did("info")

    for parallel in [False, True]:
        requests = [
            cent.PublishRequest(channel=channel, data=4),
            cent.BroadcastRequest(channels=[channel], data=5),
            cent.PresenceRequest(channel=channel),
            cent.HistoryRequest(channel=channel, limit=9),
        ]
        batch = await call(cent.BatchRequest(requests=requests, parallel=parallel))
        published, broadcast, present, page = batch.replies
        assert published.offset > 3 and broadcast.responses[0].result.offset > 3, batch
        assert present.presence == {} and page.offset > 3, batch
    yield did("batch")

    # Of somebody who is not there, and for the time of this test.
    for request in [
        cent.BlockUserRequest(user="eve", expire_at=int(time.time()) + 60),
        cent.UnblockUserRequest(user="eve"),
        cent.RevokeTokenRequest(uid="t", expire_at=int(time.time()) + 60),
        cent.InvalidateUserTokensRequest(user="eve", expire_at=int(time.time()) + 60),
    ]:
        await call(request)
        yield did(request.api_method)

    for request in ABSENT:
        name = request.api_method
        try:
            await call(request)
        except cent.CentApiResponseError as error:
            assert error.code == 108 and f"`{name}` is not available" in error.message, error
            did(name)
        else:
            raise AssertionError(f"{name} is there")
    yield "absent"

    for request, code in [
        (cent.PublishRequest(channel="unknown:1", data=1), 102),
        (cent.DisconnectRequest(user="ann", disconnect=cent.Disconnect(code=1000)), 107),
    ]:
        try:
            await call(request)
        except cent.CentApiResponseError as error:
            assert error.code == code, error
        else:
            raise AssertionError(f"{request} was carried out")
    yield "errors"

    names = {name for name in dir(cent.Client) if not name.startswith("_")} - {"close"}
    assert names == done, f"not called: {names - done}"
    yield "every method"


async def main():
    client = cent.Client(URL, KEY)

    async def at_once(request):
        return getattr(client, request.api_method)(request)

    async for name in methods(at_once, "chat:sync"):
        print(name)
    client.close()
    async with cent.AsyncClient(URL, KEY) as client:

        async def later(request):
            return await getattr(client, request.api_method)(request)

        async for name in methods(later, "chat:async"):
            print(name)
    for wrong in [cent.Client(URL, "another key"), cent.Client(URL, "")]:
        try:
            wrong.info(cent.InfoRequest())
        except cent.CentUnauthorizedError:
            continue
        raise AssertionError("the key is not looked at")
    print("key")


asyncio.run(main())
