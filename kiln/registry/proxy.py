"""Which proxy a URL goes through.

Owns the reading of `no_proxy`. requests' own reading asks the process's environment and changes it
for a moment, which several threads at once don't survive.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit


def choose_proxy(url: str, proxies: Mapping[str, str]) -> str | None:
    """The proxy for `url` from a mapping with the keys http, https, all and no_proxy."""
    parts = urlsplit(url)
    if _excluded(parts.hostname or "", parts.port, proxies.get("no_proxy", "")):
        return None
    return proxies.get(parts.scheme) or proxies.get("all") or None


def without_login(proxy: str) -> str:
    return re.sub(r"//[^/@]*@", "//", proxy)


def _excluded(host: str, port: int | None, no_proxy: str) -> bool:
    for rule in filter(None, (part.strip().lower() for part in re.split(r"[,\s]", no_proxy))):
        if rule == "*" or _in_network(host, rule):
            return True
        name, _, wanted_port = rule.rpartition(":") if re.search(r":\d+$", rule) else (rule, "", "")
        if wanted_port and wanted_port != str(port):
            continue
        name = name.lstrip("*").lstrip(".")
        if host == name or host.endswith(f".{name}"):
            return True
    return False


def _in_network(host: str, rule: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule, strict=False)
    return False
