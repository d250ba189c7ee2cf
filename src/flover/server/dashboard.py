"""Serves the static pages: the dashboard, which shows `/live`, and the chat. Neither loads other files.

Their Content-Security-Policy allows only their own inline script and style, by digest, and connections to this server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import Response


def dashboard() -> Response:
    """The page. It has no data of the model or of requests, so it needs no API key; `/live` does."""
    page, headers = _page("dashboard.html")
    return Response(page, media_type="text/html", headers=headers)


def chat() -> Response:
    """The chat page. It needs no API key; its requests to `/v1` do. The address has JSON for other clients: `Vary`."""
    page, headers = _page("chat.html")
    return Response(page, media_type="text/html", headers={**headers, "Vary": "Accept"})


@cache
def _page(name: str) -> tuple[bytes, dict[str, str]]:
    page = files("flover.server").joinpath(name).read_bytes()
    return page, {
        "Content-Security-Policy": policy(page.decode()),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def policy(page: str) -> str:
    """The Content-Security-Policy under which exactly the inline scripts and styles of `page` run."""
    digests = {
        tag: " ".join(_digest(text) for text in re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, flags=re.DOTALL))
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {digests['script']}; style-src {digests['style']}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
