"""What is due: every image's state, with all that has to be asked for it asked once.

Owns the order: what each image needs to know, the questions of all together, then each image's reasons. What
a registry or an index doesn't answer is not known, never up to date.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from kiln import due, inputchanges, lockfile, newerpackages, several, tagcheck, testruns
from kiln.bases import Found
from kiln.context import Context
from kiln.drivergate import driver_of
from kiln.due import Reason, State
from kiln.errors import Due, KilnError, NotKnown, StoreError
from kiln.graph import Graph
from kiln.locked import Lock
from kiln.manifest import Manifest
from kiln.newerpackages import File, Question
from kiln.record import Record
from kiln.runtime import choice
from kiln.tagcheck import Answer, Repository
from kiln.yamltree import read

LOCAL = ("image", "oci", "docker-archive", "sqsh")
MOST_NAMED = 8


@dataclass(frozen=True)
class Image:
    """One image with its version: what is compared. `ran` is the time of its last smoke run."""

    manifest: Manifest
    record: Record
    ran: str


@dataclass(frozen=True)
class Answers:
    """What registries, indexes and files said, and for each question without an answer why."""

    tags: Mapping[Repository, Answer]
    bases: Mapping[str, Found | KilnError]
    files: Mapping[tuple[str, str], Sequence[File] | KilnError]
    debs: Mapping[str, Mapping[str, str] | KilnError]


def examine(context: Context, names: Sequence[str]) -> list[State]:
    """The state of each image, parents before those that are built on them."""
    graph = several.graph_of(context)
    states: dict[str, State] = {}
    images: dict[str, Image] = {}
    for name in names:
        try:
            images[name] = _image(context, graph, name)
        except StoreError:
            states[name] = State(name, notes=(f"not published here; to build it: invoke build {name}",))
        except KilnError as error:
            states[name] = State(name, unknown=(error.message,))
    with context.ui.step(f"ask for {len(images)} images") as step:
        answers = _ask(context, list(images.values()))
        step.outcome = f"{len(answers.tags)} repositories of registries"
    for name, image in images.items():
        states[name] = _state(context, image, answers)
    return _with_parents(graph, [states[name] for name in names])


def _image(context: Context, graph: Graph, name: str) -> Image:
    manifest = graph.node(name).manifest
    graph.ancestors(name)
    store = context.store
    entry = store.find(name)
    if entry.record is None:
        raise KilnError(entry.problem)
    runs = testruns.read(store.tests(name, entry.version))
    # Of a thousand packages of 200 images those are kept that are asked for.
    record = entry.record
    if manifest.base.kind != "debootstrap":
        record = replace(record, packages=())
    return Image(manifest, record, runs[-1].time if runs else record.built)


def _ask(context: Context, images: Sequence[Image]) -> Answers:
    asker = tagcheck.asker(context.asking, context.site, context.architecture)
    wanted = tagcheck.wanted(
        (image.manifest.base, image.record.base_digest)
        for image in images
        if image.manifest.base.text == image.record.base
    )
    indexes = newerpackages.Indexes(
        context.asking_transport, context.fetch, context.site.mirrors, context.architecture
    )
    debs: dict[str, set[str]] = {}
    for image in images:
        if names := newerpackages.of_apt(image.manifest, image.record):
            debs.setdefault(image.record.system, set()).update(names)
    return Answers(
        tags=asker.ask(wanted),
        bases=dict(_bases(context, images)),
        files=indexes.python(each for image in images for each in _questions(context, image)),
        debs={system: indexes.apt(newerpackages.SUITES[system], names)
              for system, names in debs.items() if system in newerpackages.SUITES},
    )  # fmt: skip


def _bases(context: Context, images: Sequence[Image]) -> Iterator[tuple[str, Found | KilnError]]:
    """Where bases lead that are images of ours, or files: each is looked at once."""
    finder = context.finder()
    for base in {image.manifest.base.text: image.manifest.base for image in images}.values():
        if base.kind in LOCAL:
            try:
                yield base.text, finder.find(base)
            except KilnError as error:
                yield base.text, error


def _questions(context: Context, image: Image) -> Iterator[Question]:
    return newerpackages.questions(image.manifest, image.record, context.site.indexes.pip)


def _state(context: Context, image: Image, answers: Answers) -> State:
    manifest, record = image.manifest, image.record
    reasons: list[Reason] = []
    unknown: list[str] = []
    notes: list[str] = []
    if record.smoke_state == "incomplete":
        notes.append(f"required hooks have not run yet: invoke smoke {manifest.name}")
    base = manifest.base
    answer = answers.tags.get((base.registry, base.repository))
    if answer:
        found = due.of_tag(manifest, record, answer)
        reasons, unknown, notes = reasons + found[0], unknown + found[1], notes + found[2]
    there = answers.bases.get(base.text)
    if isinstance(there, KilnError):
        unknown.append(there.message)
    elif there and base.text == record.base:
        reasons += due.of_base(record, base.text, there.digest, there.label, base.kind)
    _packages(context, image, answers, reasons, unknown)
    try:
        reasons += _inputs(context, manifest).reasons(record)
    except KilnError as error:
        unknown.append(error.message)
    after = float(context.site.rebuild.smoke_after)
    now = datetime.now(timezone.utc)
    reasons += due.of_smoke(record, image.ran, driver_of(context.site), after, now)
    return State(
        manifest.name,
        record.version,
        tuple(reasons),
        tuple(unknown),
        tuple(notes),
        record.seconds,
        record.size,
    )


def _packages(
    context: Context, image: Image, answers: Answers, reasons: list[Reason], unknown: list[str]
) -> None:
    found = []
    for question in _questions(context, image):
        listed = answers.files[question.index, question.name]
        if isinstance(listed, KilnError):
            unknown.append(f"{question.requirement.name}: {listed.message}")
        elif newer := newerpackages.newer(question, listed):
            found.append(newer)
    have = newerpackages.of_apt(image.manifest, image.record)
    newest = answers.debs.get(image.record.system) if have else {}
    if newest is None:
        unknown.append(f"newer Debian packages: {image.record.system or 'its system'} is not known to Kiln")
    elif isinstance(newest, KilnError):
        unknown.append(newest.message)
    else:
        found += newerpackages.newer_debs(have, newest)
    reasons += due.of_packages(found)


def _inputs(context: Context, manifest: Manifest) -> inputchanges.Inputs:
    lock: Lock | None = lockfile.load(context.manifests, manifest.name)
    path: Path = lockfile.path_of(context.manifests, manifest.name)
    text = read(path, lockfile.SIZE_LIMIT) if lock else ""
    packing = choice.packing(context.site)
    return inputchanges.Inputs(manifest, lock, text, context.hooks, context.architecture, packing)


def _with_parents(graph: Graph, states: Sequence[State]) -> list[State]:
    """What is built on an image that will be rebuilt is due, too: it gets to know after that."""
    known = {state.name: state for state in states}
    sound = [state.name for state in states if state.version]
    for name in graph.order(sound):
        for parent in graph.parents(name):
            if parent in known and known[parent].to_rebuild:
                state = known[name]
                reasons = (*state.reasons, due.of_parent(known[parent]))
                known[name] = replace(state, reasons=reasons)
    return [known[state.name] for state in states]


def conclude(states: Sequence[State]) -> None:
    """Raise `Due` where an image is due, `NotKnown` where something could not be found out."""
    found = [state.name for state in states if state.reasons]
    if found:
        raise Due(f"{len(found)} of {len(states)} images are due: {_few(found)}", "to do it: invoke rebuild")
    unknown = [state.name for state in states if state.unknown]
    if unknown:
        raise NotKnown(f"{len(unknown)} of {len(states)} images: not known whether they are due: "
                       f"{_few(unknown)}", "run it again when all can be asked")  # fmt: skip


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
