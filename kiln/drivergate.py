"""The gate before a build: nobody waits an hour for an image that the site's driver can't run.

Owns where an image's needs and the site's driver are found; what they mean to each other is `kiln.driver`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kiln import driver, hardware
from kiln.driver import Needs, Verdict
from kiln.errors import KilnError, VerifyError
from kiln.hardware import Hardware
from kiln.record import Record
from kiln.site import Site
from kiln.store import Store

# `show` asks for a published image's driver, and needn't wait for these to be read.
if TYPE_CHECKING:
    from kiln.bases import Found
    from kiln.plan import Plan

MOST_TAGS = 6


def of_base(found: Found, site: Site) -> Verdict:
    """Whether the site's driver, else this node's, runs images on a base."""
    return driver.judge(_needs(found, site), driver_of(site), driver.table())


def of_image(config: Mapping[str, Any], site: Site) -> Verdict:
    """Whether it runs an image in a registry, by its config."""
    return driver.judge(_said(config), driver_of(site), driver.table())


def of_record(record: Record, site: Site) -> Verdict:
    """Whether it runs a published image."""
    return driver.judge(driver.needs(record.environment, {}), driver_of(site), driver.table())


def of_node(record: Record, site: Site, here: Hardware) -> Verdict:
    """Whether this node runs it; on one without a driver, such as a login node, the site's."""
    return driver.judge(driver.needs(record.environment, {}), here.driver or site.driver, driver.table())


def refuse(plan: Plan, site: Site) -> None:
    """Raise `VerifyError` for an image that the driver can't run, with the tags that it can."""
    if plan.driver is None or plan.driver.state != driver.TOO_OLD:
        return
    base, have = plan.base.base, driver_of(site)
    image = f"{base.registry}/{base.repository}"
    tags = driver.fitting(image, have, driver.table())
    hint = "take an older base, or set 'driver' in the site profile to that of the nodes where it will run"
    if tags:
        hint = f"write 'base: {image}:{tags[0]}', the newest that fits; or see 'driver' in docs/sites.md"
    raise VerifyError(
        f"{plan.manifest.name} would not run: {plan.driver.reason}",
        hint,
        [f"fits driver {have}: {image}:{tag}" for tag in tags[:MOST_TAGS]],
    )


def driver_of(site: Site) -> str:
    """The driver that images run with here, '' where none is known."""
    return site.driver or hardware.driver()


def _needs(found: Found, site: Site) -> Needs:
    """From an image's config, else from the record of one of ours; other bases say nothing beforehand."""
    if found.resolved:
        return _said(found.resolved.config)
    if found.base.kind == "image":
        return _recorded(found, site)
    return Needs()


def _said(config: Mapping[str, Any]) -> Needs:
    section = config.get("config")
    known: Mapping[str, Any] = section if isinstance(section, Mapping) else {}
    environment = [str(each).partition("=") for each in known.get("Env") or ()]
    labels = known.get("Labels")
    return driver.needs(
        {name: value for name, _, value in environment},
        {str(name): str(value) for name, value in labels.items()} if isinstance(labels, Mapping) else {},
    )


def _recorded(found: Found, site: Site) -> Needs:
    base = found.base
    try:
        entry = Store(site.images).find(f"{base.name}:{base.version}" if base.version else base.name)
    except KilnError:
        return Needs()
    return driver.needs(entry.record.environment if entry.record else {}, {})
