"""What is a package and what isn't: nothing that is an option or shell gets through."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiln.document import Mistake
from kiln.packagenames import debian_package, requirement


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("-o", "options are not taken here; a layer's keys are packages, upgrade, recommends and timeout"),
        ("vim-", "apt would remove a package written with a '-' behind it"),
        ("vim=1-", "apt would remove a package written with a '-' behind it"),
        ("Git", "Debian's names are in lower case: git"),
        ("git rolldice", "write each package as an item of its own: [git, rolldice]"),
        ("git==1", "apt takes one exact version, with one '=': NAME=VERSION"),
        ("git>=1", "apt takes one exact version, with one '=': NAME=VERSION"),
        ("$(reboot)", "write NAME, NAME:ARCH or NAME=VERSION"),
        ("", "write NAME, NAME:ARCH or NAME=VERSION"),
        ("/x.deb", "write NAME, NAME:ARCH or NAME=VERSION"),
    ],
)
def test_what_is_no_debian_package(text: str, hint: str) -> None:
    with pytest.raises(Mistake, match="is not a package name") as caught:
        debian_package(text)
    assert caught.value.hint == hint


@given(st.text(alphabet="abz09+.-:=~ $`;|&<>()\\\"'*?[]{}!#\n\t/%@é", max_size=12))
@settings(max_examples=60, deadline=None)
def test_no_debian_package_is_shell_or_an_option(text: str) -> None:
    try:
        debian_package(text)
    except Mistake:
        return
    assert re.fullmatch(r"[a-z0-9][A-Za-z0-9+.:=~-]+", text)
    assert not text.endswith("-")


@pytest.mark.parametrize(
    "text",
    ["a", "a[b,c]>=1,<2", "a @ https://h/a.whl#sha256=0", "a @ git+https://h/a@v1", "a; os_name=='nt'"],
)
def test_requirements(text: str) -> None:
    assert requirement(text) == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("-r x.txt", "write the file under 'requirements:'"),
        ("--index-url=https://a", "write the address under 'index_url:'"),
        ("--extra-index-url https://a", "write the address under 'extra_index_urls:'"),
        ("--pre", "options are not taken here"),
        ("-e .", "options are not taken here"),
        ("a=1.0", "an exact version has two '=': a==1.0"),
        ("a b", "write each package as an item of its own: [a, b]"),
        ("https://h/a.whl", "give it a name: NAME @ https://h/a.whl"),
        ("./a.whl", "a file is brought in by a copy layer, and installed by a run layer"),
        ("a; rm -rf /", "write NAME, NAME[EXTRA], NAME>=VERSION or NAME @ https://…"),
        ("a @ file:///a", "write a @ https://… or a @ git+https://…"),
        ("a @ https://h/${TOKEN}", "write a @ https://… or a @ git+https://…"),
        ("a; os_name=='$(id)'", "variables and shell are not taken here"),
        ("a @ https://me:secret@h/a",
         "take it out: logins belong in the site profile or the caller's environment"),
        ("a\n-r x", "write it without a line break"),
    ],
)  # fmt: skip
def test_what_is_no_requirement(text: str, hint: str) -> None:
    with pytest.raises(Mistake) as caught:
        requirement(text)
    assert caught.value.hint == hint


@given(st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_no_requirement_is_an_option(text: str) -> None:
    try:
        requirement(text)
    except Mistake:
        return
    assert not text.startswith("-")
    assert not set("$`\\\n") & set(text)
