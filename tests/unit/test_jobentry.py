"""What a job does by itself: with no environment, after its parents, in its own folder."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kiln import ledger
from kiln.errors import StoreError
from kiln.ledger import Entry, Job, Ledger, Reader
from kiln.schedulers.contract import BLOCKED, DONE, ENDED, LOST, QUEUED, Status
from kiln.submission import verdict


@pytest.fixture
def book(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "odd $(touch pwned) 'jobs' % \"x\"")


def job(tmp_path: Path, *argv: str) -> Job:
    for name in ("manifests", "sites"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "sites/local.yaml").write_text("format: 1\nname: local\nimages: images\ncache: cache\n")
    return Job(
        kind="build",
        image="one",
        reference="one",
        argv=argv,
        root=str(tmp_path),
        environment={},
        umask=0o027,
        scheduler="pbs",
        store=str(tmp_path / "images"),
        submitted=time.time(),
    )


def start(entry: Entry) -> int:
    """As a scheduler does it: no environment but the job's own."""
    done = subprocess.run([str(entry.script)], env={"PBS_JOBID": "7.srv"}, cwd="/", check=False, timeout=60)
    return done.returncode


def test_a_job_needs_no_environment_and_keeps_its_word(book: Ledger, tmp_path: Path) -> None:
    entry = book.add(job(tmp_path, "build", "one", "--json", "--on", "here"))
    assert entry.status == Status(QUEUED)
    assert start(entry) == 2
    assert (entry.id, entry.said) == ("7.srv", Status(ENDED, "failed", 2))
    reader = Reader(entry.events)
    reader.news()
    assert "there is no manifest 'one'" in reader.error["message"]
    assert not list(tmp_path.rglob("pwned"))
    assert {path.stat().st_mode & 0o077 for path in (book.folder, entry.path, *entry.path.iterdir())} == {0}


def test_a_job_whose_parent_did_not_end_well_starts_nothing(book: Ledger, tmp_path: Path) -> None:
    parent = book.add(job(tmp_path))
    child = book.add(replace(job(tmp_path, "list"), after=(parent.name,)))
    for code, words in ((None, "did not come to its end"), (6, "failed (exit code 6)")):
        if code is not None:
            parent.ends(code)
        assert start(child) == 24
        assert words in child.events.read_text().splitlines()[-1]
    parent.ends(0)
    (tmp_path / "images").mkdir()
    assert start(child) == 0


def test_a_checkout_that_is_gone_is_told(book: Ledger, tmp_path: Path) -> None:
    entry = book.add(replace(job(tmp_path), root=str(tmp_path / "gone")))
    assert start(entry) == 1
    assert "No such file" in entry.log.read_text()


def test_what_is_known_of_a_job(book: Ledger, tmp_path: Path) -> None:
    entry = book.add(job(tmp_path))
    now = entry.job.submitted
    gone = Status(ENDED, LOST, reason="its scheduler knows it no more, and it left no word of its end")
    assert verdict(entry, None, now + 1) == Status(QUEUED)
    assert verdict(entry, None, now + 60) == gone
    assert verdict(entry, None, now - 86_400) == Status(QUEUED), "a clock that was put back"
    assert verdict(entry, Status(ENDED, BLOCKED), now).cause == LOST, "it waits for nobody"
    entry.ends(0)
    assert verdict(entry, None, now + 60).cause == DONE
    entry.settle(Status(ENDED, LOST))
    assert book.entry(entry.name).status.cause == LOST


def test_damaged_folders_and_cut_off_events(book: Ledger, tmp_path: Path) -> None:
    entry = book.add(job(tmp_path))
    other = book.add(job(tmp_path))
    (other.path / "job.json").write_text("{")
    assert [each.name for each in book.entries()] == [entry.name]
    with pytest.raises(StoreError, match="can't be read as a job"):
        book.entry(other.name)
    (entry.path / "end.json").write_text('["x"]')
    assert entry.said is None
    events = [{"event": "step-started", "step": "a"}, 7, {"event": "error", "message": "m"}]
    entry.events.write_text("\n".join(map(json.dumps, events)) + '\nnot JSON\n{"event": "step-sta')
    reader = Reader(entry.events)
    assert (reader.news(), reader.error["message"]) == (["a"], "m")
    with entry.events.open("a") as stream:
        stream.write('rted", "step": "b"}\n')
    assert reader.news() == ["b"]


def test_old_jobs_are_tidied_away(book: Ledger, tmp_path: Path) -> None:
    entry = book.add(job(tmp_path))
    entry.settle(Status(ENDED, DONE, 0))
    book.tidy()
    assert book.entries() == [entry]
    (entry.path / "end.json").write_text(json.dumps({"code": 0, "time": time.time() - 40 * 86_400}))
    book.tidy()
    assert book.entries() == []


def test_anothers_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(StoreError, match="isn't yours"):
        ledger.private_folder(tmp_path)
