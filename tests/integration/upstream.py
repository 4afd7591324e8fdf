"""A registry from which the bases of images come."""

from __future__ import annotations

from dataclasses import dataclass

from tests import registry_fixture


@dataclass
class Upstream:
    """A registry with the repository `base`, whose tags are small trees."""

    registry: registry_fixture.Registry
    tree: bytes

    @property
    def base(self) -> str:
        return f"{self.registry.host}/base"

    def push(self, tag: str, text: str = "", *, repository: str = "base", **env: str) -> str:
        """Put a tag there; returns its digest. `text` makes it another image."""
        new = registry_fixture.layer(registry_fixture.member("root/upstream", text.encode()))
        config = {"Env": ["PATH=/usr/bin:/bin", *(f"{name}={value}" for name, value in env.items())]}
        return registry_fixture.push_image(self.registry, repository, tag, [self.tree, new], config).digest
