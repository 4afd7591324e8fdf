"""Secrets of a layer: what a manifest may say, what the layer gets, and where they are not."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from kiln import files, layersecrets, manifest
from kiln.errors import ManifestError, UsageError
from kiln.layers import key
from kiln.layers.store import Lookup, Wanted
from kiln.manifest import Manifest, RunLayer
from kiln.plan import PlannedLayer
from kiln.protection import Protection
from kiln.secretsource import Secret
from kiln.workspace import Workspace

TOKEN = "hf_0123456789abcdef"


def loaded(tmp_path: Path, **layer: Any) -> Manifest:
    data = {
        "format": 1,
        "name": "x",
        "base": "debootstrap:bookworm",
        "layers": [{"run": {"script": "true", **layer}}],
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(data))
    return manifest.load(tmp_path / "x.yaml")


def workspace(tmp_path: Path) -> Workspace:
    private = Workspace(tmp_path / "private")
    private.scratch.mkdir(parents=True)
    return private


def layer(**secrets: Secret) -> RunLayer:
    return RunLayer(script="true", secrets=secrets)


def test_a_manifest_names_where_the_caller_has_them(tmp_path: Path) -> None:
    given = {"hf": {"env": "HF_TOKEN", "variable": "HF_TOKEN"}, "netrc": {"file": "~/.netrc"}}
    [run] = loaded(tmp_path, secrets=given).layers
    assert layersecrets.declared(run) == {
        "hf": Secret(env="HF_TOKEN", variable="HF_TOKEN"),
        "netrc": Secret(file="~/.netrc"),
    }
    assert layersecrets.declared(RunLayer(script="true")) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hf": {}}, "a secret has one source"),
        ({"hf": {"env": "A", "file": "~/a"}}, "a secret has one source"),
        ({"hf": {"file": "token"}}, "is not a path of the caller's"),
        ({"hf": {"file": "~/../etc/passwd"}}, "is not a path of the caller's"),
        ({"hf": {"env": "A-B"}}, "can't be the name of a variable"),
        ({"../hf": {"env": "A"}}, "can't be the name of a secret"),
        ({"hf": {"env": "A", "value": "x"}}, "unknown key 'value'"),
        ({"hf": "HF_TOKEN"}, "a mapping is wanted"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, given: object, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        loaded(tmp_path, secrets=given)
    assert said in "\n".join(caught.value.details)


def test_a_layer_gets_files_of_its_own_and_variables_that_were_asked_for(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.netrc").write_text("machine a login b password c\n")
    environ = {"HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    wanted = layer(
        hf=Secret(env="HF_TOKEN", variable="HF_TOKEN"),
        netrc=Secret(file="~/.netrc", variable="NETRC"),
        quiet=Secret(env="HF_TOKEN"),
    )
    private = workspace(tmp_path)
    with layersecrets.lent(wanted, environ, private) as lent:
        (private.scratch / "copy").write_text(TOKEN)
        assert lent.env == {"HF_TOKEN": TOKEN, "NETRC": "/run/kiln/secrets/netrc"}
        assert [mount.target for mount in lent.mounts] == [
            f"/run/kiln/secrets/{name}" for name in ("hf", "netrc", "quiet")
        ]
        assert all(mount.read_only for mount in lent.mounts)
        assert [mount.source.read_text() for mount in lent.mounts] == [
            TOKEN,
            "machine a login b password c\n",
            TOKEN,
        ]
        assert {stat.S_IMODE(mount.source.stat().st_mode) for mount in lent.mounts} == {0o600}
        assert TOKEN not in repr(lent)
    assert [path.name for path in private.path.rglob("*")] == ["scratch"]


def test_nothing_stays_when_a_layer_fails(tmp_path: Path) -> None:
    wanted, private = layer(a=Secret(env="T")), workspace(tmp_path)
    with pytest.raises(ZeroDivisionError), layersecrets.lent(wanted, {"T": TOKEN}, private):
        raise ZeroDivisionError
    assert [path.name for path in private.path.rglob("*")] == ["scratch"]


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (Secret(env="MISSING"), "the variable MISSING is not set"),
        (Secret(env="EMPTY"), "the variable EMPTY is empty"),
        (Secret(env="SHORT"), "fewer than 8 characters"),
        (Secret(file="~/none"), "can't be read: No such file"),
        (Secret(file="~/empty"), "is empty"),
        (Secret(file="~/bytes"), "is not text"),
        (Secret(file="~/large"), "is not text of at most 1 MiB"),
    ],
)
def test_what_the_caller_lacks_is_told_for_all_layers_that_run(
    tmp_path: Path, secret: Secret, said: str
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe" * 20)
    (tmp_path / "large").write_bytes(b"x" * (layersecrets.LARGEST + 1))
    environ = {"HOME": str(tmp_path), "EMPTY": "", "SHORT": "abc"}
    wanted = Wanted("layer", key.of({}), "run")
    items = [PlannedLayer(n, layer(hf=secret), wanted, Lookup(None, "never made")) for n in (1, 2)]
    with pytest.raises(UsageError) as caught:
        layersecrets.check(items, environ)
    assert len(caught.value.details) == 2
    assert said in caught.value.details[1]
    assert caught.value.details[1].startswith("layer 2 (run true): secret hf: ")


def test_of_secrets_a_key_has_the_names_alone(tmp_path: Path) -> None:
    def of(**secrets: Secret) -> str:
        return key.of_layer(layer(**secrets), "0", {}, Protection(), tmp_path, "amd64").digest

    assert of(hf=Secret(env="A")) == of(hf=Secret(file="~/a"))
    assert (
        len({of(), of(hf=Secret(env="A")), of(x=Secret(env="A")), of(hf=Secret(env="A", variable="A"))}) == 4
    )
    inputs = key.of_layer(
        layer(hf=Secret(env="A", variable="B")), "0", {}, Protection(), tmp_path, "amd64"
    ).inputs
    assert inputs["secrets"] == {"hf": "B"}
    assert "A" not in files.canonical_json(inputs["secrets"])


def test_a_layer_without_secrets_has_the_key_that_it_had(tmp_path: Path) -> None:
    assert "secrets" not in key.of_layer(layer(), "0", {}, Protection(), tmp_path, "amd64").inputs
