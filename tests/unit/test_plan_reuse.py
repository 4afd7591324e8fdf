"""Plans on a layer store: what is reused, why the rest runs, and when there is nothing to do."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kiln import manifest, plan, render
from kiln.bases import Found
from kiln.layers.entry import Entry
from kiln.layers.store import LayerStore, Wanted
from kiln.plan import Anew, Plan, Setting
from kiln.record import LayerRecord, SmokeResult
from kiln.runtime.namespace import MOST_LOWER
from kiln.store import Entry as Published
from tests.unit import layertiers
from tests.unit.conftest import RECORD

HEAD = "format: 1\nname: demo\nbase: debian:12\n"
APT, PIP, RUN = "apt: [git]", "pip: [a==1]", "run: echo a"
SIZE = 10**9


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(layertiers.local(tmp_path), None, None)


@pytest.fixture
def setting(tmp_path: Path, store: LayerStore) -> Setting:
    (tmp_path / "manifests").mkdir()
    return Setting(
        manifests=tmp_path / "manifests",
        hooks=tmp_path / "hooks",
        folder=tmp_path / "images",
        work=tmp_path / "work",
        blobs=tmp_path / "blobs",
        runtime="embedded",
        architecture="amd64",
        packing=("-x",),
        unpacker="kiln",
        store=store,
    )


def planned(setting: Setting, *layers: str, digest: str = "sha256:1", more: str = "", **how: Any) -> Plan:
    listed = "".join(f"  - {layer}\n" for layer in layers)
    (setting.manifests / "demo.yaml").write_text(f"{HEAD}{more}layers:\n{listed}" if layers else HEAD + more)
    loaded = manifest.load(setting.manifests / "demo.yaml")
    found = Found(loaded.base, "12", digest, digest, 1_700_000_000, 2 * SIZE, 5 * SIZE)
    return plan.make(loaded, found, dataclasses.replace(setting, **how))


def built(made: Plan, setting: Setting) -> list[Entry]:
    """Put what a build of the plan would make into the store."""
    assert setting.store
    local, parent, found = setting.store.local, "", []
    wanted = [made.base_wanted, *(item.wanted for item in made.layers)]
    for each, lookup in zip(wanted, [made.base_lookup, *(item.lookup for item in made.layers)], strict=True):
        entry = lookup.entry or _made(each, parent, setting)
        found.append(entry)
        parent = entry.id
    local.remember("demo", made.inputs)
    return found


def _made(wanted: Wanted, parent: str, setting: Setting) -> Entry:
    assert setting.store
    identity = f"{wanted.kind}-{time.monotonic_ns()}"
    new = dataclasses.replace(
        layertiers.entry(identity, wanted.kind, wanted.key.digest, parent), made=time.time()
    )
    tree = layertiers.tree(setting.manifests.parent / identity)
    done = setting.store.local.put(new, tree, None)
    # As if it were large.
    about = setting.store.local.folder(wanted.kind, wanted.key.digest) / "entry.json"
    about.write_bytes(dataclasses.replace(done, size=SIZE).to_json())
    return dataclasses.replace(done, size=SIZE)


def reasons(made: Plan) -> list[str]:
    """The words for the base and each layer; '' for what is reused."""
    lookups = [made.base_lookup, *(item.lookup for item in made.layers)]
    return ["" if each.entry else each.reason for each in lookups]


# --- why a layer runs --------------------------------------------------------------------------


def test_a_first_build_makes_all(setting: Setting) -> None:
    assert reasons(planned(setting, APT, PIP)) == ["not in the store"] * 3


def test_a_second_build_makes_nothing(setting: Setting) -> None:
    built(planned(setting, APT, PIP), setting)
    made = planned(setting, APT, PIP)
    assert reasons(made) == ["", "", ""]
    assert [item.reason for item in made.layers] == ["made 0 s ago"] * 2


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ((APT, PIP, "run: echo b"), ["", "", "", "changed: script"]),
        (
            ("apt: [git, vim]", PIP, RUN),
            ["", "changed: packages +vim", *["layer 1 below it is made anew"] * 2],
        ),
        (
            (APT, "pip: [a==2]", "run: echo b"),
            ["", "", "changed: packages +a==2 -a==1", "changed: script"],
        ),
        ((APT, PIP, RUN, "run: echo c"), ["", "", "", "", "not in the store"]),
        ((APT, RUN), ["", "", "not in the store"]),
        ((APT, PIP), ["", "", ""]),
        (("run: echo z", APT, PIP, RUN), ["", *["not in the store"] * 4]),
    ],
)
def test_what_changed_is_said_and_what_stands_on_it(
    setting: Setting, layers: tuple[str, ...], why: list[str]
) -> None:
    built(planned(setting, APT, PIP, RUN), setting)
    assert reasons(planned(setting, *layers)) == why


def test_what_the_whole_image_has_is_said_for_each_layer(setting: Setting) -> None:
    built(planned(setting, APT, PIP), setting)
    assert reasons(planned(setting, APT, PIP, more="env: {A: '1'}\n")) == [
        "",
        "changed: env A",
        "changed: env A",
    ]
    assert reasons(planned(setting, APT, PIP, architecture="arm64")) == ["", *["changed: architecture"] * 2]
    base = planned(setting, APT, PIP, digest="sha256:2")
    assert reasons(base) == ["changed: base", *["the base below it is made anew"] * 2]
    unpacked = planned(setting, APT, PIP, unpacker="enroot")
    assert reasons(unpacked) == [
        "changed: Kiln's own way of making it",
        *["the base below it is made anew"] * 2,
    ]


def test_what_is_asked_for_anew_is_said_and_what_stands_on_it(setting: Setting) -> None:
    built(planned(setting, APT, PIP, RUN), setting)
    made = planned(setting, APT, PIP, RUN, anew=Anew(1, "--no-cache"))
    assert reasons(made) == ["", *["--no-cache"] * 3]
    made = planned(setting, APT, PIP, RUN, anew=Anew(3, "--from 3"))
    assert reasons(made) == ["", "", "", "--from 3"]
    # A build of one layer anew leaves what stood on the old one unfit.
    made = planned(setting, APT, PIP, RUN, anew=Anew(2, "--from 2"))
    _made(
        made.layers[1].wanted, made.layers[0].lookup.entry.id if made.layers[0].lookup.entry else "", setting
    )
    assert reasons(planned(setting, APT, PIP, RUN)) == ["", "", "", "what lies below was made anew since"]


def test_an_old_layer_that_time_can_change_is_made_anew_with_what_stands_on_it(setting: Setting) -> None:
    built(planned(setting, APT, PIP), setting)
    assert setting.store
    store = dataclasses.replace(setting.store, stale_after=-1.0)
    made = planned(setting, APT, PIP, store=store)
    assert reasons(made) == [
        "",
        "made 0 s ago, and it doesn't name exact versions",
        "layer 1 below it is made anew",
    ]


def test_what_is_gone_is_said(setting: Setting) -> None:
    entries = built(planned(setting, APT, PIP), setting)
    assert setting.store
    setting.store.local.remove(entries[1], frozenset())
    assert reasons(planned(setting, APT, PIP)) == [
        "",
        "no longer in the store",
        "layer 1 below it is made anew",
    ]
    setting.store.local.remove(entries[0], frozenset())
    assert reasons(planned(setting, APT, PIP))[0] == "no longer in the store"


def test_a_damaged_memory_explains_nothing(setting: Setting) -> None:
    made = planned(setting, APT)
    assert setting.store
    strange: list[list[dict[str, object]]] = [
        [{"env": 5, "packages": "x", "files": None}] * 2,
        [{}],
        [{}, {"kind": "apt", "env": [1]}],
        [{"base": [[]]}, {"kind": "apt", "env": [["a"]], "files": [], "packages": [1]}],
    ]
    for damaged in strange:
        setting.store.local.remember("demo", damaged)
        assert len(reasons(planned(setting, APT))) == len(reasons(made))


def test_without_a_store_every_layer_says_why(setting: Setting) -> None:
    made = planned(setting, APT, store=None, uncached="no overlays here")
    assert reasons(made) == ["every build makes it: no overlays here"] * 2
    assert made.to_data()["layer_cache"] == "no overlays here"


def test_too_many_layers_to_be_stacked(setting: Setting) -> None:
    made = planned(setting, *[RUN] * (MOST_LOWER - 1))
    assert plan.too_many(made.manifest) == ""
    made = planned(setting, *[RUN] * MOST_LOWER)
    assert plan.too_many(made.manifest) == f"it has {MOST_LOWER} layers, more than overlays take"


# --- as it is told -----------------------------------------------------------------------------


def test_the_plan_as_data_and_for_people(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    built(planned(setting, APT, PIP), setting)
    made = planned(setting, APT, "pip: [b]")
    data = made.to_data()
    assert (data["layer_cache"], data["up_to_date"], data["key"]) == ("on", None, made.key.digest)
    assert [layer["reused"] for layer in data["layers"]] == [True, False]
    assert data["layers"][1]["reason"] == "changed: packages +b -a==1"
    assert len({layer["key"] for layer in (data["base"], *data["layers"])}) == 3
    render.plan(Console(width=200), made)
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "0 base debian:12 reused made 0 s ago" in said
    assert "2 pip b runs changed: packages +b -a==1" in said
    assert "layers kept yes" in said


# --- space -------------------------------------------------------------------------------------


def sizes(made: Plan) -> dict[str, int]:
    return {need.path.name: need.size for need in made.needs}


def test_what_is_reused_needs_room_only_to_be_tested(setting: Setting) -> None:
    first = sizes(planned(setting, APT, RUN))
    new = 5 * SIZE + plan.SMALL_LAYER_BYTES + plan.LAYER_BYTES["run"]
    packed = int(new * plan.PACKED_PER_UNPACKED)
    assert first == {"work": 2 * new + packed, "images": packed, "blobs": 2 * SIZE}
    assert sizes(planned(setting, APT, RUN, uncached="x"))["work"] == new + packed
    built(planned(setting, APT, RUN), setting)
    packed = int(3 * SIZE * plan.PACKED_PER_UNPACKED)
    assert sizes(planned(setting, APT, RUN)) == {"work": 3 * SIZE + packed, "images": packed}


def test_what_is_in_the_shared_tier_needs_room_to_be_unpacked(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(planned(setting, APT), setting)
    original = LayerStore.look
    monkeypatch.setattr(LayerStore, "look", lambda *args: dataclasses.replace(original(*args), packed=True))
    unpacked = 2 * int(SIZE / plan.PACKED_PER_UNPACKED)
    assert sizes(planned(setting, APT))["work"] == 2 * unpacked + int(unpacked * plan.PACKED_PER_UNPACKED)


# --- nothing to do -----------------------------------------------------------------------------


def published(made: Plan, size: int = 3, smoke: Iterable[str] = ("passed",), ago: float = 0.0) -> Published:
    """A version that was published from the plan."""
    made.target.parent.mkdir(exist_ok=True)
    made.target.write_bytes(b"abc")
    layers = tuple(
        LayerRecord(item.layer.kind, item.title, 1.0, item.wanted.key.digest, time.time() - ago)
        for item in made.layers
    )
    results = tuple(SmokeResult("hook", (), state, True, 0.1) for state in smoke)
    record = dataclasses.replace(RECORD, key=made.key.digest, size=size, layers=layers, smoke=results)
    return Published("demo", "12-r1", made.target, record)


def again(setting: Setting, entry: Published, *layers: str, **how: Any) -> bool:
    """Whether a build of these layers has nothing to do."""
    return planned(setting, *layers, published=(entry,), **how).published == entry


def test_the_same_again_is_up_to_date(setting: Setting) -> None:
    entry = published(planned(setting, APT, RUN))
    assert again(setting, entry, APT, RUN)
    assert planned(setting, APT, RUN, published=(entry,)).to_data()["up_to_date"] == "12-r1"


@pytest.mark.parametrize(
    "how",
    [
        {"digest": "sha256:2"},
        {"more": "workdir: /w\n"},
        {"packing": ("-y",)},
        {"unpacker": "enroot"},
        {"anew": Anew(2, "--from 2")},
        {"architecture": "arm64"},
    ],
    ids=str,
)
def test_another_image_is_not_up_to_date(setting: Setting, how: dict[str, Any]) -> None:
    assert not again(setting, published(planned(setting, APT, RUN)), APT, RUN, **how)


def test_a_file_that_is_missing_or_of_another_size_is_not_up_to_date(setting: Setting) -> None:
    made = planned(setting, RUN)
    assert not again(setting, published(made, size=4), RUN)
    entry = published(made)
    entry.path.unlink()
    assert not again(setting, entry, RUN)
    assert not again(setting, dataclasses.replace(published(made), record=None), RUN)


def test_a_candidate_is_finished_where_there_is_a_gpu(setting: Setting) -> None:
    entry = published(planned(setting, RUN), smoke=("passed", "skipped"))
    assert again(setting, entry, RUN)
    assert not again(setting, entry, RUN, gpu=True)
    assert again(setting, published(planned(setting, RUN)), RUN, gpu=True)


def test_an_image_grows_old_by_its_layers_that_time_can_change(setting: Setting) -> None:
    exact = published(planned(setting, PIP, RUN), ago=100.0)
    assert again(setting, exact, PIP, RUN, stale_after=50.0)
    entry = published(planned(setting, APT, RUN), ago=100.0)
    assert again(setting, entry, APT, RUN)
    assert again(setting, entry, APT, RUN, stale_after=200.0)
    assert not again(setting, entry, APT, RUN, stale_after=50.0)


def test_the_best_of_several_versions_is_taken(setting: Setting) -> None:
    good = published(planned(setting, RUN))
    other = dataclasses.replace(good, record=dataclasses.replace(RECORD, key="x"))
    assert planned(setting, RUN, published=(other, good)).published == good
    assert planned(setting, RUN, published=(other,)).published is None
