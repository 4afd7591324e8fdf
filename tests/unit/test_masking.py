"""The forms of a secret: whatever a program makes of it, nothing that tells is left in a log."""

from __future__ import annotations

import base64
import json
import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln import masking
from kiln.run import Redactor, run

TOKEN = "hf_aB3+dE/fG9?kL&mN=pQ7~x\u00e9"
NETRC = """\
machine huggingface.co
  login me
  password nEtrc-pa55/word
machine b.example login x password t0ken+two
"""
KEY = """\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmU
QyNTUxOQAAACBJ0kVxE6Tv
-----END OPENSSH PRIVATE KEY-----
"""


def told(text: str, *values: str) -> str:
    return Redactor.of(values)(text)


@pytest.mark.parametrize(
    "shown",
    [
        TOKEN,
        f"https://user:{quote(TOKEN, safe='')}@example.org",
        f"https://example.org/{quote(TOKEN)}",
        json.dumps({"token": TOKEN}),
        TOKEN.encode().hex(),
        TOKEN.encode().hex().upper(),
    ],
)
def test_a_token_is_masked_as_programs_write_it(shown: str) -> None:
    masked = told(f"so: {shown}.", TOKEN)
    assert "***" in masked
    for part in ("hf_aB3", "kL&mN", "6866", "hf_", "mN%3D"):
        assert part not in masked, masked


@given(
    st.binary(max_size=7),
    st.text(st.characters(codec="utf-8"), min_size=16, max_size=90),
    st.binary(max_size=7),
)
def test_no_alignment_of_base64_shows_a_secret(before: bytes, secret: str, after: bytes) -> None:
    secret = secret.strip()
    if "\n" in secret or "\r" in secret or len(secret.splitlines()) != 1 or len(secret.encode()) < 16:
        return
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        plain = encode(before + secret.encode() + after).decode()
        masked = told(plain, secret)
        left = masked.replace("***", "")
        # The letters at its ends that bytes beside it share in may stay.
        assert len(left) <= len(encode(before)) + len(encode(after)) + 4, (plain, masked)


def test_base64_and_hex_in_lines_are_masked_line_by_line() -> None:
    secret = "".join(chr(97 + number % 26) + str(number) for number in range(90))
    for text in (base64.encodebytes(secret.encode()).decode(), secret.encode().hex()):
        rows = (
            [text[at : at + 60] for at in range(0, len(text), 60)] if "\n" not in text else text.splitlines()
        )
        masked = [told(row, secret) for row in rows]
        assert masked[:-1] == ["***"] * (len(rows) - 1)
        assert len(masked[-1].replace("***", "")) <= 4


def test_a_file_of_many_lines_is_masked_line_by_line_with_the_values_it_names() -> None:
    text = f"{NETRC}curl -u me:nEtrc-pa55/word; key is t0ken+two"
    masked = "\n".join(told(line, NETRC) for line in text.splitlines())
    assert "nEtrc" not in masked and "t0ken" not in masked and "huggingface" not in masked
    assert "curl -u me:***" in masked
    key = "\n".join(told(line, KEY) for line in KEY.splitlines())
    assert key.splitlines()[1:3] == ["***", "***"]


def test_what_a_file_of_logins_names_is_masked_alone_too() -> None:
    aws = "[default]\naws_access_key_id = AKIAXXXXXXXX1234\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG\n"
    git = "https://user:gh0-pass@example.org\nhttps://two:second9pass@example.org\n"
    config = '{\n "auths": {"nvcr.io": {"auth": "JG9hdXRo"}},\n "token": "abc12345"\n}\n'
    assert told("wJalrXUtnFEMI/K7MDENG", aws) == "***"
    assert told("curl -u me:pa55-word", "machine x login me password pa55-word\n") == "curl -u me:***"
    assert told("gh0-pass second9pass", git) == "*** ***"
    assert told("abc12345 JG9hdXRo", config) == "*** ***"


def test_traces_leave_out_what_stands_in_other_files_too() -> None:
    found = masking.traces(KEY)
    assert b"b3BlbnNzaC1rZXktdjEAAAAABG5vbmU" in found
    assert not [trace for trace in found if b"BEGIN" in trace or b"\n" in trace]
    found = masking.traces('{\n  "auths": {\n    "nvcr.io": {"auth": "JG9hdXRoOm52YXBp"}\n  }\n}\n')
    assert b"JG9hdXRoOm52YXBp" in found
    assert b'"auths": {' not in found
    assert all(len(trace) >= masking.SHORTEST_LINE for trace in found)


def test_a_text_without_anything_telling_is_looked_for_by_its_lines() -> None:
    assert b"correct horse battery" in masking.traces("correct horse battery\nstaple and so on\n")


def test_a_short_password_is_masked_as_it_is_alone() -> None:
    assert masking.masks(["abc"]) == ("abc",)


def test_longer_forms_come_first() -> None:
    assert told("secret-value-long secret-value", "secret-value", "secret-value-long") == "*** ***"


def test_a_secret_in_an_endless_line_is_never_shown_in_part() -> None:
    secret = "S3cret" * 5
    script = f"import sys; [sys.stdout.write('x' * 8191 + {secret!r}) for _ in range(60)]; print()"
    env = {"PATH": "/usr/bin:/bin"}
    seen: list[str] = []
    run(
        [sys.executable, "-c", script],
        what="x",
        env=env,
        timeout=30,
        redact=Redactor.of([secret]),
        on_line=seen.append,
    )
    assert "S3cret" not in "".join(seen)
