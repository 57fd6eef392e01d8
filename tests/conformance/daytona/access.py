"""How the suites reach the server and the previews of sandboxes."""

from __future__ import annotations

from typing import Dict, Optional

import httpx

#: On loopback the server takes any key; the SDKs refuse to start without one.
API_KEY = "any-key-will-do"


def fetch(
    url: str,
    method: str = "GET",
    headers: Optional[Dict[str, str]] = None,
    timeout: float = 20,
    content: Optional[bytes] = None,
) -> httpx.Response:
    """Opens a preview URL. Its host need not resolve here: it goes to loopback, as
    browsers do for ``*.localhost``."""
    parsed = httpx.URL(url)
    local = parsed.copy_with(host="127.0.0.1")
    host = parsed.netloc.decode()
    with httpx.Client(follow_redirects=False, trust_env=False) as client:
        return client.request(method, local, headers={"Host": host, **(headers or {})}, timeout=timeout, content=content)
