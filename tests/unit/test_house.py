"""The house rules as tests: lint, types, shell, imports that go down only, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE_LINES, FUNCTION_LINES = 400, 50

# From the lowest up: a module may import from its own row's left, and from rows above it.
LAYERS = (
    ("errors", "problems", "check", "masking", "scripts"),
    ("run", "files", "ui", "capacity", "ended", "eventtext", "board", "childbuild"),
    (
        "yamltree",
        "document",
        "fields",
        "series",
        "debversion",
        "expansion",
        "packagenames",
        "protection",
        "sourcefiles",
        "secretsource",
        "base",
        "steps",
        "manifest",
        "sitefields",
        "resources",
        "site",
        "reference",
    ),
    ("hardware", "checkout", "inventory", "baseline", "bytecode", "driver"),
    ("record", "testruns", "squashfs", "imageformat", "pythonenv", "imageedit", "workspace", "store"),
    (
        "history",
        "standing",
        "selection",
        "graph",
        "sbom",
        "statement",
        "signature",
        "diff",
        "treediff",
        "owners",
        "part",
        "pieces",
    ),
    ("schedulers", "unattended", "recurrence", "ledger"),
    ("logins", "listing", "scrub", "origin", "imagerules", "audit"),
    ("registry",),
    ("runtime",),
    ("search", "layercommand", "layers", "locked", "lockfile", "debootstrap", "bases", "plan", "smoke"),
    ("companions", "publish", "channels", "retention", "trash", "transfer", "offers", "catalog"),
    ("query", "startlines", "imagepage", "page"),
    ("provenance", "verify", "drivergate", "tagcheck", "newerpackages", "due"),
    ("context", "packagecache", "layersecrets", "leaks", "constraints", "cause", "guard", "watch"),
    ("lockedfiles", "lockedcommand", "resolved", "buildneeds"),
    (
        "doctor",
        "preflight",
        "layerrun",
        "finish",
        "garbage",
        "clearing",
        "invocation",
        "inputchanges",
        "lockuse",
    ),
    ("assembly", "sitetraces", "fleet"),
    ("lockrun", "resolve"),
    ("order", "same", "build", "several", "outdated", "bump", "notice", "report", "upkeep"),
    ("locking", "lockcheck"),
    ("renew",),
    ("jobreport", "schedules", "submission", "following", "cancellation", "installing"),
    ("jobupkeep",),
    ("shell", "render", "rebuild", "pull", "retest"),
    ("diffview", "storeview", "dueview", "jobview", "command", "jobtasks"),
    ("storetasks", "duetasks"),
    ("complete", "completion"),
    ("tasks", "__main__"),
    ("jobentry", "scheduled"),
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def owner(path: Path) -> str:
    """The name under which a module of the package stands in LAYERS: packages stand as one."""
    return path.relative_to(ROOT / "kiln").parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kiln":
            below = node.module.split(".")[1:]
            yield from [".".join(below)] if below else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("kiln.") for alias in node.names if alias.name.startswith("kiln.")
            )


def test_every_module_has_its_place() -> None:
    assert {owner(path) for path in sources("kiln")} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", sources("kiln"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    mine = owner(path)
    if mine == "__init__":
        return
    for name in imported(path):
        other = name.split(".")[0]
        if other in ("__version__", mine):
            continue
        assert RANK[other] <= RANK[mine], f"{mine} imports {other}, which stands above it"


def test_no_import_cycles() -> None:
    edges: dict[str, set[str]] = {}
    for path in sources("kiln"):
        module = ".".join(path.relative_to(ROOT / "kiln").with_suffix("").parts)
        edges[module] = {name for name in imported(path) if name != "__version__"}

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        for other in edges.get(module, ()):
            if other not in done:
                visit(other, (*way, module))
        done.add(module)

    done: set[str] = set()
    for module in edges:
        visit(module, ())


@pytest.mark.parametrize(
    "path", sources("kiln", "tests", "benchmarks"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_programs_are_started_in_one_place() -> None:
    starters = [path.name for path in sources("kiln") if "import subprocess" in path.read_text()]
    assert starters == ["run.py"]


def test_every_module_says_what_it_owns() -> None:
    for path in sources("kiln"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def tool(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def hooks(*first_lines: str) -> list[str]:
    """The hooks whose first line is one of these: they have no suffix by which a tool would find them."""
    paths = sorted((ROOT / "hooks").iterdir())
    return [str(path) for path in paths if path.read_text().startswith(first_lines)]


def test_lint() -> None:
    tool(
        sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", ".", *hooks("#!/usr/bin/env python3")
    )


def test_format() -> None:
    tool(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "--quiet", ".")


def test_types(tmp_path: Path) -> None:
    tool(sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path))


def test_shell_scripts() -> None:
    scripts = map(str, sorted((ROOT / "kiln/scripts").glob("*.sh")))
    tool("shellcheck", "bootstrap", ".ci/run", *scripts, *hooks("#!/bin/sh", "#!/bin/bash"))
