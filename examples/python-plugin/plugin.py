"""Rolls dice: `/roll 2d6` in a chat message becomes the sum of two dice with six faces."""

import json
import re
from random import SystemRandom

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import interests
from wit_world.imports.types import Refusal, Verdict, Verdict_Deny, Verdict_Next, Verdict_Replace

PUBLISH = 1
"""The number of a publication among the kinds of the interface."""

TOO_MANY_DICE = 400
ROLL = re.compile(r"/roll (\d{1,6})d(\d{1,6})")

# Asks the gateway for every number. The functions of `random` give the same numbers in every instance.
random = SystemRandom()
dice_max = 0


class Configure(exports.Configure):
    def call(self, settings: str) -> None:
        """Runs once, before any message. The error is the reason why the plugin is refused."""
        global dice_max
        config = json.loads(settings)
        dice_max = config.get("dice_max", 10)
        if type(dice_max) is not int or not 1 <= dice_max <= 1000:
            raise Err(f"dice_max is {json.dumps(dice_max)}; expected a number from 1 to 1000")
        interests.kinds([PUBLISH])
        interests.channels(config.get("channels", ["*"]))


class OnMessage(exports.OnMessage):
    def call(self, connection: int, kind: int, payload: bytes) -> Verdict:
        """Runs for every publication on those channels. `Verdict_Next` leaves the decision to later plugins and to
        the channel."""
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError):
            # Clients of the Protobuf encoding may send any bytes.
            return Verdict_Next()
        text = message.get("text") if isinstance(message, dict) else None
        roll = ROLL.fullmatch(text) if isinstance(text, str) else None
        if roll is None:
            return Verdict_Next()
        dice, faces = int(roll[1]), int(roll[2])
        if dice > dice_max:
            return Verdict_Deny(Refusal(TOO_MANY_DICE, f"{dice} dice, and {dice_max} are allowed"))
        total = sum(random.randint(1, max(faces, 1)) for _ in range(dice))
        message["text"] = f"{dice}d{faces} = {total}"
        return Verdict_Replace(json.dumps(message).encode())
