"""Bringing a file: verified, gone on with, never half there and never over another."""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from kiln import files, pieces, transfer
from kiln.errors import SpaceError, StoreError, VerifyError
from kiln.part import Part
from kiln.transfer import LocalFile, Wanted

DATA = os.urandom(1 << 20) * 3 + b"end"
WANTED = Wanted("demo-1.0-r1.sqsh", len(DATA), f"sha256:{hashlib.sha256(DATA).hexdigest()}", 1_700_000_000)


class Given:
    """A source that gives `data` and ends after so many bytes; it notes from where it was asked."""

    def __init__(self, data: bytes = DATA, end: int | None = None, ranges: bool = True) -> None:
        self.data, self.end, self.ranges, self.asked = data, end, ranges, list[int]()

    def open(self) -> None:
        """It comes from elsewhere."""

    def send(self, part: Part, offset: int) -> None:
        self.asked.append(offset)
        start = offset if self.ranges else 0
        end = len(self.data) if self.end is None else self.end
        part.begin(start)
        for at in range(start, end, 100_000):
            part.write(self.data[at : min(at + 100_000, end)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pulled"


def bring(source: transfer.Source, folder: Path, wanted: Wanted = WANTED) -> bool:
    return transfer.bring(wanted, source, folder, lambda text: None, lambda done, total: None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_whole_and_alone(folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    assert transfer.bring(WANTED, Given(), folder, lambda text: None, lambda *step: steps.append(step))
    target = folder / WANTED.file
    assert target.read_bytes() == DATA and stat.S_IMODE(target.stat().st_mode) == 0o444
    assert names(folder) == [WANTED.file]
    assert steps == sorted(steps) and steps[-1] == (len(DATA), len(DATA))


def test_one_that_is_there_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(Given(), folder)
    monkeypatch.setattr(files, "sha256_file", lambda path: pytest.fail("it was read"))
    source = Given()
    assert not bring(source, folder) and source.asked == []


def test_the_same_bytes_by_another_hand_are_the_same(folder: Path) -> None:
    folder.mkdir()
    (folder / WANTED.file).write_bytes(DATA)
    assert not bring(Given(), folder)


@pytest.mark.parametrize("other", [b"", DATA[:-1], DATA[:-1] + b"x"])
def test_another_file_is_left_as_it_is(folder: Path, other: bytes) -> None:
    folder.mkdir()
    (folder / WANTED.file).write_bytes(other)
    with pytest.raises(StoreError, match="is another file"):
        bring(Given(), folder)
    assert (folder / WANTED.file).read_bytes() == other and names(folder) == [WANTED.file]


@pytest.mark.parametrize("ranges", [True, False])
def test_it_goes_on_where_it_broke_off(folder: Path, ranges: bool) -> None:
    third = len(DATA) // 3
    with pytest.raises(StoreError, match=f"after {third} of {len(DATA)} bytes"):
        bring(Given(end=third), folder)
    assert names(folder) == [f".{WANTED.file}.part"]
    source = Given(ranges=ranges)
    assert bring(source, folder)
    assert source.asked == [third]
    assert (folder / WANTED.file).read_bytes() == DATA and names(folder) == [WANTED.file]


@pytest.mark.parametrize("there", [b"x" * 1000, DATA[:-1] + b"x", DATA + b"more", b""])
def test_whatever_lies_there_of_another_time(folder: Path, there: bytes) -> None:
    folder.mkdir()
    (folder / f".{WANTED.file}.part").write_bytes(there)
    said: list[str] = []
    assert transfer.bring(WANTED, Given(), folder, said.append, lambda done, total: None)
    assert (folder / WANTED.file).read_bytes() == DATA
    assert said == ["what an earlier try left was damaged: it comes from the start"][: there[-1:] == b"x"]


def test_one_that_was_killed_before_it_got_its_name(folder: Path) -> None:
    folder.mkdir()
    part = folder / f".{WANTED.file}.part"
    part.write_bytes(DATA)
    part.chmod(0o444)
    source = Given()
    assert bring(source, folder) and source.asked == [len(DATA)]
    assert names(folder) == [WANTED.file]


@pytest.mark.parametrize("mode", [0o444, 0o600])
def test_a_pipe_in_the_place_of_the_part(folder: Path, mode: int) -> None:
    folder.mkdir()
    os.mkfifo(folder / f".{WANTED.file}.part", mode)
    with pytest.raises(StoreError, match="cannot write"):
        bring(Given(), folder)


def test_other_bytes_are_not_kept(folder: Path) -> None:
    changed = DATA[:5000] + b"x" + DATA[5001:]
    with pytest.raises(VerifyError, match="has other bytes than its record says"):
        bring(Given(changed), folder)
    assert names(folder) == []


def test_a_source_that_does_not_end(folder: Path) -> None:
    source = Given(DATA * 3)
    with pytest.raises(VerifyError, match="has other bytes"):
        bring(source, folder)
    assert names(folder) == []


def test_no_space_is_seen_before_anything_comes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda path: 1_000_000)
    source = Given()
    with pytest.raises(SpaceError, match=r"has 1\.0 MB free, and demo-1\.0-r1\.sqsh needs"):
        bring(source, folder)
    assert source.asked == [] and names(folder) == []


def test_a_disk_that_fills_up_keeps_what_came(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: Part, piece: bytes) -> None:
        with files.translated(folder):
            if part.size >= 1_000_000:
                raise OSError(errno.ENOSPC, "No space left on device")
        write(part, piece)

    write = Part.write
    with monkeypatch.context() as patch:
        patch.setattr(Part, "write", full)
        with pytest.raises(SpaceError, match="no space left"):
            bring(Given(), folder)
    source = Given()
    assert bring(source, folder) and source.asked == [1_000_000]


def test_a_file_system_without_hard_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert bring(Given(), folder)
    assert names(folder) == [WANTED.file]


def test_what_comes_to_be_there_meanwhile_is_not_written_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.chmod

    def chmod(path: Path, mode: int) -> None:
        (folder / WANTED.file).write_text("mine")
        real(path, mode)

    monkeypatch.setattr(os, "chmod", chmod)
    with pytest.raises(StoreError, match="has come to be there meanwhile"):
        bring(Given(), folder)
    assert (folder / WANTED.file).read_text() == "mine"


def _bring_counted(place: Path, folder: Path) -> None:
    brought = transfer.bring(WANTED, LocalFile(place), folder, lambda text: None, lambda done, total: None)
    os._exit(1 if brought else 0)


def test_twenty_at_once_make_one_copy(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "source"
    place.write_bytes(DATA)
    context = multiprocessing.get_context("fork")
    every = [context.Process(target=_bring_counted, args=(place, folder)) for _ in range(20)]
    for process in every:
        process.start()
    for process in every:
        process.join()
    assert sorted(process.exitcode or 0 for process in every) == [0] * 19 + [1]
    assert (folder / WANTED.file).read_bytes() == DATA and names(folder) == [WANTED.file]


def test_a_file_that_is_replaced_during_a_pull(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "source"
    place.write_bytes(DATA)

    def replace(done: int, total: int) -> None:
        new = tmp_path / "new"
        new.write_bytes(b"another")
        new.rename(place)

    assert transfer.bring(WANTED, LocalFile(place), folder, lambda text: None, replace)
    assert (folder / WANTED.file).read_bytes() == DATA


def test_a_disk_that_can_not_be_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def refused(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "source").write_bytes(DATA)
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: Broken(path))
    monkeypatch.setattr(os, "copy_file_range", refused)
    with pytest.raises(StoreError, match=f"cannot read {tmp_path}/source: Input/output error"):
        bring(LocalFile(tmp_path / "source"), folder)


@pytest.mark.parametrize("copied", [0, 1 << 20])
def test_a_system_that_does_not_copy_between_two_disks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: int
) -> None:
    """At all, or only the first of it."""
    real, done = os.copy_file_range, list[int]()

    def copy(source: int, target: int, count: int) -> int:
        if sum(done) >= copied:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        done.append(real(source, target, min(count, 1 << 19)))
        return done[-1]

    (tmp_path / "source").write_bytes(DATA)
    monkeypatch.setattr(os, "copy_file_range", copy)
    assert bring(LocalFile(tmp_path / "source"), folder)
    assert (folder / WANTED.file).read_bytes() == DATA and sum(done) == copied


def test_a_link_in_the_place_of_the_part_is_not_followed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (tmp_path / "other").write_text("somebody's")
    (folder / f".{WANTED.file}.part").symlink_to(tmp_path / "other")
    with pytest.raises(StoreError, match="cannot write"):
        bring(Given(), folder)
    assert (tmp_path / "other").read_text() == "somebody's"


def test_a_missing_source(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read"):
        bring(LocalFile(tmp_path / "none"), folder)


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> Wanted:
    monkeypatch.setattr(pieces, "SIZE", 1 << 20)
    each = [DATA[at : at + pieces.SIZE] for at in range(0, len(DATA), pieces.SIZE)]
    return replace(WANTED, pieces=tuple(f"sha256:{hashlib.sha256(piece).hexdigest()}" for piece in each))


@pytest.mark.parametrize(
    "there",
    [b"", DATA[:100], bytes(1 << 20) + DATA[1 << 20 :], DATA + b"more"],
    ids=["nothing", "little", "a hole", "too much"],
)
def test_a_local_file_comes_in_pieces(folder: Path, tmp_path: Path, in_pieces: Wanted, there: bytes) -> None:
    """Whatever an earlier try left of it, holes included."""
    folder.mkdir()
    (folder / f".{WANTED.file}.part").write_bytes(there)
    (tmp_path / "source").write_bytes(DATA)
    steps: list[tuple[int, int]] = []
    source = LocalFile(tmp_path / "source")
    assert transfer.bring(in_pieces, source, folder, pytest.fail, lambda *step: steps.append(step))
    assert (folder / WANTED.file).read_bytes() == DATA and names(folder) == [WANTED.file]
    assert steps == sorted(steps) and steps[-1] == (len(DATA), len(DATA))


def test_a_piece_with_other_bytes_is_not_taken(folder: Path, tmp_path: Path, in_pieces: Wanted) -> None:
    (tmp_path / "source").write_bytes(DATA[: 1 << 20] + b"\0" * (1 << 20) + DATA[2 << 20 :])
    with pytest.raises(VerifyError, match=f"in 1 of 4 pieces, from byte {1 << 20} on"):
        bring(LocalFile(tmp_path / "source"), folder, in_pieces)
    assert names(folder) == []


def test_a_file_that_is_replaced_while_it_comes_in_pieces(
    folder: Path, tmp_path: Path, in_pieces: Wanted
) -> None:
    place = tmp_path / "source"
    place.write_bytes(DATA)

    def change(done: int, total: int) -> None:
        (tmp_path / "new").write_bytes(b"another")
        (tmp_path / "new").rename(place)

    assert transfer.bring(in_pieces, LocalFile(place), folder, pytest.fail, change)
    assert (folder / WANTED.file).read_bytes() == DATA


@pytest.mark.parametrize("number", [0, 3, 5])
def test_a_record_whose_pieces_are_not_those_of_its_size(
    folder: Path, tmp_path: Path, in_pieces: Wanted, number: int
) -> None:
    (tmp_path / "source").write_bytes(DATA)
    odd = replace(in_pieces, pieces=(in_pieces.pieces * 2)[:number])
    assert bring(LocalFile(tmp_path / "source"), folder, odd)
    assert (folder / WANTED.file).read_bytes() == DATA


def test_an_empty_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    empty = replace(WANTED, size=0, digest=f"sha256:{hashlib.sha256().hexdigest()}")
    assert bring(LocalFile(tmp_path / "source"), folder, empty)
    assert (folder / WANTED.file).read_bytes() == b""
