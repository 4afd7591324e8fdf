"""Large blobs: several ranges at once, gone on with, and one stream where there are no ranges."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event

import pytest
import requests

from kiln.errors import BaseError, SpaceError
from kiln.registry import blobs
from kiln.registry.blobs import MAGIC, Partial
from kiln.registry.repository import Repository
from tests.unit.test_registry_auth import challenge, logged_in, token
from tests.unit.test_registry_download import bench, described, path_of, resolve
from tests.unit.test_registry_transport import Answer, Bench, Fake, Reply, Request, errors, fake, serving

__all__ = ["bench", "fake"]

RANGE = 1 << 18
COUNT = 9
DATA = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(COUNT * RANGE // 32))[:-1000]
OTHER = bytes(len(DATA))
SPANS = [(start, min(start + RANGE, len(DATA))) for start in range(0, len(DATA), RANGE)]


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "RANGE", RANGE)


def span(request: Request) -> tuple[int, int] | None:
    """First offset of the range that was asked for, and the one after the last."""
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    return (int(match[1]), int(match[2]) + 1) if match else None


def spans(fake: Fake) -> list[tuple[int, int] | None]:
    return [span(request) for request in fake.seen("/v2/some/image/blobs/")]


def begin(request: Request) -> int:
    return (span(request) or (0, 0))[0]


def download(bench: Bench, data: bytes = DATA) -> Path:
    return bench.client.download(bench.name, described(data), bench.blobs)


def partial_path(bench: Bench) -> Path:
    final = path_of(bench, DATA)
    final.parent.mkdir(parents=True, exist_ok=True)
    return final.with_name(f"{final.name}.partial")


def test_a_large_blob_comes_over_all_connections_and_no_more(
    fake: Fake, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, inside, most = threading.Barrier(4), list[str](), list[int]()
    real = Repository.open_blob

    @contextlib.contextmanager
    def counted(
        self: Repository, digest: str, headers: Mapping[str, str], stop: Event
    ) -> Iterator[requests.Response]:
        inside.append(digest)
        most.append(len(inside))
        with real(self, digest, headers, stop) as response:
            yield response
        inside.pop()

    def answer(request: Request) -> Reply:
        # After the first one only ever four at once are answered: the test ends early with fewer.
        if begin(request):
            together.wait(10)
        return Reply(body=DATA)

    monkeypatch.setattr(Repository, "open_blob", counted)
    fake.on(fake.blob(DATA), answer)
    assert download(bench).read_bytes() == DATA
    assert sorted(filter(None, spans(fake))) == SPANS
    assert max(most) == 4
    assert [path.name for path in (bench.blobs / "sha256").iterdir()] == [path_of(bench, DATA).name]


def test_below_two_ranges_a_blob_is_one_request_without_a_range(fake: Fake, bench: Bench) -> None:
    data = DATA[: 2 * RANGE - 1]
    fake.blob(data)
    assert download(bench, data).read_bytes() == data
    assert spans(fake) == [None]


def test_what_comes_in_order_is_not_read_again(
    fake: Fake, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pread(descriptor: int, size: int, offset: int) -> bytes:
        raise AssertionError("it was read")

    resolved = resolve(fake, bench, DATA)
    monkeypatch.setattr(os, "pread", pread)
    assert bench.client.pull(resolved, bench.blobs, jobs=1)[0].read_bytes() == DATA


def test_large_and_small_blobs_together(fake: Fake, bench: Bench) -> None:
    layers = [b"small", DATA, DATA[::-1], b"other"]
    steps: list[tuple[int, int]] = []
    resolved = resolve(fake, bench, *layers)
    paths = bench.client.pull(resolved, bench.blobs, progress=lambda *step: steps.append(step))
    assert [path.read_bytes() for path in paths] == layers
    total = resolved.download_size
    assert steps == sorted(steps) and steps[-1] == (total, total)


CHILD = """
import sys; from pathlib import Path
from kiln.registry import blobs; from kiln.registry.client import Client, Network
from kiln.registry.credentials import Credentials; from kiln.registry.reference import Reference
blobs.RANGE, client = int(sys.argv[3]), Client(Network(), Credentials(Path("none")))
resolved = client.resolve(Reference(sys.argv[1], "some/image", "1.0"), "amd64")
client.pull(resolved, Path(sys.argv[2]), progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_pull_that_was_ended_goes_on_with_what_is_there(
    fake: Fake, bench: Bench, how: signal.Signals
) -> None:
    release, arrived = Event(), list[int]()
    resolved = resolve(fake, bench, DATA)
    held = SPANS[1][0], SPANS[4][0], SPANS[5][0]

    def answer(request: Request) -> Reply:
        arrived.append(begin(request))
        return Reply(body=DATA, until=release if begin(request) in held else None)

    fake.on(fake.blob(DATA), answer)
    argv = [sys.executable, "-c", CHILD, fake.host, str(bench.blobs), str(RANGE)]
    there = len(DATA) - 3 * RANGE
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path.cwd()) as child:
        assert child.stdout
        # One thread brings all that isn't held.
        assert any(int(line) == there for line in child.stdout)
        child.send_signal(how)
    assert child.returncode != 0
    release.set()
    fake.requests.clear()
    assert bench.client.pull(resolved, bench.blobs)[0].read_bytes() == DATA
    assert sorted(filter(None, spans(fake))) == [SPANS[1], SPANS[4], SPANS[5]]


def table(*counts: int, magic: int = MAGIC, step: int = RANGE) -> bytes:
    return DATA + struct.pack(f"<{2 + len(counts)}Q", magic, step, *counts)


FULL = [end - start for start, end in SPANS]
LEFT = {
    "the beginning, from a single stream": (DATA[: 2 * RANGE + 5], 2 * RANGE + 5),
    "all of it": (DATA, len(DATA)),
    "nothing": (b"", 0),
    "all ranges": (table(*FULL), len(DATA)),
    "a cut table": (table(*FULL)[:-1], 0),
    "more than a table": (table(*FULL) + b"x", 0),
    "no table": (table(*FULL, magic=1), 0),
    "other ranges": (table(*FULL, step=2 * RANGE), 0),
    "more than a range": (table(RANGE + 1, *FULL[1:]), 0),
    "more than the last range": (table(*FULL[:-1], RANGE), 0),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_another_run_left_is_trusted_no_further_than_it_says(
    fake: Fake, bench: Bench, kind: str
) -> None:
    there, used = LEFT[kind]
    fake.blob(DATA)
    partial_path(bench).write_bytes(there)
    assert download(bench).read_bytes() == DATA
    assert sum(end - start for start, end in filter(None, spans(fake))) == len(DATA) - used
    assert bench.said == []


def test_without_ranges_it_is_one_stream(fake: Fake, bench: Bench) -> None:
    fake.on(fake.blob(DATA), Reply(body=DATA, ranges=False))
    assert download(bench).read_bytes() == DATA
    assert len(fake.requests) == 1 and bench.said == []


def test_without_ranges_a_cut_stream_begins_anew(fake: Fake, bench: Bench) -> None:
    cuts = [Reply(body=DATA, ranges=False, cut=3 * RANGE), Reply(body=DATA, ranges=False)]
    fake.on(fake.blob(DATA), *cuts)
    assert download(bench).read_bytes() == DATA
    assert spans(fake) == [SPANS[0], None]


WRONG: dict[str, Reply] = {
    "another range": Reply(206, OTHER[:RANGE], {"Content-Range": f"bytes 7-{RANGE + 6}/{len(DATA)}"}),
    "of another size": Reply(206, OTHER[:RANGE], {"Content-Range": f"bytes 0-{RANGE - 1}/{len(DATA) + 1}"}),
    "no range named": Reply(206, OTHER[:RANGE]),
    "in another unit": Reply(206, OTHER[:RANGE], {"Content-Range": f"pages 0-{RANGE - 1}/{len(DATA)}"}),
    "no range to be had": Reply(416, errors("RANGE_INVALID", "no"), {"Content-Range": "bytes */10"}),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("good", [0, 3])
def test_a_wrong_answer_to_a_range_leads_to_one_stream(
    fake: Fake, bench: Bench, kind: str, good: int
) -> None:
    """At once, or after some that were right, while others are fetched."""
    count = itertools.count()

    def answer(request: Request) -> Reply:
        return Reply(body=DATA) if span(request) is None or next(count) < good else WRONG[kind]

    fake.on(fake.blob(DATA), answer)
    assert download(bench).read_bytes() == DATA
    assert Counter(spans(fake))[None] == 1
    assert all("wrong bytes" not in text for text in bench.said)


def test_ranges_from_some_of_a_registrys_machines(fake: Fake, bench: Bench) -> None:
    count = itertools.count()
    fake.on(fake.blob(DATA), lambda request: Reply(body=DATA, ranges=next(count) % 3 != 2))
    assert download(bench).read_bytes() == DATA


def test_shorter_ranges_than_were_asked_for(fake: Fake, bench: Bench) -> None:
    """RFC 9110, section 15.3.7: a server may send less."""

    def answer(request: Request) -> Reply:
        start, end = span(request) or (0, 0)
        end = min(end, start + 100_000)
        return Reply(206, DATA[start:end], {"Content-Range": f"bytes {start}-{end - 1}/*"})

    fake.on(fake.blob(DATA), answer)
    assert download(bench).read_bytes() == DATA


def test_more_than_was_asked_for(fake: Fake, bench: Bench) -> None:
    def answer(request: Request) -> Reply:
        start = begin(request)
        value = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        return Reply(206, DATA[start:], {"Content-Range": value})

    fake.on(fake.blob(DATA), answer)
    assert download(bench).read_bytes() == DATA
    assert len(fake.requests) == COUNT


def test_each_answer_cut(fake: Fake, bench: Bench) -> None:
    fake.on(fake.blob(DATA), Reply(body=DATA, cut=100_000))
    assert download(bench).read_bytes() == DATA
    assert sum("cut at" in text for text in bench.said) >= COUNT


@pytest.mark.parametrize("status", [429, 503])
def test_a_range_that_is_to_be_asked_for_later(fake: Fake, bench: Bench, status: int) -> None:
    refused: list[int] = []

    def answer(request: Request) -> Reply:
        if begin(request) and begin(request) not in refused:
            refused.append(begin(request))
            return Reply(status, errors("LATER", "busy"), {"Retry-After": "3"})
        return Reply(body=DATA)

    fake.on(fake.blob(DATA), answer)
    assert download(bench).read_bytes() == DATA
    assert bench.waits == [3.0] * (COUNT - 1)


def test_a_range_that_never_comes(fake: Fake, bench: Bench) -> None:
    dead = SPANS[2][0]
    fake.on(fake.blob(DATA), lambda request: Reply(body=DATA, cut=0 if begin(request) == dead else None))
    with pytest.raises(BaseError, match="cannot reach"):
        download(bench)
    fake.requests.clear()
    fake.on(fake.blob(DATA), Reply(body=DATA))
    assert download(bench).read_bytes() == DATA
    assert SPANS[0] not in spans(fake) and SPANS[2] in spans(fake)


def test_a_failure_is_told_at_once_and_closes_no_file_that_is_written(
    fake: Fake, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    helping, release, real = Event(), Event(), os.pwrite
    resolved, before = resolve(fake, bench, DATA), set(threading.enumerate())

    def pwrite(descriptor: int, part: memoryview | bytes, offset: int) -> int:
        # A lock's owner is written with the same call.
        piece = isinstance(part, memoryview)
        if piece and offset == SPANS[0][0]:
            helping.wait(20)
        if piece and offset == SPANS[1][0]:
            helping.set()
            release.wait(20)
        return real(descriptor, part, offset)

    fake.on(
        fake.blob(DATA),
        lambda request: Reply(404) if begin(request) == SPANS[2][0] else Reply(body=DATA),
    )
    monkeypatch.setattr(os, "pwrite", pwrite)
    started = time.monotonic()
    with pytest.raises(BaseError, match="does not have the blob"):
        bench.client.pull(resolved, bench.blobs, jobs=2)
    assert time.monotonic() - started < 10
    release.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name.endswith("(_work)"):
            thread.join(20)
    with Partial(path_of(bench, DATA), described(DATA)) as partial:
        assert partial.unfinished()[0] == 2


def test_ranges_from_another_host_get_no_token(fake: Fake, tmp_path: Path) -> None:
    bench = logged_in(fake, tmp_path)
    with serving() as storage:
        storage.on("/stored", Reply(body=DATA))
        moved = Reply(307, headers={"Location": f"http://{storage.host}/stored?signature=s3cret"})

        def answer(request: Request) -> Reply:
            return moved if "Authorization" in request.headers else challenge(fake)

        fake.on(fake.blob(DATA), answer).on("/token", token("good"))
        assert download(bench).read_bytes() == DATA
        assert len(storage.requests) == COUNT
        assert all("Authorization" not in request.headers for request in storage.requests)
    assert len(fake.seen("/token")) == 1


def test_wrong_bytes_in_one_range_are_fetched_once_more(fake: Fake, bench: Bench) -> None:
    resolved, steps, wrong = resolve(fake, bench, DATA), list[tuple[int, int]](), list[Answer]()
    url = fake.blob(DATA)

    def answer(request: Request) -> Reply:
        if begin(request) == SPANS[4][0] and not wrong:
            wrong.append(Reply(body=DATA[: SPANS[4][0]] + OTHER[SPANS[4][0] :]))
            return Reply(body=DATA[: SPANS[4][0]] + OTHER[SPANS[4][0] :])
        return Reply(body=DATA)

    fake.on(url, answer)
    (path,) = bench.client.pull(resolved, bench.blobs, progress=lambda *step: steps.append(step))
    assert path.read_bytes() == DATA
    assert [text.rpartition(": ")[2] for text in bench.said] == [
        f"wrong bytes for {described(DATA).short}; fetching it anew"
    ]
    assert steps == sorted(steps) and steps[-1] == (len(DATA), len(DATA))


def test_wrong_bytes_for_good(fake: Fake, bench: Bench) -> None:
    fake.on(fake.blob(DATA), Reply(body=OTHER))
    with pytest.raises(BaseError, match="sends wrong bytes for sha256:"):
        download(bench)
    assert not partial_path(bench).exists() and len(fake.requests) == 2 * COUNT


def test_a_full_disk_keeps_what_is_there(fake: Fake, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if 4 * RANGE <= offset < len(DATA):
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    fake.blob(DATA)
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", pwrite)
        with pytest.raises(SpaceError, match="no space left in") as caught:
            download(bench)
    assert "what is there is kept" in caught.value.hint
    with Partial(path_of(bench, DATA), described(DATA)) as partial:
        assert partial.size >= RANGE
        missing = len(DATA) - partial.size
    fake.requests.clear()
    assert download(bench).read_bytes() == DATA
    assert sum(end - start for start, end in filter(None, spans(fake))) == missing
