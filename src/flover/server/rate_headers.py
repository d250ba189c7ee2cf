"""What an API key may still use in a minute, in the headers of OpenAI's API:

    x-ratelimit-limit-requests: 60      x-ratelimit-remaining-requests: 59      x-ratelimit-reset-requests: 1s

and the same of tokens. `reset` is when all of the limit is there again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flover.server.http_keys import KEY_SALT
from flover.server.rates import Account

NAMES = tuple(
    f"X-RateLimit-{what}-{kind}" for kind in ("Requests", "Tokens") for what in ("Limit", "Remaining", "Reset")
)


class RateHeaders:
    """Adds them to every response to a key that has such limits, as they are when its head is sent: of a whole answer
    after its tokens were counted, of a stream before they are generated."""

    def __init__(
        self, app: ASGIApp, accounts: Mapping[str, Account], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`accounts` are those of keys, by salt; `clock` is in seconds."""
        self._app = app
        self._accounts = accounts
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account = self._accounts.get(scope[KEY_SALT]) if KEY_SALT in scope else None
        if account is None or not account.has_rates:
            await self._app(scope, receive, send)
            return

        async def send_with_rates(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(rate_headers(account, self._clock()))
            await send(message)

        await self._app(scope, receive, send_with_rates)


def rate_headers(account: Account, now: float) -> dict[str, str]:
    """The headers of a key's limits; none where it has no limit."""
    found: dict[str, str] = {}
    for kind, rate in account.rates(now).items():
        values = str(rate.limit), str(rate.remaining), duration(rate.reset)
        found |= zip((name for name in NAMES if name.endswith(kind.title())), values, strict=True)
    return found


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them: `6m0s`, `1.25s`, `20ms`; rounded up to milliseconds."""
    milliseconds = math.ceil(round(1000 * seconds, 3))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{whole}{rest / 1000:g}s"
