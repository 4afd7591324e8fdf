"""Why an image is due: every reason, with the evidence for it.

Owns the reasons and what mends each. Pure: what registries, indexes and the store say is handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from kiln.manifest import Manifest
from kiln.record import Record
from kiln.tagcheck import Answer

BASE_MOVED, BASE_GONE, NEWER_TAG, PACKAGES = "base-moved", "base-gone", "newer-tag", "packages"
MANIFEST, FILES, HOOK, LOCK, PARENT, SMOKE = "manifest", "files", "hook", "lock", "parent", "smoke"
REBUILD, RETEST, BUMP = "rebuild", "smoke", "bump"
"""What mends a reason: building anew, running the hooks again, or another tag in the manifest."""
MOST_NAMED = 8


@dataclass(frozen=True)
class Reason:
    """One reason: `text` says it with its evidence, `evidence` has that for programs."""

    kind: str
    text: str
    remedy: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        return {"kind": self.kind, "text": self.text, "remedy": self.remedy, "evidence": dict(self.evidence)}


@dataclass(frozen=True)
class State:
    """How one image stands: `version` is what a user gets, '' for one that isn't published.

    `unknown` says what could not be found out, `notes` what is no reason to do anything.
    """

    name: str
    version: str = ""
    reasons: tuple[Reason, ...] = ()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    size: int = 0

    @property
    def to_rebuild(self) -> bool:
        return any(reason.remedy == REBUILD for reason in self.reasons)

    @property
    def to_test(self) -> bool:
        return any(reason.remedy == RETEST for reason in self.reasons)

    def to_data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "due": bool(self.reasons),
            "reasons": [reason.to_data() for reason in self.reasons],
            "not_known": list(self.unknown),
            "notes": list(self.notes),
        }


def of_tag(manifest: Manifest, record: Record, answer: Answer) -> tuple[list[Reason], list[str], list[str]]:
    """Reasons, what isn't known, and notes: from what the base's repository said."""
    base, reasons, notes = manifest.base, list[Reason](), list[str]()
    place = f"{base.registry}/{base.repository}"
    if base.tag in answer.digests and not base.digest:
        reasons += _moved(place, base.tag, record, answer)
    newer = answer.newer.get(base.tag)
    if newer:
        aged = "age not known" if newer.days is None else f"{newer.days} days old"
        said = f"driver: {newer.driver.state} ({newer.driver.reason})"
        evidence = {
            "from": base.tag, "to": newer.tag, "digest": newer.digest, "days": newer.days,
            "driver": vars(newer.driver),
        }  # fmt: skip
        text = f"{place}:{newer.tag} is newer than {base.tag}: {aged}; {said}"
        reasons.append(Reason(NEWER_TAG, text, BUMP, evidence))
    if answer.too_new.get(base.tag):
        notes.append(f"too new to count: {', '.join(answer.too_new[base.tag])}")
    unknown = [f"{place}: {answer.problem}"] if answer.problem else []
    return reasons, unknown, notes


def _moved(place: str, tag: str, record: Record, answer: Answer) -> list[Reason]:
    now = answer.digests[tag]
    if now is None:
        return [Reason(BASE_GONE, f"{place}:{tag} is gone from its registry", BUMP, {"tag": tag})]
    if now == record.base_digest or answer.platform.get(tag, now) == record.platform_digest:
        return []
    evidence = {"tag": tag, "from": record.base_digest, "to": now}
    text = f"{place}:{tag} moved: {record.base_digest} -> {now}"
    return [Reason(BASE_MOVED, text, REBUILD, evidence)]


def of_base(record: Record, text: str, digest: str, version: str, kind: str) -> list[Reason]:
    """From where a base that is in no registry leads now: one of ours, or a file."""
    if digest == record.base_digest:
        return []
    evidence = {"base": text, "from": record.base_digest, "to": digest, "version": version}
    if kind == "image":
        return [Reason(PARENT, f"{text} is at {version} now: {digest}", REBUILD, evidence)]
    return [Reason(BASE_MOVED, f"{text} changed: {record.base_digest} -> {digest}", REBUILD, evidence)]


def of_parent(parent: State) -> Reason:
    """For an image whose parent will be rebuilt."""
    kinds = [reason.kind for reason in parent.reasons if reason.remedy == REBUILD]
    return Reason(
        PARENT, f"its parent {parent.name} is due: {', '.join(kinds)}", REBUILD, {"parent": parent.name}
    )


def of_packages(found: Sequence[tuple[str, str, str]]) -> list[Reason]:
    """From packages with a newer version: name, version in the image, version at the index."""
    if not found:
        return []
    named = [f"{name} {before} -> {after}" for name, before, after in found]
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    evidence = {"packages": [{"name": n, "from": before, "to": after} for n, before, after in found]}
    return [Reason(PACKAGES, f"newer packages: {', '.join(named[:MOST_NAMED])}{more}", REBUILD, evidence)]


def of_smoke(record: Record, last_run: str, driver: str, after: float, now: datetime) -> list[Reason]:
    """From the last run of the hooks: `last_run` is its time, `after` seconds, `driver` the site's."""
    if not record.smoke:
        return []
    ran = datetime.fromisoformat(last_run.replace("Z", "+00:00"))
    reasons = []
    days = (now - ran.astimezone(timezone.utc)).total_seconds() / 86_400
    if days * 86_400 > after:
        text = f"the last smoke run was {days:.0f} days ago ({last_run})"
        reasons.append(Reason(SMOKE, text, RETEST, {"time": last_run, "days": int(days)}))
    elif days < -1:
        # The clock was wrong then, or is now: that run proves nothing.
        text = f"the last smoke run has a time to come ({last_run}): a clock was changed"
        reasons.append(Reason(SMOKE, text, RETEST, {"time": last_run, "days": int(days)}))
    drivers = {each.hardware.driver for each in record.smoke if each.hardware and each.hardware.driver}
    if driver and drivers and driver not in drivers:
        was = ", ".join(sorted(drivers))
        text = f"the last smoke run was with driver {was}; the site's is {driver}"
        reasons.append(Reason(SMOKE, text, RETEST, {"from": was, "to": driver}))
    return reasons
