"""YAML text -> plain values that remember where they were written.

Owns reading a file's bytes safely, and the part of YAML that Kiln takes. Must not know what a
manifest or a site profile is: what the values have to be is asked in `kiln.document`.

The part that is taken: one document, mappings with text keys, lists, text, and plain scalars.
Anchors, aliases, tags and merge keys are refused (a ten-line file can unfold to gigabytes with
them); so is everything deeper than `DEPTH_LIMIT` or longer than `SIZE_LIMIT`.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yaml.resolver import Resolver

from kiln.errors import ManifestError
from kiln.problems import UNSEEN, Problem, Span, quote, shown

SIZE_LIMIT = 64 * 1024  # bytes; the manifests that ship have 1 KiB
DEPTH_LIMIT = 20  # lists and mappings in each other; a manifest needs 5

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Not str.splitlines(): it breaks at more characters than YAML does, and the marks would be off.
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_LONGEST_NUMBER = 30  # characters; nobody needs to be told the value of a longer one


class Text(str):
    """Text from the file."""

    span: Span

    def __new__(cls, value: str, span: Span) -> Text:
        text = super().__new__(cls, value)
        text.span = span
        return text


class Items(list[object]):
    """A list from the file."""

    def __init__(self, values: Iterable[object], span: Span) -> None:
        super().__init__(values)
        self.span = span


class Table(dict[str, object]):
    """A mapping from the file; its keys are `Text`, whatever YAML would make of them (`no`, `1.0`)."""

    def __init__(self, values: dict[str, object], span: Span) -> None:
        super().__init__(values)
        self.span = span


@dataclass(frozen=True)
class Plain:
    """An unquoted scalar that YAML reads as something other than text.

    `kind` is bool, int, float, null, date or alias. `value` is set where the reading is beyond
    doubt: true and false (in all of YAML's spellings), and decimal numbers without `_`.
    """

    raw: str
    kind: str
    span: Span
    reading: str = ""
    value: bool | int | None = None


@dataclass
class Tree:
    """A parsed file: its value (None when it can't be read at all), lines, and mistakes of form."""

    value: object
    lines: list[str]
    problems: list[Problem] = field(default_factory=list)


class _Refused(Exception):
    """The file can't be read further; carries the one problem that says why."""

    def __init__(self, span: Span, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.problem = Problem(span, text, hint)


def read(path: Path, limit: int = SIZE_LIMIT) -> str:
    """Return a file's text; ManifestError when it isn't a readable UTF-8 file of at most `limit` bytes."""
    name = shown(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
            raise ManifestError(f"{name} is {kind}, not a YAML file")
        if status.st_size > limit:
            raise ManifestError(
                f"{name} has {status.st_size} bytes; the limit is {limit}",
                "put long scripts and lists of packages into files of their own beside it",
            )
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{name} can't be read: {error.strerror or error}") from error
    return _decode(data, name)


def _decode(data: bytes, name: str) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError(f"{name} begins with a byte order mark", "save it as UTF-8 without one (BOM)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        text = f"{name}:{line}: the byte 0x{data[error.start]:02x} is not UTF-8"
        raise ManifestError(text, "save the file as UTF-8") from error


def parse(text: str) -> Tree:
    """Read one YAML document. Never raises: what is wrong is in `problems`."""
    tree = Tree(None, _LINE_BREAK.split(text))
    try:
        _refuse_unseen(text, tree.lines)
        tree.value = _Builder(tree).document(yaml.parse(text, Loader=_LOADER))
    except _Refused as refused:
        tree.problems.append(refused.problem)
    except yaml.YAMLError as error:
        tree.problems.append(_syntax_problem(error, tree.lines))
    return tree


def _refuse_unseen(text: str, lines: list[str]) -> None:
    if not UNSEEN.search(text):
        return
    for number, line in enumerate(lines, 1):
        if match := UNSEEN.search(line):
            code = f"U+{ord(match[0]):04X}"
            raise _Refused(Span(number, match.start() + 1), f"there is an invisible {code} here", "delete it")


class _Builder:
    """Turns the parser's events into values, and notes what Kiln doesn't take."""

    def __init__(self, tree: Tree) -> None:
        self.lines = tree.lines
        self.problems = tree.problems
        self.resolver = Resolver()
        self.events: Iterator[yaml.Event] = iter(())

    def document(self, events: Iterable[yaml.Event]) -> object:
        self.events = iter(events)
        value: object = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if value is not None:
                    raise _Refused(self._span(event), "a second document begins here", "one file holds one")
                value = self._value(next(self.events), 0)
        if value is None:
            raise _Refused(Span(1, 1), "the file is empty")
        return value

    def _report(self, span: Span, text: str, hint: str = "") -> None:
        self.problems.append(Problem(span, text, hint))

    def _span(self, start: yaml.Event, end: yaml.Event | None = None) -> Span:
        first, last = start.start_mark, (end or start).end_mark
        if first is None or last is None:  # no parser of PyYAML's leaves them out; its types allow it
            return Span(1, 1)
        line = self.lines[first.line] if first.line < len(self.lines) else ""
        stop = last.column if last.line == first.line else len(line.rstrip())
        return Span(first.line + 1, first.column + 1, max(1, stop - first.column))

    def _value(self, event: yaml.Event, depth: int) -> object:
        span = self._span(event)
        if depth > DEPTH_LIMIT:
            raise _Refused(span, f"lists and mappings are more than {DEPTH_LIMIT} deep in each other here")
        if isinstance(event, yaml.AliasEvent):
            self._report(span, f"an alias (*{event.anchor}) is not read", "write its value out")
            return Plain(f"*{event.anchor}", "alias", span)
        if isinstance(event, yaml.SequenceStartEvent):
            self._refuse_properties(event, span)
            return self._list(event, depth)
        if isinstance(event, yaml.MappingStartEvent):
            self._refuse_properties(event, span)
            return self._table(event, depth)
        assert isinstance(event, yaml.ScalarEvent)  # noqa: S101  nothing else begins a value
        return self._scalar(event)

    def _refuse_properties(self, event: yaml.CollectionStartEvent | yaml.ScalarEvent, span: Span) -> None:
        if event.anchor:
            self._report(span, f"an anchor (&{event.anchor}) is not read", "remove it")
        if event.tag is not None:
            self._report(span, f"a tag ({event.tag}) is not read", "remove it; quote the value if it is text")

    def _list(self, start: yaml.Event, depth: int) -> Items:
        values = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            values.append(self._value(event, depth + 1))
        return Items(values, self._span(start, event))

    def _table(self, start: yaml.Event, depth: int) -> Table:
        values: dict[str, object] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, depth)
            value = self._value(next(self.events), depth + 1)
            if key is None:
                continue
            if isinstance(value, Plain) and not value.raw:
                value = Plain("", "null", key.span)  # an empty value can't be seen; its key can
            if key in values:
                self._report(
                    key.span, f"key {quote(key)} is already on line {lines[key]}", "keep one of them"
                )
                continue
            values[key], lines[key] = value, key.span.line
        return Table(values, self._span(start, event))

    def _key(self, event: yaml.Event, depth: int) -> Text | None:
        span = self._span(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._value(event, depth + 1)
            self._report(span, "a key must be text", "quote it if it begins with one of [ { * &")
            return None
        if event.value == "<<" and event.implicit[0]:
            self._report(span, "a merge key (<<) is not read", "write the keys out")
            return None
        if not event.value:
            self._report(span, "a key is missing before ':'")
            return None
        self._scalar(event)  # for what it reports
        return Text(event.value, span)

    def _scalar(self, event: yaml.ScalarEvent) -> Text | Plain:
        span = self._span(event)
        self._refuse_properties(event, span)
        if match := UNSEEN.search(event.value):
            self._report(span, f"the text has an invisible U+{ord(match[0]):04X}", "remove its escape")
        if not event.implicit[0]:
            return Text(event.value, span)
        tag = self.resolver.resolve(yaml.ScalarNode, event.value, (True, False))  # type: ignore[no-untyped-call]
        return _plain(event.value, str(tag).rpartition(":")[2], span)


def _plain(raw: str, tag: str, span: Span) -> Text | Plain:
    if tag == "null":
        return Plain(raw, "null", span, "nothing")
    if tag == "bool":
        value = raw.lower() in ("yes", "true", "on")
        return Plain(raw, "bool", span, "true" if value else "false", value)
    if tag == "timestamp":
        return Plain(raw, "date", span, "a date")
    if tag == "int" and _WHOLE_NUMBER.fullmatch(raw):
        return Plain(raw, "int", span, "a number", int(raw))
    if tag in ("int", "float"):
        return Plain(raw, tag, span, _number_reading(raw, tag))
    return Text(raw, span)


def _number_reading(raw: str, tag: str) -> str:
    """What YAML 1.1 makes of 24.10, 0755, 1_000 or 22:30, in words."""
    if len(raw) > _LONGEST_NUMBER:
        return "a number"
    constructor = yaml.constructor.SafeConstructor()
    make = constructor.construct_yaml_int if tag == "int" else constructor.construct_yaml_float
    try:
        number = str(make(yaml.ScalarNode(f"tag:yaml.org,2002:{tag}", raw)))
    except (ValueError, OverflowError):
        return "a number"
    return "a number" if number == raw else f"the number {number}"


def _syntax_problem(error: yaml.YAMLError, lines: list[str]) -> Problem:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Problem(Span(1, 1), "this is not YAML")
    opened = getattr(error, "context_mark", None)
    if opened and not "".join([lines[n][mark.column :] for n in range(mark.line, len(lines))]).strip():
        return Problem(Span(opened.line + 1, opened.column + 1), "what begins here is never closed")
    if opened and "could not find expected ':'" in str(error):
        at = Span(opened.line + 1, opened.column + 1)
        return Problem(at, "a ':' is missing behind this", "write 'key: value', or look at the indentation")
    span = Span(min(mark.line, len(lines) - 1) + 1, mark.column + 1)
    for number in range(max(1, span.line - 1), span.line + 1):
        indentation = lines[number - 1][: len(lines[number - 1]) - len(lines[number - 1].lstrip(" \t"))]
        if "\t" in indentation:
            at = Span(number, indentation.index("\t") + 1)
            return Problem(at, "a tab is used for indentation", "YAML takes spaces only")
    rest = lines[span.line - 1][span.column - 1 :]
    return Problem(span, *_syntax_words(str(getattr(error, "problem", "")), rest))


def _syntax_words(problem: str, rest: str) -> tuple[str, str]:
    """Words for what libyaml (or PyYAML's own parser) says."""
    known = {
        "mapping values are not allowed": (
            "a ':' is not expected here",
            "quote the text if it has ': ' in it; else look at the line's indentation",
        ),
        "cannot start any token": (f"text can't begin with {quote(rest[:1])}", "quote it"),
        "escape": ("this escape (\\) is unknown", "use single quotes: nothing is escaped in them"),
        "',' or": ("a ',' or the closing bracket is missing before this", ""),
        "'-'": ("this is not an item of the list above", "look at its indentation, or begin it with '- '"),
        "expected": ("this line doesn't fit the ones above", "look at its indentation, ':' and quotes"),
    }
    for part, words in known.items():
        if part in problem:
            return words
    return f"this is not YAML: {problem}", ""
