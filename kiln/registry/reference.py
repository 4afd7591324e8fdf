"""The name of an image in a registry.

Owns the value alone; the manifest's parser makes it, the client reads it. Does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")
HUB_API = "registry-1.docker.io"


@dataclass(frozen=True)
class Reference:
    """`registry/repository:tag@digest`; the digest decides where both are given."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def wanted(self) -> str:
        """What to ask the registry for."""
        return self.digest or self.tag or "latest"

    def canonical(self) -> Reference:
        """Docker Hub under the name that answers requests, with the `library/` that it implies."""
        if self.registry not in HUB_HOSTS:
            return self
        repository = self.repository if "/" in self.repository else f"library/{self.repository}"
        return Reference(HUB_API, repository, self.tag, self.digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"
