"""Bases, in every form, and what a person is told of the others."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kiln.base import parse_base
from kiln.errors import ManifestError

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "place", "tag", "digest", "label"),
    [
        ("nvcr.io/nvidia/pytorch:25.04-py3", "nvcr.io nvidia/pytorch", "25.04-py3", "", "25.04-py3"),
        ("docker://nvcr.io#nvidia/pytorch:25.04-py3", "nvcr.io nvidia/pytorch", "25.04-py3", "", "25.04-py3"),
        ("docker://nvcr.io/nvidia/pytorch:25.04-py3", "nvcr.io nvidia/pytorch", "25.04-py3", "", "25.04-py3"),
        ("debian:12", "registry-1.docker.io library/debian", "12", "", "12"),
        ("docker.io/a/b:1", "registry-1.docker.io a/b", "1", "", "1"),
        ("docker.io/debian:1", "registry-1.docker.io library/debian", "1", "", "1"),
        ("nvidia/cuda:12", "registry-1.docker.io nvidia/cuda", "12", "", "12"),
        ("localhost:5000/x:y", "localhost:5000 x", "y", "", "y"),
        ("localhost/x:y", "localhost x", "y", "", "y"),
        ("h.org:443/a/b/c:1", "h.org:443 a/b/c", "1", "", "1"),
        (f"h.org/a@sha256:{HEX}", "h.org a", "", f"sha256:{HEX}", "0123456789ab"),
        (f"h.org/a:1@sha256:{HEX}", "h.org a", "1", f"sha256:{HEX}", "1"),
        (f"docker://h.org#a:sha256:{HEX}", "h.org a", "", f"sha256:{HEX}", "0123456789ab"),
        (f"h.org:5000/a@sha256:{HEX}", "h.org:5000 a", "", f"sha256:{HEX}", "0123456789ab"),
    ],
)
def test_bases_in_registries(text: str, place: str, tag: str, digest: str, label: str) -> None:
    base = parse_base(text)
    assert (base.kind, base.text) == ("registry", text)
    assert (f"{base.registry} {base.repository}", base.tag, base.digest) == (place, tag, digest)
    assert base.label == label


@pytest.mark.parametrize(
    ("text", "kind", "value", "label"),
    [
        ("image:pytorch-llm", "image", "pytorch-llm ", "pytorch-llm"),
        ("image:pytorch-llm:25.04-py3-r3", "image", "pytorch-llm 25.04-py3-r3", "25.04-py3-r3"),
        ("oci:some/folder", "oci", "some/folder ", "folder"),
        ("oci:some/folder:1.0", "oci", "some/folder 1.0", "1.0"),
        ("docker-archive:a b.tar", "docker-archive", "a b.tar ", "a-b"),
        ("sqsh:/data/x_v3.sqsh", "sqsh", "/data/x_v3.sqsh ", "x_v3"),
        ("debootstrap:bookworm", "debootstrap", "bookworm ", "bookworm"),
    ],
)
def test_other_bases(text: str, kind: str, value: str, label: str) -> None:
    base = parse_base(text)
    assert base.kind == kind
    assert f"{base.name or base.path or base.suite} {base.version or base.tag}" == value
    assert base.label == label


FORMS = (
    "nvcr.io/nvidia/pytorch:25.04-py3 (any registry), image:NAME, oci:FOLDER, docker-archive:FILE, sqsh:FILE "
    "or debootstrap:SUITE"
)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("debian", "'debian' has no tag", "name a tag or digest: 'latest' moves"),
        ("localhost:5000/x", "'localhost:5000/x' has no tag", "name a tag or digest: 'latest' moves"),
        ("h.org/A:1", "'A' is not a repository", "repositories are in lower case: a"),
        ("h.org/a:b c", "'b c' is not a tag", "a tag has letters, digits and _ . -"),
        ("h.org/a@sha256:12", "'sha256:12' is not a digest", "write @sha256: and 64 hexadecimal digits"),
        ("h.org/a@md5:12", "'md5:12' is not a digest", "write @sha256: and 64 hexadecimal digits"),
        ("docker://me@nvcr.io#a:1", "'docker://me@nvcr.io#a:1' has a user in it",
         "leave it out: the login is in enroot's credentials file"),
        ("https://h.org/a:1", "'https://h.org/a:1' is not a base",
         f"write it without 'https://', as one of: {FORMS}"),
        ("squashfs:/x", "'squashfs:' is not a registry", f"write {FORMS}"),
        ("sqsh:", "'sqsh:' names nothing", f"write {FORMS}"),
        ("", "'' is not a repository", f"write {FORMS}"),
        ("image:Nope", "'image:Nope' is not an image of ours", "write image:NAME or image:NAME:VERSION"),
        ("debootstrap:Book worm", "'Book worm' is not a suite of Debian or Ubuntu",
         "write debootstrap:bookworm, for one"),
        ("a:1\nb", "this text must be on one line", "write it without a line break"),
    ],
)  # fmt: skip
def test_what_is_no_base(text: str, message: str, hint: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_base(text)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@given(st.text(alphabet="ab1:/@#.-_ sha256ocidkrqmge$;\n", max_size=40))
@settings(deadline=None)
def test_a_base_is_read_or_refused(text: str) -> None:
    try:
        base = parse_base(text)
    except ManifestError:
        return
    assert re.fullmatch(r"[A-Za-z0-9._-]+", base.label)
    assert re.fullmatch(r"[A-Za-z0-9./:_-]*", base.registry + base.repository + base.tag)
