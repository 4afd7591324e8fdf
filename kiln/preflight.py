"""What must be there before a build touches anything: tools, rights, space.

Owns which of the doctor's checks a plan needs, and says all that is missing at once.
"""

from __future__ import annotations

from pathlib import Path

from kiln import bases, doctor, layersecrets, publish, signature
from kiln.check import MISSING, OK, Check
from kiln.companions import Sign
from kiln.context import Context
from kiln.errors import EnvironmentMissing, SpaceError
from kiln.files import free_bytes
from kiln.plan import Need, Plan
from kiln.ui import size_text


def check(context: Context, plan: Plan) -> None:
    """Raise `EnvironmentMissing`, `StoreError`, `SpaceError` or, for a secret, `UsageError` for a plan
    that can't work here.
    """
    check_tools(context, plan)
    layersecrets.check(plan.layers, context.environ)
    publish.check_writable(context.store, plan.manifest.name)
    _check_space(plan)


def check_tools(context: Context, plan: Plan) -> None:
    """Raise `EnvironmentMissing` where layers can't run here."""
    missing = [item for item in _checks(context, plan) if item.state == MISSING]
    if missing:
        raise EnvironmentMissing(
            f"this machine can't build {plan.manifest.name} yet",
            "mend these, then see: invoke doctor",
            [
                f"{item.name}: {item.detail}; needed for {item.purpose}. Type: {item.remedy}"
                for item in missing
            ],
        )


def signing(context: Context) -> Sign | None:
    """What signs the record, None where nothing does; tried, so that a long build doesn't end at its key.

    Raises `EnvironmentMissing` where the site wants everything signed and its key can't be used.
    """
    site = context.site
    if not site.signing.key:
        if site.signing.required:
            raise EnvironmentMissing(
                f"the site {site.name} publishes nothing unsigned, and names no key",
                f"set 'signing: key' in sites/{site.name}.yaml; see docs/record.md, 'Signatures'",
            )
        return None
    key = site.signing.key

    def sign(data: bytes) -> bytes:
        return signature.sign(data, key, context.environ)

    try:
        sign(b"a try")
    except EnvironmentMissing as error:
        if site.signing.required:
            raise
        context.ui.warn(f"what is published will have no signature: {error.message}")
        return None
    return sign


def _checks(context: Context, plan: Plan) -> list[Check]:
    checks = [
        doctor.squashfs_tools(context),
        doctor.folder("cache", context.site.cache, "downloads and logs"),
    ]
    unpacker = bases.unpacker(plan.base, plan.runtime, context.site.unpack)
    if plan.runtime == "embedded" or unpacker == "kiln":
        pulled = plan.runtime == "enroot" and plan.base.base.kind == "registry"
        unless = " (unless the site profile says 'unpack: enroot')" if pulled else ""
        what = "running layers" if plan.runtime == "embedded" else f"unpacking the base{unless}"
        bwrap = doctor.tool(context, "bwrap", "bubblewrap", what)
        checks += [bwrap] if bwrap.state == MISSING else [bwrap, doctor.user_namespaces(context)]
    if plan.base.base.kind == "debootstrap":
        checks.append(doctor.tool(context, "mmdebstrap", "mmdebstrap", "making the base"))
    if any(item.layer.kind == "uv" for item in plan.layers):
        checks.append(doctor.uv(context))
    checks.append(doctor.ca_bundle(context))
    return [*checks, *(_mounted(mount.source) for mount in (*context.site.mounts, *plan.manifest.mounts))]


def _mounted(source: Path) -> Check:
    purpose = "layers, which have it mounted"
    if source.exists():
        return Check(f"mount {source}", OK, "is there", purpose)
    return Check(
        f"mount {source}",
        MISSING,
        "does not exist",
        purpose,
        "look at 'mounts' in the manifest and the site profile",
    )


def _check_space(plan: Plan) -> None:
    """Needs on one file system add up."""
    by_device: dict[int, list[Need]] = {}
    for need in plan.needs:
        existing = next(path for path in (need.path, *need.path.parents) if path.exists())
        by_device.setdefault(existing.stat().st_dev, []).append(need)
    short = []
    for needs in by_device.values():
        wanted, free = sum(need.size for need in needs), free_bytes(needs[0].path)
        if wanted > free:
            short += [f"{size_text(need.size)} for {need.purpose} at {need.path}" for need in needs]
            short.append(f"together {size_text(wanted)}, but {size_text(free)} are free")
    if short:
        raise SpaceError(
            f"not enough space to build {plan.manifest.name}",
            "free some (invoke gc), or set 'scratch', 'cache' or 'images' of the site to another disk",
            short,
        )
