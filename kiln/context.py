"""What every command works with: the checkout, the site, the store, the network, the caller.

Owns the wiring of modules from a site profile. Decides nothing.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import pwd
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln import __version__, manifest, site
from kiln.errors import UsageError
from kiln.layers.local import Local
from kiln.layers.shared import Shared
from kiln.layers.store import LayerStore
from kiln.manifest import Manifest
from kiln.run import Redactor, host_environment
from kiln.site import Site
from kiln.store import Store
from kiln.ui import Ui

# The network and the runtimes take longer to read than `list` takes to run: each is read when it is used.
if TYPE_CHECKING:
    from kiln.bases import Finder
    from kiln.registry.client import Client
    from kiln.registry.transport import Network, Transport
    from kiln.runtime.contract import Runtime
    from kiln.runtime.namespace import Space
    from kiln.workspace import Workspace

PATIENCE: Mapping[str, Any] = {"tries": 2, "connect_seconds": 5.0, "read_seconds": 20.0}
LARGEST_DOCUMENT = 64 << 20
OK, NOT_FOUND = 200, 404
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Context:
    """One command's surroundings. `root` is the checkout; `environ` the caller's environment.

    `target` is where images go in place of the site's folder, which bases still come from.
    """

    root: Path
    site: Site
    environ: Mapping[str, str]
    ui: Ui
    target: Path | None = None

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def hooks(self) -> Path:
        return self.root / "hooks"

    @property
    def architecture(self) -> str:
        """This machine's, as registries name it: amd64, arm64."""
        return MACHINES.get(platform.machine(), platform.machine())

    @property
    def store(self) -> Store:
        return Store(self.target or self.site.images)

    @property
    def redact(self) -> Redactor:
        return Redactor.of(self.site.secrets())

    @property
    def uv(self) -> Path:
        """The static uv that layers mount; `./bootstrap` puts it into the environment."""
        return Path(sys.prefix) / "static/bin/uv"

    @property
    def credentials_path(self) -> Path:
        """enroot's own credentials file, which serves both runtimes."""
        config = self.environ.get("ENROOT_CONFIG_PATH") or str(Path(self._config_home) / "enroot")
        return Path(config) / ".credentials"

    @cached_property
    def client(self) -> Client:
        return self._client(self._network)

    @cached_property
    def asking(self) -> Client:
        """A client for questions that may be left open: it gives up soon."""
        return self._client(dataclasses.replace(self._network, **PATIENCE))

    def _client(self, network: Network) -> Client:
        from kiln.registry.client import Client
        from kiln.registry.credentials import load as load_credentials

        credentials = load_credentials(self.credentials_path, self.environ)
        return Client(
            network,
            credentials,
            mirrors={host: registry.mirror for host, registry in self.site.registries.items()},
            notify=self.ui.warn,
        )

    @property
    def _config_home(self) -> str:
        return self.environ.get("XDG_CONFIG_HOME") or str(Path(self.environ.get("HOME", "/")) / ".config")

    @property
    def _network(self) -> Network:
        from kiln.registry.transport import Network

        proxies = {
            name: value
            for name, value in (
                ("http", self.site.proxies.http),
                ("https", self.site.proxies.https),
                ("no_proxy", self.site.proxies.no),
            )
            if value
        }
        return Network(proxies, self.site.ca_bundle, f"kiln/{__version__}")

    @cached_property
    def transport(self) -> Transport:
        """Requests to indexes and mirrors of packages."""
        from kiln.registry.transport import Transport

        return Transport(self._network, self.ui.warn)

    @cached_property
    def asking_transport(self) -> Transport:
        """The same, for questions that may be left open."""
        from kiln.registry.transport import Transport

        return Transport(dataclasses.replace(self._network, **PATIENCE), self.ui.warn)

    def load(self, name: str) -> Manifest:
        """The manifest of an image. Raises `UsageError` for an unknown name, `ManifestError` for mistakes."""
        from kiln import smoke

        return manifest.load(manifest.find(self.manifests, name), hooks=smoke.hooks(self.hooks))

    def finder(self) -> Finder:
        from kiln.bases import Finder

        return Finder(
            client=self.client,
            store=Store(self.site.images),
            folder=self.manifests,
            architecture=self.architecture,
            mirrors=self.site.mirrors,
            fetch=self._fetch,
        )

    def fetch(self, url: str) -> bytes | None:
        """A document of a package mirror, None where there is none, for questions that may be left open."""
        return self._fetched(url, self.asking_transport)

    def _fetch(self, url: str) -> bytes | None:
        return self._fetched(url, self.transport)

    def _fetched(self, url: str, transport: Transport) -> bytes | None:
        answer = transport.read(url, {}, threading.Event(), LARGEST_DOCUMENT)
        if answer.status == NOT_FOUND:
            return None
        if answer.status != OK:
            raise UsageError(f"{url} answered {answer.status}", "look at the site's mirrors and proxies")
        return answer.body

    def host_env(self) -> dict[str, str]:
        """What tools of the host get: the caller's path and home, the site's proxies and CA."""
        env = host_environment(self.environ, self.site.proxy_environment())
        if self.site.ca_bundle:
            env.update(self.site.ca_environment(str(self.site.ca_bundle)))
        return env

    def runtime(self, workspace: Workspace, wanted: str, space: Space | None = None) -> Runtime:
        from kiln.runtime import choice, namespace

        runtime = wanted or self.site.runtime
        return choice.choose(runtime, self.site, workspace, self.environ, space or namespace.HOST)

    @property
    def layer_store(self) -> LayerStore:
        """The caller's layer store on this node, with the site's shared tier."""
        shared = None
        if self.site.shared:
            trusted = frozenset(
                uid for name in self.site.layers.trusted if (uid := user_id(name)) is not None
            )
            shared = Shared(self.site.shared, trusted, host_environment(self.environ))
        local = Local(self.site.trees / str(os.getuid()))
        return LayerStore(local, shared, self.site.layers.stale_after)

    @cached_property
    def layer_store_refusal(self) -> str:
        """Why layers can't be kept here, '' where they can; tried, not guessed."""
        from kiln.runtime import namespace

        return namespace.refusal(self.site.trees, host_environment(self.environ))


def user_id(name: str) -> int | None:
    """The uid of a user's name or number; None for a name that nobody has here."""
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def open_context(
    root: Path,
    site_name: str | None,
    images: str | None,
    environ: Mapping[str, str],
    ui: Ui,
    *,
    reading: bool = False,
) -> Context:
    """Load the site and see that `root` is a checkout. Raises `UsageError`, `ManifestError`.

    For `reading` an images folder is enough, where neither a checkout nor a site is named.
    """
    place = images or environ.get("KILN_IMAGES", "")
    environ_of_site = {**environ, **({"KILN_IMAGES": images} if images else {})}
    if not (root / "manifests").is_dir():
        if not (reading and place) or site_name or environ.get("KILN_SITE"):
            raise UsageError(
                f"{root} has no folder 'manifests'", "type it in a checkout of Kiln, or set KILN_ROOT to one"
            )
        return Context(root, site.bare(Path.cwd() / place, environ), environ, ui)
    loaded = site.load(site_name, root, environ_of_site)
    return Context(root, loaded, environ, ui)
