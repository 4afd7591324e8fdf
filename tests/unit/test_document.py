"""What a person is told about a YAML file: whole texts, every trap, and never a traceback."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, Field

from kiln import document
from kiln.document import Mistake, Model, Number, Reading, Switch
from kiln.errors import ManifestError
from kiln.fields import Seconds


def _no_spaces(text: str) -> str:
    if " " in text:
        raise Mistake("there is a space in it", "remove it")
    return text


class Inner(Model):
    size: Number = 0


class Sample(Model):
    name: str
    words: tuple[Annotated[str, AfterValidator(_no_spaces)], ...] = ()
    number: Annotated[Number, Field(ge=1, le=9)] = 1
    switch: Switch = False
    choice: Literal["red", "green"] = "red"
    time: Seconds = 1
    inner: Inner | None = None
    names: Mapping[str, str] = {}


def load(folder: Path, text: str | bytes) -> Sample:
    path = folder / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return document.load(path, Sample, hint="see the manual")


def told(folder: Path, text: str | bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    """All that a person sees for this file."""
    monkeypatch.chdir(folder)
    with pytest.raises(ManifestError) as caught:
        load(folder, text)
    return "\n".join([caught.value.message, *caught.value.details]) + "\n"


def test_a_good_file(tmp_path: Path) -> None:
    head = "# a comment\nname: a\nwords: [b, 'no', \"1.0\"]\n"
    found = load(tmp_path, head + "number: 3\nswitch: yes\ninner: {size: 4}\ntime: 2m\n")
    assert found == Sample(
        name="a", words=("b", "no", "1.0"), number=3, switch=True, inner=Inner(size=4), time=120
    )
    assert type(found.name) is str
    assert type(found.words[0]) is str


def test_windows_line_ends_and_other_alphabets(tmp_path: Path) -> None:
    assert load(tmp_path, "name: é漢\r\nnumber: 2\r\n") == Sample(name="é漢", number=2)


def test_an_unknown_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(tmp_path, "name: a\nwrods: [b]\n", monkeypatch) == dedent("""\
        x.yaml has a mistake
        x.yaml:2:1: unknown key 'wrods'; did you mean 'words'?
          2 | wrods: [b]
            | ^^^^^
        """)


def test_all_mistakes_at_once_in_the_order_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = dedent("""\
        words:
          - one two
          - 24.10
        nmber: 12
        switch: maybe
        choice: gren
        inner: {size: big, colour: red}
        time: 22:30
        names: [a]
        """)
    assert told(tmp_path, text, monkeypatch) == dedent("""\
        x.yaml has 11 mistakes
        x.yaml:1:1: the key 'name' is missing; add it
          1 | words:
            | ^^^^^^
        x.yaml:2:5: there is a space in it; remove it
          2 |   - one two
            |     ^^^^^^^
        x.yaml:3:5: 24.10 is read as the number 24.1, not as text; quote it: '24.10'
          3 |   - 24.10
            |     ^^^^^
        x.yaml:4:1: unknown key 'nmber'; did you mean 'number'?
          4 | nmber: 12
            | ^^^^^
        x.yaml:4:8: the number must be at most 9
          4 | nmber: 12
            |        ^^
        x.yaml:5:9: true or false is wanted here, not the text 'maybe'
          5 | switch: maybe
            |         ^^^^^
        x.yaml:6:9: 'gren' is not known here; did you mean 'green'?
          6 | choice: gren
            |         ^^^^
        x.yaml:7:15: a whole number is wanted here, not the text 'big'
          7 | inner: {size: big, colour: red}
            |               ^^^
        x.yaml:7:20: unknown key 'colour'; known are: size
          7 | inner: {size: big, colour: red}
            |                    ^^^^^^
        x.yaml:8:7: 22:30 is not a time; write seconds, or 90s, 30m, 2h
          8 | time: 22:30
            |       ^^^^^
        x.yaml:9:8: a mapping is wanted here, not a list
          9 | names: [a]
            |        ^^^
        """)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("24.10", "24.10 is read as the number 24.1, not as text; quote it: '24.10'"),
        ("12", "12 is read as a number, not as text; quote it: '12'"),
        ("no", "no is read as false, not as text; quote it: 'no'"),
        ("on", "on is read as true, not as text; quote it: 'on'"),
        ("Yes", "Yes is read as true, not as text; quote it: 'Yes'"),
        ("true", "true is read as true, not as text; quote it: 'true'"),
        ("1_000", "1_000 is read as the number 1000, not as text; quote it: '1_000'"),
        ("0755", "0755 is read as the number 493, not as text; quote it: '0755'"),
        ("0x1F", "0x1F is read as the number 31, not as text; quote it: '0x1F'"),
        ("22:30", "22:30 is read as the number 1350, not as text; quote it: '22:30'"),
        (".5", ".5 is read as the number 0.5, not as text; quote it: '.5'"),
        (".inf", ".inf is read as the number inf, not as text; quote it: '.inf'"),
        ("2026-11-23", "2026-11-23 is read as a date, not as text; quote it: '2026-11-23'"),
        ("null", "null is read as nothing, not as text; quote it: 'null'"),
        ("~", "~ is read as nothing, not as text; quote it: '~'"),
        ("[a]", "text is wanted here, not a list"),
        ("{a: b}", "text is wanted here, not a mapping"),
        ("&x a", "an anchor (&x) is not read; remove it"),
        ("*x", "an alias (*x) is not read; write its value out"),
        ("!!str 1", "a tag (tag:yaml.org,2002:str) is not read; remove it; quote the value if it is text"),
        ("!!python/object:os.system a", "a tag (tag:yaml.org,2002:python/object:os.system) is not read; "
         "remove it; quote the value if it is text"),
        ('"\\0"', "the text has an invisible U+0000; remove its escape"),
        ('"\\u202e"', "the text has an invisible U+202E; remove its escape"),
        ("@a", "text can't begin with '@'; quote it"),
        ("a: b", "a ':' is not expected here; quote the text if it has ': ' in it; else look at the line's "
         "indentation"),
        ('"\\q"', "this escape (\\) is unknown; use single quotes: nothing is escaped in them"),
        ("'a", "what begins here is never closed"),
        ("[a", "what begins here is never closed"),
    ],
)  # fmt: skip
def test_what_is_written_where_text_is_wanted(
    written: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = told(tmp_path, f"name: {written}\n", monkeypatch).splitlines()
    assert lines[0] == "x.yaml has a mistake"
    place, _, said = lines[1].partition(": ")
    assert said == words
    assert place.startswith("x.yaml:1:")


def test_an_empty_value_is_shown_at_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(tmp_path, "number: 3\nname:\n", monkeypatch) == dedent("""\
        x.yaml has a mistake
        x.yaml:2:1: a value is missing here; write one, or remove the line
          2 | name:
            | ^^^^
        """)


@pytest.mark.parametrize("written", ["1_0", "010", "1.0", "'1'", "one", "true", "[1]"])
def test_only_a_plain_number_is_a_number(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "a whole number is wanted here" in told(tmp_path, f"name: a\nnumber: {written}\n", monkeypatch)


def test_numbers_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "x.yaml:2:9: the number must be at least 1" in told(tmp_path, "name: a\nnumber: 0\n", monkeypatch)


def test_a_key_that_is_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(tmp_path, "name: a\nnumber: 2\nname: b\n", monkeypatch) == dedent("""\
        x.yaml has a mistake
        x.yaml:3:1: key 'name' is already on line 1; keep one of them
          3 | name: b
            | ^^^^
        """)


def test_keys_are_text_whatever_yaml_makes_of_them(tmp_path: Path) -> None:
    assert load(tmp_path, "name: a\nnames: {no: b, 1.0: c, 2026-01-01: d}\n").names == {
        "no": "b",
        "1.0": "c",
        "2026-01-01": "d",
    }


COLON = "write 'key: value', or look at the indentation"
FIT = "look at its indentation, ':' and quotes"
ITEM = "look at its indentation, or begin it with '- '"
QUOTE = "quote it if it begins with one of [ { * &"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nnames:\n\tb: c\n", "x.yaml:3:1: a tab is used for indentation; YAML takes spaces only"),
        ("name: a\n---\nname: b\n", "x.yaml:2:1: a second document begins here; one file holds one"),
        ("", "x.yaml:1:1: the file is empty"),
        ("# nothing\n", "x.yaml:1:1: the file is empty"),
        ("[a]", "x.yaml:1:1: the file must be a mapping; begin its lines with 'key: value'"),
        ("name", "x.yaml:1:1: the file must be a mapping; begin its lines with 'key: value'"),
        ("name: a\nnames: {<<: {a: b}}\n", "x.yaml:2:9: a merge key (<<) is not read; write the keys out"),
        ("name: a\n? [b]\n: c\n", f"x.yaml:2:3: a key must be text; {QUOTE}"),
        ("name: a\nnames: {'': c}\n", "x.yaml:2:9: a key is missing before ':'"),
        ("words:\n- a\nb\nname: a\n", f"x.yaml:3:1: a ':' is missing behind this; {COLON}"),
        ("names:\n  a: b\n c: d\n", f"x.yaml:3:2: this line doesn't fit the ones above; {FIT}"),
        ("words:\n  - a\n  b: c\n", f"x.yaml:3:3: this is not an item of the list above; {ITEM}"),
        ("words: [a, b\nname: c\n", "x.yaml:2:5: a ',' or the closing bracket is missing before this"),
        ("name: a\x00b\n", "x.yaml:1:8: there is an invisible U+0000 here; delete it"),
        ("name: \x1b[31m\n", "x.yaml:1:7: there is an invisible U+001B here; delete it"),
        ("name: a\u2028b\n", "x.yaml:1:8: there is an invisible U+2028 here; delete it"),
        ("name: " + "[" * 50, "x.yaml:1:27: lists and mappings are more than 20 deep in each other here"),
        ("%YAML 9.0\n---\nname: a\n", "x.yaml:1:1: this is not YAML: found incompatible YAML document"),
    ],
)  # fmt: skip
def test_what_is_not_the_yaml_that_is_taken(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in told(tmp_path, text, monkeypatch).splitlines()


def test_a_control_character_never_reaches_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "\x1b" not in told(tmp_path, "name: \x1b[31m\n", monkeypatch)
    assert "\x1b" not in told(tmp_path, 'name: a\n"\\e[31m": b\n', monkeypatch)


def test_a_message_is_one_line_whatever_it_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = told(tmp_path, f"name: a\nwords: |\n  b\n  {'c' * 9999}\n", monkeypatch).splitlines()
    assert lines[1].startswith("x.yaml:2:8: a list is wanted here, not the text 'b\\ncc")
    assert len(lines) == 4
    assert len(lines[1]) < 500


def test_a_long_line_is_cut_around_its_caret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = told(tmp_path, f"words: [{'a, ' * 200}one two]\nname: a\n", monkeypatch).splitlines()
    at = lines[3].index("^")
    assert lines[2][at : at + 7] == "one two"
    assert all(len(line) < 120 for line in lines)


def test_thousands_of_mistakes_are_not_all_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = told(tmp_path, "name: a\nwords:\n" + "- 1\n" * 2000, monkeypatch).splitlines()
    assert lines[0] == "x.yaml has 2000 mistakes"
    assert lines[-1] == "... and 1950 more"


def test_bytes_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(tmp_path, b"name: a\n# \xff\n", monkeypatch) == "x.yaml:2: the byte 0xff is not UTF-8\n"
    assert told(tmp_path, b"\xef\xbb\xbfname: a", monkeypatch) == "x.yaml begins with a byte order mark\n"
    assert told(tmp_path, "name: a".encode("utf-16"), monkeypatch) == "x.yaml begins with a byte order mark\n"
    assert told(tmp_path, b"#" * 70_000, monkeypatch) == "x.yaml has 70000 bytes; the limit is 65536\n"


def test_paths_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    expected = {
        ".": ". is a folder, not a YAML file",
        "pipe": "pipe is a device, pipe or socket, not a YAML file",
        "none": "none can't be read: No such file or directory",
        "loop": "loop can't be read: Too many levels of symbolic links",
        "a" * 300: "a" * 300 + " can't be read: File name too long",
    }
    for name, words in expected.items():
        with pytest.raises(ManifestError) as caught:
            document.load(tmp_path / name, Sample)
        assert caught.value.message == words


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: a")
    path.chmod(0)
    with pytest.raises(ManifestError, match="can't be read: Permission denied"):
        document.load(path, Sample)


def test_the_largest_file_is_read_in_reasonable_time(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ManifestError):
        load(tmp_path, "name: [" + "1," * 32_000 + "]")
    with pytest.raises(ManifestError):
        load(tmp_path, "words: [" + "1," * 32_000 + "]")
    assert time.monotonic() - started < 30


def test_a_mistake_is_a_message_of_its_own_too() -> None:
    mistake = Mistake("it is wrong", "write it right")
    assert isinstance(mistake, ManifestError)
    assert (mistake.message, mistake.hint, mistake.exit_code) == ("it is wrong", "write it right", 3)


def test_a_reading_may_report_what_has_no_place() -> None:
    seen = Reading()
    seen.report("made in Python", "it is wrong")
    assert (seen.problems[0].span.line, seen.problems[0].span.column) == (1, 1)


def test_the_schema_knows_no_null() -> None:
    found = document.schema(Sample)
    assert found["properties"]["inner"] == {"$ref": "#/$defs/Inner"}
    assert found["properties"]["time"]["anyOf"][0]["type"] == "integer"
    assert "null" not in str(found)


YAML_LIKE = st.text(alphabet="abn: -[]{}\n\t'\"#&*!|>%@`?,.0123456789~<\\é\x00\u2028", max_size=80)


@given(st.one_of(st.binary(max_size=200), YAML_LIKE.map(str.encode)))
@settings(max_examples=100, deadline=None)
def test_no_file_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    try:
        load(tmp_path_factory.getbasetemp(), data)
    except ManifestError as error:
        assert "pydantic" not in str(error.details)
        assert error.details or error.message


@given(YAML_LIKE)
@settings(max_examples=100, deadline=None)
def test_no_value_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    values = "\n".join(f"{key}: {text}" for key in ("words", "inner", "time", "choice", "names"))
    try:
        load(tmp_path_factory.getbasetemp(), f"name: a\n{values}\n")
    except ManifestError as error:
        assert error.message.startswith(error.message)
