"""The graph of images, and what is due, for people: text, and Graphviz's dot. Computes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from kiln.bump import Bumped
from kiln.due import BUMP, State
from kiln.graph import Graph
from kiln.render import table
from kiln.ui import size_text
from kiln.upkeep import Plan


def graph(console: Console, found: Graph, names: Sequence[str]) -> None:
    """A tree for each base that is no image of ours, and below it what is built on it."""
    roots: dict[str, list[str]] = {}
    for name in names:
        if not found.parents(name):
            roots.setdefault(found.node(name).manifest.base.text, []).append(name)
    for base, children in sorted(roots.items()):
        tree = Tree(Text(base, style="dim"))
        for name in children:
            _branch(tree, found, name, names)
        console.print(tree)


def _branch(tree: Tree, found: Graph, name: str, names: Sequence[str]) -> None:
    below = tree.add(Text(name, style="bold"))
    for child in found.children(name):
        if child in names:
            _branch(below, found, child, names)


def dot(console: Console, found: Graph, names: Sequence[str]) -> None:
    """As Graphviz reads it: https://graphviz.org/doc/info/lang.html. A pinned parent's line is dashed."""
    print_ = console.file.write
    print_("digraph kiln {\n  rankdir=LR;\n  node [shape=box];\n")
    nodes = [found.node(name) for name in names]
    for text in dict.fromkeys(node.manifest.base.text for node in nodes if not node.parent):
        print_(f"  {json.dumps(text)} [style=dashed];\n")
    for name, node in zip(names, nodes, strict=True):
        base = node.manifest.base
        style = f" [style=dashed, label={json.dumps(base.version)}]" if node.pinned else ""
        print_(f"  {json.dumps(node.parent or base.text)} -> {json.dumps(name)}{style};\n")
    print_("}\n")


def graph_data(found: Graph, names: Sequence[str]) -> dict[str, object]:
    return {
        "images": [
            {
                "name": name,
                "base": found.node(name).manifest.base.text,
                "parent": found.node(name).parent,
                "pinned": found.node(name).pinned,
            }
            for name in names
        ]
    }


def states(console: Console, found: Sequence[State]) -> None:
    """Every image with each of its reasons."""
    for state in found:
        console.print(_title(state))
        for reason in state.reasons:
            remedy = f"  -> invoke bump {state.name}" if reason.remedy == BUMP else ""
            console.print(Text(f"  {reason.kind}: {reason.text}{remedy}"), soft_wrap=True)
        for text in state.unknown:
            console.print(Text(f"  not known: {text}", style="yellow"), soft_wrap=True)
        for text in state.notes:
            console.print(Text(f"  {text}", style="dim"), soft_wrap=True)


def _title(state: State) -> Text:
    name = f"{state.name} {state.version}".strip()
    if state.reasons:
        return Text(f"{name}: due", style="bold yellow")
    if state.unknown:
        return Text(f"{name}: not known", style="yellow")
    return Text(f"{name}: up to date" if state.version else f"{name}: not published", style="green")


def plan(console: Console, made: Plan) -> None:
    """What a rebuild would do."""
    if not made.steps:
        console.print(Text("nothing is due", style="green"))
    rows = table("image", "what", "why", "last time", "size")
    for step in made.steps:
        why = ", ".join(dict.fromkeys(reason.kind for reason in step.state.reasons))
        took = f"{step.state.seconds:.0f} s"
        rows.add_row(Text(step.state.name), step.action, why, took, size_text(step.state.size))
    if made.steps:
        console.print(rows)
        space = f"{size_text(made.stored)} in the store, {size_text(made.scratch)} of scratch space"
        console.print(Text(f"expected: {made.seconds:.0f} s with {made.jobs} at once, {space}"))
    for name, unknown in made.unknown.items():
        console.print(Text(f"{name}: not known: {unknown[0]}", style="yellow"), soft_wrap=True)
    console.print(Text("nothing was changed"))


def bumped(console: Console, done: Bumped) -> None:
    if done.after:
        console.print(Text(f"{done.place}: {done.before} -> {done.after}", style="green"))
        console.print(Text(f"then: invoke rebuild --name {done.name}"))
    else:
        console.print(Text(f"{done.name} stays at {done.before}: {done.why}"))
