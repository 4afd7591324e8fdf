"""Images that are built on images: who is built on whom, and in what order.

Owns the graph that the manifests' `base: image:NAME` make. Pure but for reading them: it builds nothing and
asks nobody. A manifest with mistakes is only in the way of what is built on it, so its mistakes are kept, and
raised when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kiln import manifest
from kiln.document import span_of
from kiln.errors import ManifestError, UsageError
from kiln.manifest import Manifest
from kiln.problems import Problem, Span, did_you_mean, quote, render, shown
from kiln.store import split_version
from kiln.yamltree import Table, parse, read


@dataclass(frozen=True)
class Node:
    """One image. `parent` is the image that its base names, '' for none.

    A `pinned` parent is named with its version: that one is there already and never changes, so no build has
    to be waited for.
    """

    name: str
    path: Path
    manifest: Manifest

    @property
    def parent(self) -> str:
        return self.manifest.base.name

    @property
    def pinned(self) -> bool:
        return split_version(self.manifest.base.version) is not None


@dataclass(frozen=True)
class Graph:
    """The images of one folder of manifests.

    `problems` are those manifests' that can't be read. `published` says whether the store has an image:
    one may come from another site and have no manifest here.
    """

    nodes: Mapping[str, Node]
    published: Callable[[str], bool]
    problems: Mapping[str, ManifestError] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return sorted({*self.nodes, *self.problems})

    def node(self, name: str) -> Node:
        """Raises the `ManifestError` of a manifest with mistakes, `UsageError` for a name that has none."""
        if name in self.problems:
            raise self.problems[name]
        if name not in self.nodes:
            # Names are chosen earlier, and somebody may remove a manifest at any time.
            raise UsageError(
                f"there is no manifest of {quote(name)} any more", "see what there is: invoke graph"
            )
        return self.nodes[name]

    def parents(self, name: str) -> tuple[str, ...]:
        """The images that `name` is built on directly, as their builds leave them: at most one today.

        A pinned parent isn't among them, nor one without a manifest. Raises `ManifestError` for a parent that
        nobody knows.
        """
        node = self.node(name)
        if not node.parent or node.pinned:
            return ()
        if node.parent in self.nodes or node.parent in self.problems:
            return (node.parent,)
        if self.published(node.parent):
            return ()
        raise _unknown(node, [each for each in self.names if each != name])

    def children(self, name: str) -> tuple[str, ...]:
        """The images that are built on `name` directly, sorted."""
        return tuple(
            each for each, node in sorted(self.nodes.items()) if node.parent == name and not node.pinned
        )

    def ancestors(self, name: str) -> tuple[str, ...]:
        """The images that `name` is built on, the nearest first. Raises `ManifestError`, also for a cycle."""
        chain = [name]
        while above := self.parents(chain[-1]):
            [parent] = above
            if parent in chain:
                raise _cycle([self.nodes[each] for each in chain[chain.index(parent) :]])
            chain.append(parent)
        return tuple(chain[1:])

    def order(self, names: Iterable[str]) -> list[str]:
        """`names`, each once, every one after those that it is built on; else as they are given.

        Raises `ManifestError` for a mistake in one of their manifests or of those they are built on.
        """
        wanted = list(dict.fromkeys(names))
        ordered: list[str] = []
        for name in wanted:
            for each in (*reversed(self.ancestors(name)), name):
                if each in wanted and each not in ordered:
                    ordered.append(each)
        return ordered

    def needs(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """For each of `names`, in their order, which others of them have to be built before it."""
        return {
            name: tuple(each for each in self.parents(name) if each in names) for name in self.order(names)
        }

    def with_unpublished(self, names: Iterable[str]) -> list[str]:
        """`names` in order, and before them those they are built on that were never published."""
        wanted = list(dict.fromkeys(names))
        for name in tuple(wanted):
            for parent in self.ancestors(name):
                if self.published(parent):
                    break
                wanted.append(parent)
        return self.order(wanted)

    def check(self) -> None:
        """Raise the first mistake that there is in the whole graph."""
        for name in self.names:
            self.ancestors(name)


def of(manifests: Path, published: Callable[[str], bool] = lambda _: False) -> Graph:
    """The graph of a folder of manifests; it raises nothing until it is asked."""
    nodes: dict[str, Node] = {}
    problems: dict[str, ManifestError] = {}
    for name in manifest.names(manifests):
        path = manifests / f"{name}.yaml"
        try:
            nodes[name] = Node(name, path, manifest.load(path))
        except ManifestError as error:
            problems[name] = error
    return Graph(nodes, published, problems)


# --- mistakes ----------------------------------------------------------------------------------


def _unknown(node: Node, known: Sequence[str]) -> ManifestError:
    text = f"there is no manifest of {quote(node.parent)}, and the store has no such image"
    details = list(_at_base(node, text, did_you_mean(node.parent, known)))
    hint = f"write manifests/{node.parent}.yaml, or get the image: invoke pull {node.parent}"
    return ManifestError(f"{_place(node)}: the base of {node.name} is an unknown image", hint, details)


def _cycle(nodes: Sequence[Node]) -> ManifestError:
    way = " -> ".join([*(each.name for each in nodes), nodes[0].name])
    details = [line for node in nodes for line in _at_base(node, f"{node.name} is built on {node.parent}")]
    hint = "give one of them another base"
    return ManifestError(f"{_place(nodes[0])}: images are built on each other: {way}", hint, details)


def base_span(path: Path) -> tuple[Span, list[str]]:
    """Where a manifest's base is written, and the file's lines. Raises `ManifestError`."""
    tree = parse(read(path))
    value = tree.value.get("base") if isinstance(tree.value, Table) else None
    return span_of(value) or Span(1, 1), tree.lines


def _at_base(node: Node, text: str, hint: str = "") -> Iterator[str]:
    span, lines = base_span(node.path)
    yield from render(shown(node.path), lines, [Problem(span, text, hint)])


def _place(node: Node) -> str:
    return f"{shown(node.path)}:{base_span(node.path)[0].line}"
