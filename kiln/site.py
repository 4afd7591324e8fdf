"""A site profile: where things are on this machine, and how the network is reached from it.

Owns `sites/NAME.yaml`, every path of Kiln outside the checkout, and the variables that carry proxies,
certificates and package indexes into a container:

    <images>/           published images                          KILN_IMAGES in the environment wins
    <cache>/v1/blobs    downloaded layers of bases, by digest     KILN_CACHE in the environment wins
    <cache>/v1/enroot   enroot's own cache
    <cache>/v1/logs     logs of builds
    <cache>/v1/reports  what rebuilds came to
    <cache>/v1/packages what layers download of packages, a folder for each user: see kiln.packagecache
    <scratch>/work      private folders of builds   (<cache>/v1/… where a profile has no scratch)
    <scratch>/trees     the layer store's local tier
    <shared>/v1         its shared tier, where a profile has one
    <cache>/v1/jobs     jobs and schedules, a folder for each user: see kiln.ledger, kiln.schedules

Must not make folders or look at the network. What a profile sets for building never stays in an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from kiln import document
from kiln.document import Model, Number, Switch
from kiln.errors import UsageError
from kiln.fields import Age, Line, Size, refuse_newer
from kiln.problems import did_you_mean, quote
from kiln.resources import SiteJobs
from kiln.sitefields import (
    Distribution,
    DriverVersion,
    ExistingFile,
    Expanded,
    OwnName,
    SiteMount,
    SitePath,
    SiteReading,
    SiteUrl,
    StartMount,
    StartVariable,
    is_file,
)

FORMAT = 1
DEFAULT_SITE = "local"
HINT = "sites/local.yaml is a profile with comments"

DAY, GIGABYTE = 86_400, 10**9  # seconds, bytes
_LAYOUT = "v1"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
# The first of these that names a file is the caller's bundle. The others name it too, inside a container, but
# on the caller's side they may hold a few certificates only.
_CA_SOURCES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
_CA_VARIABLES = (
    *_CA_SOURCES,
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
)
# What the machine itself trusts, a company's own authority included: on Debian, on Red Hat.
_SYSTEM_BUNDLES = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))
_LOGIN = re.compile(r"//([^/?#]*)@")


# --- models ------------------------------------------------------------------------------------


class Proxies(Model):
    """Proxies for building, and for Kiln's own downloads."""

    http: SiteUrl = Field(default="", description="For http:// addresses.")
    https: SiteUrl = Field(default="", description="For https:// addresses.")
    no: Expanded = Field(
        default="", description="Hosts that are reached without: names, domains, networks, with commas."
    )


class Registry(Model):
    """How one registry is reached."""

    mirror: SiteUrl = Field(description="The address to ask in its place, with http:// or https://.")


class Squashfs(Model):
    """How images are packed."""

    level: Annotated[Number, Field(ge=1, le=22)] = Field(
        default=3, description="The level of zstd, 1 (fast) to 22 (small)."
    )


class Indexes(Model):
    """Where pip and uv find packages."""

    pip: SiteUrl = Field(default="", description="The index in place of PyPI.")
    extra: tuple[SiteUrl, ...] = Field(default=(), description="Further indexes.")


class Layers(Model):
    """The layer store: what is kept of each build for the next one."""

    shared: SitePath | None = Field(
        default=None,
        description="The shared tier: a folder that all nodes see, such as on a parallel file system.",
    )
    trusted: tuple[Line, ...] = Field(
        default=(),
        description="Users whose bases and layers are taken from the shared tier, beside your own.",
    )
    stale_after: Age | None = Field(
        default=None,
        description="After this time (`7d`) apt, pip and uv layers that don't name exact versions run again.",
    )
    keep_unused: Age = Field(
        default=30 * DAY, description="`gc` removes what no build has used for this time."
    )
    max_size: Size = Field(
        default=100 * GIGABYTE,
        description="`gc` removes the least recently used until this is enough: `100GB`.",
    )


class Signing(Model):
    """Signatures of records, by `ssh-keygen -Y`: see docs/record.md."""

    key: SitePath | None = Field(
        default=None,
        description="The key that signs what is published: a private key, or a public one in an agent.",
    )
    allowed_signers: SitePath | None = Field(
        default=None, description="Whose signatures count: ssh-keygen(1), 'ALLOWED SIGNERS'."
    )
    required: Switch = Field(
        default=False, description="Publish nothing unsigned, and let nothing unsigned pass `verify`."
    )


class Start(Model):
    """What the lines that start an image have on this site, printed as they are."""

    mounts: tuple[StartMount, ...] = Field(default=(), description="`SOURCE:/TARGET`.")
    env: tuple[StartVariable, ...] = Field(
        default=(), description="`NAME`, to pass the caller's variable, or `NAME=VALUE`."
    )


class Retention(Model):
    """What `invoke gc --store` leaves of published images."""

    keep_last: Annotated[Number, Field(ge=1)] = Field(
        default=3, description="This many of the last versions of each image stay."
    )
    grace: Age = Field(default=30 * DAY, description="Whatever is younger stays: `30d`.")
    trash: Age = Field(default=14 * DAY, description="How long a removed version can be put back: `14d`.")


class Rebuild(Model):
    """What is due, and who is told of rebuilds: see docs/rebuild.md."""

    min_tag_age: Age | None = Field(default=None, description="How old a new tag must be to count: `14d`.")
    smoke_after: Age = Field(
        default=30 * DAY, description="After this time the smoke hooks of an image are due again."
    )
    reports: SitePath | None = Field(
        default=None, description="Where reports are kept; else in `cache`, under `v1/reports`."
    )
    mail: tuple[Line, ...] = Field(default=(), description="Who gets a mail when a rebuild fails.")
    mail_server: Line = Field(default="localhost:25", description="The server that takes it: `HOST:PORT`.")
    webhook: SiteUrl = Field(
        default="", description="An address that gets each report as JSON, by POST; `${NAME}` is yours."
    )


class Pbs(Model):
    """What a job's first lines have on this site."""

    cpus_per_gpu: Annotated[Number, Field(ge=1)] = Field(description="Cores that go with a GPU.")
    memory_per_gpu: Line = Field(description="Memory that goes with a GPU, as PBS writes it: `235gb`.")
    walltime: Line = Field(default="01:00:00", description="The job's time, quoted: `'01:00:00'`.")
    queue: Line = Field(default="", description="The queue, where jobs must name one.")
    project: Line = Field(default="", description="The project; without it the lines have a place for it.")
    env_file: Line = Field(
        default="", description="The file for `enroot_env_file`, where the site's jobs have one."
    )


class Site(Model):
    """One site: `sites/NAME.yaml`."""

    model_config = ConfigDict(title="Site profile")

    format: Annotated[Number, WithJsonSchema({"const": FORMAT})] = Field(
        description="The format's version: `1`."
    )
    name: OwnName = Field(description="The file's name, without `.yaml`.")
    description: Line = Field(default="", description="What machine this is, in a line.")
    images: SitePath = Field(description="Where published images are.")
    cache: SitePath = Field(description="Where downloads and logs are kept between builds.")
    scratch: SitePath | None = Field(
        default=None, description="A local disk for the work of builds; else it is in `cache`."
    )
    containers: SitePath | None = Field(
        default=None, description="Where enroot keeps the containers of a job, for `pull --create` in one."
    )
    from_environment: Switch = Field(
        default=False,
        description="Take proxies, certificates and indexes that aren't set here from the environment.",
    )
    proxies: Proxies = Field(default=Proxies(), description="Proxies for building.")
    ca_bundle: ExistingFile | None = Field(
        default=None, description="Certificates that layers shall trust, in one file."
    )
    mounts: tuple[SiteMount, ...] = Field(
        default=(), description="What every layer sees: `SOURCE:TARGET[:rw]`."
    )
    registries: Mapping[str, Registry] = Field(
        default={}, description="Registries that are reached in another way."
    )
    runtime: Literal["auto", "enroot", "embedded"] = Field(
        default="auto", description="`auto`: enroot where it is."
    )
    unpack: Literal["kiln", "enroot"] = Field(
        default="kiln",
        description="Who unpacks the layers of a base from a registry where the runtime is enroot.",
    )
    squashfs: Squashfs = Field(default=Squashfs(), description="How images are packed.")
    mirrors: Mapping[Distribution, SiteUrl] = Field(
        default={}, description="Mirrors of `debian` and `ubuntu` that `debootstrap:` bases are made from."
    )
    indexes: Indexes = Field(default=Indexes(), description="Where pip and uv find packages.")
    layers: Layers = Field(default=Layers(), description="What is kept of each build for the next one.")
    store: Retention = Field(default=Retention(), description="How long published images stay.")
    rebuild: Rebuild = Field(default=Rebuild(), description="What is due, and who is told.")
    scheduler: Literal["none", "pbs", "slurm"] = Field(
        default="none", description="What runs jobs here: `build`, `rebuild` and `smoke` go to it."
    )
    jobs: SiteJobs = Field(default=SiteJobs(), description="What jobs ask the scheduler for: docs/jobs.md.")
    schedule: Literal["cron", "systemd", "job"] = Field(
        default="cron",
        description="What `invoke schedule` makes; `job`: a job that submits itself again.",
    )
    pbs: Pbs | None = Field(default=None, description="For the lines of a PBS job.")
    driver: DriverVersion = Field(
        default="",
        description="The NVIDIA driver of the nodes that images run on: `'550.54.15'`; else this node's.",
    )
    signing: Signing = Field(default=Signing(), description="Signatures of what is published.")
    start: Start = Field(default=Start(), description="For the lines that start an image.")

    @model_validator(mode="before")
    @classmethod
    def _known_format(cls, data: object) -> object:
        return refuse_newer(data, FORMAT)

    @property
    def blobs(self) -> Path:
        return self.cache / _LAYOUT / "blobs"

    @property
    def enroot_cache(self) -> Path:
        return self.cache / _LAYOUT / "enroot"

    @property
    def logs(self) -> Path:
        return self.cache / _LAYOUT / "logs"

    @property
    def reports(self) -> Path:
        return self.rebuild.reports or self.cache / _LAYOUT / "reports"

    @property
    def packages(self) -> Path:
        return self.cache / _LAYOUT / "packages"

    @property
    def jobs_folder(self) -> Path:
        """Of all users; each has one of their own in it."""
        return self.cache / _LAYOUT / "jobs"

    @property
    def work(self) -> Path:
        return self._local / "work"

    @property
    def trees(self) -> Path:
        """In the file system of `work`: a new layer is moved from there by a rename."""
        return self._local / "trees"

    @property
    def shared(self) -> Path | None:
        return self.layers.shared / _LAYOUT if self.layers.shared else None

    @property
    def _local(self) -> Path:
        return self.scratch or self.cache / _LAYOUT

    def proxy_environment(self) -> dict[str, str]:
        """The proxy variables, each in lower and upper case: programs differ in which they read."""
        values = {"http": self.proxies.http, "https": self.proxies.https, "no": self.proxies.no}
        lower = {f"{name}_proxy": value for name, value in values.items() if value}
        return {**lower, **{name.upper(): value for name, value in lower.items()}}

    def ca_environment(self, path_inside: str) -> dict[str, str]:
        """The variables that name the CA bundle as `path_inside` to programs; none without a bundle."""
        return dict.fromkeys(_CA_VARIABLES, path_inside) if self.ca_bundle else {}

    def index_environment(self) -> dict[str, str]:
        """The variables that name the package indexes to pip and uv."""
        values = {
            "PIP_INDEX_URL": self.indexes.pip,
            "PIP_EXTRA_INDEX_URL": " ".join(self.indexes.extra),
            "UV_DEFAULT_INDEX": self.indexes.pip,
            "UV_INDEX": " ".join(self.indexes.extra),
        }
        return {name: value for name, value in values.items() if value}

    def secrets(self) -> tuple[str, ...]:
        """The passwords in the site's addresses, as written and decoded, longest first, for masking."""
        urls = [
            self.proxies.http,
            self.proxies.https,
            self.indexes.pip,
            *self.indexes.extra,
            *self.mirrors.values(),
        ]
        found = {secret for url in urls for secret in _secrets_in(url)}
        found |= {secret for registry in self.registries.values() for secret in _secrets_in(registry.mirror)}
        return tuple(sorted(found, key=lambda secret: (-len(secret), secret)))


def _secrets_in(address: str) -> set[str]:
    login = _LOGIN.search(address)
    if not login:
        return set()
    user, _, password = login[1].partition(":")
    secret = password or user  # a user alone is a token
    return {secret, unquote(secret)} - {""}


# --- reading -----------------------------------------------------------------------------------


def load(name: str | None, project_root: Path, environ: Mapping[str, str]) -> Site:
    """The site's profile: of `name`, else of KILN_SITE, else `local`.

    Relative paths in it, in KILN_IMAGES and in KILN_CACHE start from `project_root`. Raises UsageError
    for an unknown site, ManifestError with all of a profile's mistakes.
    """
    wanted = name or environ.get("KILN_SITE") or DEFAULT_SITE
    folder = project_root / "sites"
    known = sorted(path.stem for path in folder.glob("*.yaml") if _NAME.fullmatch(path.stem))
    if wanted not in known:
        raise UsageError(f"there is no site {quote(wanted)} in {folder}", did_you_mean(wanted, known))
    seen = SiteReading(name=wanted, root=project_root, environ=environ)
    site = document.load(folder / f"{wanted}.yaml", Site, seen, HINT)
    return _with_environment(site, environ) if site.from_environment else site


def bare(images: Path, environ: Mapping[str, str]) -> Site:
    """The site of a caller who has no profile, and reads from the folder `images`."""
    cache = Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/")) / ".cache") / "kiln"
    return _with_environment(Site(format=FORMAT, name=DEFAULT_SITE, images=images, cache=cache), environ)


def _with_environment(site: Site, environ: Mapping[str, str]) -> Site:
    def words(*names: str) -> list[str]:
        return [word for name in names for word in environ.get(name, "").split()]

    proxies = {
        name: getattr(site.proxies, name) or "".join(words(f"{name}_proxy", f"{name.upper()}_PROXY")[:1])
        for name in Proxies.model_fields
    }
    index = _usable(words("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"))
    extra = _usable(words("PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"))
    indexes = {"pip": site.indexes.pip or "".join(index[:1]), "extra": site.indexes.extra or extra}
    bundles = [Path(environ[name]).absolute() for name in _CA_SOURCES if environ.get(name)]
    bundles += _SYSTEM_BUNDLES
    return site.model_copy(
        update={
            "proxies": site.proxies.model_copy(update=proxies),
            "indexes": site.indexes.model_copy(update=indexes),
            "ca_bundle": site.ca_bundle or next((path for path in bundles if is_file(path)), None),
        }
    )


def _usable(urls: Iterable[str]) -> tuple[str, ...]:
    """The indexes that a container can reach too: a folder of the caller's is not there."""
    # uv lets an index have a name in front: NAME=URL. The same index for pip and for uv is asked once.
    plain = dict.fromkeys(re.sub(r"^[\w-]+=", "", text) for text in urls)
    return tuple(text for text in plain if re.match(r"https?://", text))
