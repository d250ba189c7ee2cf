"""What one API key may have of what all keys share: never more than is left. So a key that is alone gets half, and the
next one finds room, however much the others ask for. A dynamic threshold, as of buffers of packets (Choudhury and
Hahne, IEEE/ACM Transactions on Networking 6 (2), 1998)."""

from __future__ import annotations

from collections.abc import Mapping


def no_room(what: str, owner: str, used: Mapping[str, int], limit: int, amount: int = 1, *, flag: str = "") -> str:
    """Why a key cannot have `amount` more of `what`, where each has `used` and all together may have `limit`; "" if it
    can. Owners are salts of keys, empty if there is only one."""
    total, own = sum(used.values()), used.get(owner, 0)
    left, of_all = limit - total, f"{flag} {limit}".strip()
    if amount > left:
        return f"there are {total} {what} of all clients, and {amount} more would exceed {of_all}"
    if owner and own + amount > left:
        return f"this API key has {own} {what}, and {amount} more would exceed the {left} that are left of {of_all}"
    return ""
