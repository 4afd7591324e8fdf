"""Work handed to a scheduler: which jobs, in which order, after which; one of a kind at a time."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
import yaml

from kiln import cancellation, following, jobreport, ledger
from kiln.context import Context, open_context
from kiln.errors import BlockedError, JobFailure, ManifestError, UsageError
from kiln.schedulers import choice
from kiln.schedulers.contract import (
    BLOCKED,
    CANCELLED,
    DONE,
    ENDED,
    FAILED,
    WALLTIME,
    NoAnswer,
    Request,
    Status,
)  # fmt: skip
from kiln.submission import Submitter, Work
from kiln.ui import PlainUi
from tests.unit.memoryscheduler import Memory


@pytest.fixture
def said() -> io.StringIO:
    """What a person is told."""
    return io.StringIO()


@pytest.fixture
def context(tmp_path: Path, said: io.StringIO) -> Context:
    for name in ("manifests", "sites", "hooks"):
        (tmp_path / name).mkdir()
    (tmp_path / "sites/local.yaml").write_text("format: 1\nname: local\nimages: images\ncache: cache\n")
    hook = tmp_path / "hooks/card"
    hook.write_text("#!/bin/sh\n# about: a GPU\n# needs: gpu\n")
    hook.chmod(0o755)
    return open_context(tmp_path, None, None, {}, PlainUi(io.StringIO(), said))


def image(context: Context, name: str, parent: str = "", **more: object) -> None:
    data = {"format": 1, "name": name, "base": f"image:{parent}" if parent else "sqsh:x.sqsh", **more}
    (context.manifests / f"{name}.yaml").write_text(yaml.safe_dump(data))


@pytest.fixture
def submitter(context: Context, monkeypatch: pytest.MonkeyPatch) -> Submitter:
    found = Memory()
    monkeypatch.setattr(choice, "scheduler", lambda *_: found)
    return Submitter(context, found, ledger.of(context.site.jobs_folder), {})


def memory(submitter: Submitter) -> Memory:
    assert isinstance(submitter.scheduler, Memory)
    return submitter.scheduler


def asked(submitter: Submitter) -> dict[str, list[str]]:
    return {request.name: list(request.after) for request in memory(submitter).requests}


def test_children_come_after_their_parents_and_gpu_tests_after_builds(submitter: Submitter) -> None:
    image(submitter.context, "child", "top")
    image(submitter.context, "top", smoke=["card"])
    image(submitter.context, "free")
    sent = submitter.submit(Work("build", ["child", "free", "top"], ["--locked"]))
    assert asked(submitter) == {"build-top": [], "smoke-top": ["1"], "build-child": ["2"], "build-free": []}
    assert all(each.entry and not each.found for each in sent)
    first = sent[0].entry
    assert first
    assert first.job.argv[:3] == ("build", "top", "--locked")
    assert first.job.argv[4:6] == ("--on", "here"), "a job submits no other"
    assert sent[1].entry and sent[1].entry.job.argv[:3] == ("smoke", "top", "--pending")
    # A node that has GPUs for builds tests there.
    image(submitter.context, "own", smoke=["card"], jobs={"build": {"gpus": 1}})
    assert len(submitter.submit(Work("build", ["own"], ["--renew"]))) == 1


def test_a_parent_that_is_over_is_looked_at_before(submitter: Submitter) -> None:
    image(submitter.context, "top")
    image(submitter.context, "child", "top")
    submitter.submit(Work("build", ["top"]))
    memory(submitter).status["1"] = Status(ENDED, DONE, 0)
    submitter.submit(Work("build", ["child"]))
    assert asked(submitter)["build-child"] == [], "it is there already"


def test_a_parent_that_dies_meanwhile_blocks(submitter: Submitter, monkeypatch: pytest.MonkeyPatch) -> None:
    image(submitter.context, "top")
    image(submitter.context, "child", "top")
    usual = Memory.submit

    def submit(self: Memory, request: Request) -> str:
        job = usual(self, request)
        self.status[job] = Status(ENDED, FAILED, 6)
        return job

    monkeypatch.setattr(Memory, "submit", submit)
    sent = submitter.submit(Work("build", ["top", "child"]))
    assert asked(submitter) == {"build-top": []}
    assert isinstance(sent[1].problem, BlockedError)
    assert "build top (job 1) is over: failed" in sent[1].problem.message


def test_two_that_submit_at_once_make_one_job(submitter: Submitter) -> None:
    image(submitter.context, "one")
    sent = submitter.submit(Work("build", ["one"])) + submitter.submit(Work("build", ["one"], ["--renew"]))
    assert [each.found for each in sent] == [False, True]
    memory(submitter).status["1"] = Status(ENDED, WALLTIME)
    assert not submitter.submit(Work("build", ["one"]))[0].found, "what has ended is no reason"
    assert len(memory(submitter).requests) == 2
    threads = [threading.Thread(target=submitter.submit, args=(Work("build", ["one"]),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(memory(submitter).requests) == 2


def test_a_scheduler_that_falls_silent_is_asked_no_more(submitter: Submitter) -> None:
    for name in ("a", "b", "c"):
        image(submitter.context, name)
    memory(submitter).down = 1
    with pytest.raises(NoAnswer) as caught:
        submitter.submit(Work("build", ["a", "b", "c"]))
    assert "submitted before that: a (job 1)" in caught.value.details


def test_what_a_job_could_not_have_is_refused_before_the_first(submitter: Submitter) -> None:
    image(submitter.context, "a")
    image(
        submitter.context, "b", layers=[{"run": {"script": "true", "secrets": {"token": {"env": "TOKEN"}}}}]
    )
    with pytest.raises(UsageError, match="layer 1 of b has the secret token from the variable TOKEN"):
        submitter.submit(Work("build", ["a", "b"]))
    image(submitter.context, "b", "b")
    with pytest.raises(ManifestError):
        submitter.submit(Work("build", ["a", "b"]))
    assert asked(submitter) == {}


def test_who_waits_is_cancelled_first(submitter: Submitter) -> None:
    image(submitter.context, "top", smoke=["card"])
    image(submitter.context, "child", "top")
    image(submitter.context, "free")
    submitter.submit(Work("build", ["top", "child", "free"]))
    cancellation.cancel(submitter.context, "top")
    assert memory(submitter).cancelled == ["3", "2", "1"]
    with pytest.raises(UsageError, match="no job of 'nobody' is queued or running"):
        cancellation.cancel(submitter.context, "nobody")


def test_a_wait_goes_by_the_jobs_own_word_while_the_scheduler_is_silent(
    submitter: Submitter, said: io.StringIO
) -> None:
    image(submitter.context, "one")
    [sent] = submitter.submit(Work("build", ["one"]))
    assert sent.entry
    sent.entry.ends(6)
    memory(submitter).down = 0
    following.follow(submitter.context, [sent.entry])
    assert "it does not answer; the jobs go on, and it is asked again" in said.getvalue()
    with pytest.raises(JobFailure) as caught:
        jobreport.conclude([jobreport.report(sent.entry)])
    assert caught.value.exit_code == 6


def test_nothing_to_wait_for_is_not_waited_for(context: Context, said: io.StringIO) -> None:
    following.follow(context, [])
    assert not said.getvalue()


def test_what_counts_is_the_first_that_failed_not_what_it_blocks(submitter: Submitter) -> None:
    for name in ("a", "b"):
        image(submitter.context, name)
    entries = [each.entry for each in submitter.submit(Work("build", ["a", "b"])) if each.entry]
    ends = (Status(ENDED, BLOCKED), Status(ENDED, CANCELLED))
    reports = [jobreport.report(entry, status) for entry, status in zip(entries, ends, strict=True)]
    with pytest.raises(JobFailure) as caught:
        jobreport.conclude(reports)
    assert (caught.value.exit_code, len(caught.value.details)) == (23, 2)
    with pytest.raises(BlockedError):
        jobreport.conclude(reports[:1])
    jobreport.conclude([jobreport.report(entries[0], Status(ENDED, DONE, 0))])
