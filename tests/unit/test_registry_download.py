"""Blobs on bad days: cut, wrong, slow, wanted twice, no space. And blobs from files."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from threading import Event

import pytest

from kiln import files
from kiln.errors import BaseError, SpaceError, StoreError
from kiln.registry import blobs
from kiln.registry.blobs import Partial
from kiln.registry.client import Client, Network
from kiln.registry.download import Meter
from kiln.registry.oci import Descriptor, Resolved
from tests.registry_fixture import sha256
from tests.unit.test_registry_transport import Bench, Fake, Reply, Request, errors, fake

__all__ = ["fake"]

DATA = bytes(range(256)) * (4 << 12)


def path_of(bench: Bench, data: bytes) -> Path:
    return bench.blobs / "sha256" / sha256(data).removeprefix("sha256:")


def described(data: bytes) -> Descriptor:
    return Descriptor(sha256(data), len(data), "")


@pytest.fixture
def bench(fake: Fake, tmp_path: Path) -> Bench:
    return Bench(fake, tmp_path)


def resolve(fake: Fake, bench: Bench, *layers: bytes) -> Resolved:
    fake.image(*layers)
    return bench.client.resolve(bench.name, "amd64")


def download(bench: Bench, data: bytes = DATA) -> Path:
    return bench.client.download(bench.name, described(data), bench.blobs)


def test_a_pull_in_order_with_progress_and_nothing_left_over(fake: Fake, bench: Bench) -> None:
    layers = [b"small", DATA, b"middle" * 100, b"small"]
    steps: list[tuple[int, int]] = []
    resolved = resolve(fake, bench, *layers)
    paths = bench.client.pull(resolved, bench.blobs, jobs=2, progress=lambda *step: steps.append(step))
    assert [path.read_bytes() for path in paths] == layers
    # The layer that is there twice is fetched and counted once.
    assert resolved.download_size == len(DATA) + 5 + 600
    assert steps[-1] == (resolved.download_size, resolved.download_size) and steps == sorted(steps)
    assert sorted(bench.blobs.rglob("*")) == sorted({bench.blobs / "sha256", *paths})


def test_what_is_there_is_not_fetched_again(fake: Fake, bench: Bench) -> None:
    resolved = resolve(fake, bench, DATA)
    bench.client.pull(resolved, bench.blobs)
    before = len(fake.requests)
    assert bench.client.pull(resolved, bench.blobs) == [path_of(bench, DATA)]
    assert len(fake.requests) == before


def test_a_blob_of_the_wrong_size_is_fetched_again(fake: Fake, bench: Bench) -> None:
    resolved = resolve(fake, bench, DATA)
    path_of(bench, DATA).parent.mkdir(parents=True)
    path_of(bench, DATA).write_bytes(b"cut by a dying disk")
    assert bench.client.pull(resolved, bench.blobs)[0].read_bytes() == DATA


def test_a_cut_blob_is_gone_on_with(fake: Fake, bench: Bench) -> None:
    url = fake.blob(DATA)
    fake.on(url, Reply(body=DATA, cut=2_500_000), Reply(body=DATA, cut=1_000_000), Reply(body=DATA))
    assert download(bench).read_bytes() == DATA
    ranges = [request.headers.get("Range") for request in fake.seen(url)]
    # After the first cut in smaller pieces, of which less is lost.
    assert ranges == [None, "bytes=2097152-4194303", f"bytes={(2 << 20) + 61 * (1 << 14)}-4194303"]
    assert "cut at 2097152 of 4194304 bytes" in bench.said[0]


def test_many_cuts_are_no_reason_to_give_up_while_bytes_come(fake: Fake, bench: Bench) -> None:
    """A proxy at one site cut each answer after 30 MB."""
    fake.on(fake.blob(DATA), Reply(body=DATA, cut=200_000))
    assert download(bench).read_bytes() == DATA
    assert len(bench.waits) > 20


def test_a_server_without_ranges_starts_anew(fake: Fake, bench: Bench) -> None:
    fake.on(fake.blob(DATA), Reply(body=DATA, cut=300_000, ranges=False), Reply(body=DATA, ranges=False))
    assert download(bench).read_bytes() == DATA


def test_cuts_without_progress_end(fake: Fake, bench: Bench) -> None:
    fake.on(fake.blob(DATA), Reply(body=DATA, cut=1000, ranges=False))
    with pytest.raises(BaseError, match="cannot reach"):
        download(bench)
    assert path_of(bench, DATA).with_name(f"{path_of(bench, DATA).name}.partial").exists()


@pytest.mark.parametrize("there", [DATA[:300_000], b"", b"x" * 300_000, DATA + b"too much", DATA])
def test_what_another_run_left_is_used_if_it_is_good(fake: Fake, bench: Bench, there: bytes) -> None:
    fake.blob(DATA)
    final = path_of(bench, DATA)
    final.parent.mkdir(parents=True)
    final.with_name(f"{final.name}.partial").write_bytes(there)
    assert download(bench).read_bytes() == DATA
    assert not final.with_name(f"{final.name}.partial").exists()


def test_a_range_that_is_refused(fake: Fake, bench: Bench) -> None:
    url = fake.blob(DATA)
    fake.on(url, Reply(body=DATA, cut=1000), Reply(416), Reply(body=DATA))
    assert download(bench).read_bytes() == DATA


@pytest.mark.parametrize("wrong", [b"x" * len(DATA), DATA + b"more"])
def test_wrong_bytes_once_and_for_good(fake: Fake, bench: Bench, wrong: bytes) -> None:
    url = fake.blob(DATA)
    fake.on(url, Reply(body=wrong), Reply(body=DATA))
    assert download(bench).read_bytes() == DATA
    assert "wrong bytes for sha256:" in bench.said[0]
    other = b"y" * len(wrong)
    fake.on(url.replace(sha256(DATA), sha256(other)), Reply(body=wrong))
    with pytest.raises(BaseError, match=f"sends wrong bytes for {sha256(other)}"):
        bench.client.download(bench.name, Descriptor(sha256(other), len(DATA), ""), bench.blobs)
    left = {path.name for path in (bench.blobs / "sha256").iterdir()}
    assert left == {path_of(bench, DATA).name, f"{path_of(bench, other).name}.lock"}


def test_an_empty_blob(fake: Fake, bench: Bench) -> None:
    fake.blob(b"")
    assert download(bench, b"").read_bytes() == b""


def test_a_missing_blob_and_a_failing_server(fake: Fake, bench: Bench) -> None:
    with pytest.raises(BaseError, match="does not have the blob"):
        download(bench)
    fake.on(fake.blob(DATA), Reply(500, errors("UNKNOWN", "disk on fire")))
    with pytest.raises(BaseError, match="500 Internal Server Error: UNKNOWN: disk on fire"):
        download(bench)


def test_the_first_failure_stops_the_others(fake: Fake, bench: Bench) -> None:
    release, slow = Event(), [b"slow %d" % number for number in range(3)]
    resolved = resolve(fake, bench, b"missing", *slow)
    for data in slow:
        fake.on(fake.blob(data), Reply(body=data, until=release))
    fake.on(fake.blob(b"missing"), Reply(404))
    started = time.monotonic()
    with pytest.raises(BaseError, match="does not have the blob"):
        bench.client.pull(resolved, bench.blobs)
    assert time.monotonic() - started < 5
    release.set()


def test_ctrl_c_comes_through_at_once(fake: Fake, bench: Bench) -> None:
    release = Event()
    resolved = resolve(fake, bench, DATA)
    fake.on(fake.blob(DATA), Reply(body=DATA, until=release))

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.client.pull(resolved, bench.blobs, progress=interrupted)
    release.set()


def test_a_stop_ends_a_wait(fake: Fake, bench: Bench) -> None:
    """One blob fails while another waits to try again: the wait ends, not the patience."""
    waiting, ended = Event(), Event()

    def wait(stop: Event, seconds: float) -> bool:
        waiting.set()
        if stop.wait(20):
            ended.set()
        return True

    def missing(request: Request) -> Reply:
        waiting.wait(10)
        return Reply(404)

    resolved = resolve(fake, bench, b"waits", b"fails")
    fake.on(fake.blob(b"waits"), Reply(503)).on(fake.blob(b"fails"), missing)
    patient = Client(Network(), bench.credentials, wait=wait)
    with pytest.raises(BaseError, match="does not have the blob"):
        patient.pull(resolved, bench.blobs)
    assert ended.wait(10)


def test_two_processes_fetch_a_blob_once(fake: Fake, bench: Bench) -> None:
    fake.blob(DATA)
    final = path_of(bench, DATA)
    final.parent.mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path; from kiln import files\n"
        "with files.locked(Path(sys.argv[1] + '.lock'), wait=5):\n"
        "    print('held', flush=True); data = sys.stdin.buffer.read(); Path(sys.argv[1]).write_bytes(data)\n"
    )
    argv = [sys.executable, "-c", code, str(final)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()) as other:
        assert other.stdout and other.stdin and other.stdout.readline() == b"held\n"
        pulled: list[Path] = []
        thread = threading.Thread(target=lambda: pulled.append(download(bench)))
        thread.start()
        while not bench.said:
            thread.join(0.01)
        other.stdin.write(DATA)
        other.stdin.close()
        thread.join(10)
    assert pulled == [final] and fake.requests == []
    assert f"waiting for {os.uname().nodename} pid {other.pid}" in bench.said[0]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, real = [1000], os.pwrite

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if not left:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: left.pop()], offset)

    with Partial(tmp_path / "blob", described(DATA)) as partial:
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(
            SpaceError, match=f"no space left in {tmp_path}: 4194304 more bytes are needed"
        ) as caught:
            partial.write(0, DATA)
    assert f"df -h {tmp_path}" in caught.value.hint
    # What was written before is there for the next run.
    with Partial(tmp_path / "blob", described(DATA)) as partial:
        assert partial.size == 1000


def test_a_folder_that_cannot_be_made(bench: Bench) -> None:
    bench.blobs.write_text("a file")
    with pytest.raises(StoreError, match="cannot make"):
        download(bench)


def test_the_lock_is_gone_after_a_failure_of_its_holder(fake: Fake, bench: Bench) -> None:
    with pytest.raises(BaseError):
        download(bench)
    with files.locked(path_of(bench, DATA).with_name(f"{path_of(bench, DATA).name}.lock"), wait=0):
        assert fake.requests


def test_progress_never_goes_back() -> None:
    meter = Meter()
    meter.set("a", 5)
    meter.set("b", 7)
    assert meter.total() == 12
    meter.set("a", 1)
    assert meter.total() == 12
    meter.set("a", 6)
    assert meter.total() == 13


def test_no_chunk_is_larger_than_a_mebibyte(
    fake: Fake, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large a range is: of each that is on its way no more than a chunk is in memory."""
    sizes, pwrite, pread = list[int](), os.pwrite, os.pread
    monkeypatch.setattr(blobs, "RANGE", 3 << 20)

    def written(descriptor: int, part: memoryview, offset: int) -> int:
        sizes.append(len(part))
        return pwrite(descriptor, part, offset)

    def read(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pwrite", written)
    monkeypatch.setattr(os, "pread", read)
    data = DATA * 3
    fake.blob(data)
    assert download(bench, data).read_bytes() == data
    assert max(sizes) == 1 << 20
