from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kiln import drivergate, hardware, site
from kiln.bases import Found
from kiln.driver import FITS, NO_CUDA, TOO_OLD, UNKNOWN
from kiln.errors import ManifestError, VerifyError
from kiln.manifest import parse_base
from kiln.registry.oci import Resolved
from kiln.site import Site
from kiln.store import Store
from tests.unit.conftest import RECORD, Publisher
from tests.unit.test_driver import NGC_2508
from tests.unit.test_plan import planned

NGC = "nvcr.io/nvidia/pytorch:25.08-py3"


@pytest.fixture
def profile(tmp_path: Path) -> Site:
    """A site whose nodes have an older driver than this machine may have."""
    (tmp_path / "sites").mkdir()
    text = f"format: 1\nname: x\nimages: {tmp_path}/images\ncache: /c\ndriver: '560.35.05'\n"
    (tmp_path / "sites/x.yaml").write_text(text)
    return site.load("x", tmp_path, {})


def found(text: str, config: dict[str, Any] | None = None) -> Found:
    base = parse_base(text)
    resolved = None
    if config is not None:
        resolved = Resolved("docker://x", "amd64", "sha256:1", "t", "sha256:2", (), (), config, b"")
    return Found(base, base.label, "sha256:1", "sha256:1", 0, 0, 0, resolved=resolved)


def with_environment(environment: dict[str, str]) -> dict[str, Any]:
    return {"config": {"Env": [f"{name}={value}" for name, value in environment.items()]}}


def test_a_base_of_a_registry_says_it_in_its_config(profile: Site) -> None:
    assert drivergate.of_base(found(NGC, with_environment(NGC_2508)), profile).state == TOO_OLD
    newer = profile.model_copy(update={"driver": "580.65.06"})
    assert drivergate.of_base(found(NGC, with_environment(NGC_2508)), newer).state == FITS
    labelled = {"config": {"Labels": {"com.nvidia.cuda.version": "13.0"}}}
    assert drivergate.of_base(found(NGC, labelled), profile).state == TOO_OLD


@pytest.mark.parametrize("config", [{}, {"config": None}, {"config": {"Env": None, "Labels": []}}])
def test_a_config_without_any(profile: Site, config: dict[str, Any]) -> None:
    assert drivergate.of_base(found(NGC, config), profile).state == NO_CUDA


def test_without_a_profiles_driver_this_nodes_counts(profile: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    here = profile.model_copy(update={"driver": ""})
    monkeypatch.setattr(hardware, "driver", lambda: "580.65.06")
    assert drivergate.of_base(found(NGC, with_environment(NGC_2508)), here).state == FITS
    monkeypatch.setattr(hardware, "driver", lambda: "")
    assert drivergate.of_base(found(NGC, with_environment(NGC_2508)), here).state == UNKNOWN


def test_a_base_of_ours_says_it_in_its_record(profile: Site, put: Publisher, store: Store) -> None:
    put("demo")
    assert profile.images == store.root
    assert drivergate.of_base(found("image:demo"), profile).state == NO_CUDA
    assert drivergate.of_base(found("image:other"), profile).state == NO_CUDA
    record = dataclasses.replace(RECORD, environment=NGC_2508)
    assert drivergate.of_record(record, profile).state == TOO_OLD


def test_a_build_that_would_not_run_is_refused_with_the_tags_that_fit(profile: Site) -> None:
    base = found(NGC, with_environment(NGC_2508))
    made = dataclasses.replace(planned("workshop"), base=base, driver=drivergate.of_base(base, profile))
    with pytest.raises(
        VerifyError, match=r"workshop would not run: driver 560\.35\.05 runs CUDA 12\.6"
    ) as caught:
        drivergate.refuse(made, profile)
    assert caught.value.exit_code == 16
    assert "base: nvcr.io/nvidia/pytorch:25.07-py3" in caught.value.hint
    assert caught.value.details[1] == "fits driver 560.35.05: nvcr.io/nvidia/pytorch:25.06-py3"
    other = dataclasses.replace(made, base=found("ghcr.io/a/b:1", with_environment(NGC_2508)))
    with pytest.raises(VerifyError) as caught:
        drivergate.refuse(other, profile)
    assert caught.value.details == () and "take an older base" in caught.value.hint


def test_a_build_whose_driver_nobody_knows_goes_on(profile: Site) -> None:
    drivergate.refuse(planned("workshop"), profile)


@pytest.mark.parametrize("text", ["'550'", "550.54", "'new'", "550.54.15.1"])
def test_what_is_no_driver_in_a_profile_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites/x.yaml").write_text(f"format: 1\nname: x\nimages: /i\ncache: /c\ndriver: {text}\n")
    with pytest.raises(ManifestError):
        site.load("x", tmp_path, {})
