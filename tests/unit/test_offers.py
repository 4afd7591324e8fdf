"""What can be pulled, from a folder and from a web server that serves one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiln import channels, offers, transfer
from kiln.errors import NetworkError, StoreError, VerifyError
from kiln.offers import Folder, Place, Web
from kiln.registry.transport import Network, Transport
from kiln.standing import Standing
from kiln.store import Store
from tests.imageserver import Server
from tests.unit.conftest import Publisher


@pytest.fixture
def server(store: Store) -> Iterator[Server]:
    with Server(store.root) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def transport() -> Transport:
    return Transport(Network(), lambda text: None, wait=lambda stop, seconds: False)


@pytest.fixture(params=["folder", "web"])
def place(request: pytest.FixtureRequest, store: Store, server: Server, transport: Transport) -> Place:
    return Folder(store) if request.param == "folder" else Web(server.url, transport)


def bring(place: Place, reference: str, folder: Path) -> bytes:
    offer = place.find(reference)
    transfer.bring(offer.wanted, offer.source, folder, lambda text: None, lambda done, total: None)
    return (folder / offer.record.file).read_bytes()


def test_both_places_offer_the_same(place: Place, store: Store, put: Publisher, tmp_path: Path) -> None:
    put("demo")
    put("demo")
    put("demo", smoke=("skipped",))
    wanted = {"demo": "1.0-r2", "demo:current": "1.0-r2", "demo:candidate": "1.0-r3", "demo:1.0-r1": "1.0-r1"}
    assert {reference: place.find(reference).version for reference in wanted} == wanted
    assert bring(place, "demo", tmp_path / "to") == store.image("demo", "1.0-r2").read_bytes()
    offer = place.find("demo")
    assert offer.standing == Standing()


def test_a_version_out_of_use_is_said(place: Place, store: Store, put: Publisher) -> None:
    put("demo")
    put("demo")
    channels.deprecate(store, "demo:1.0-r1", "9999-01-31", "demo:1.0-r2", "old CUDA", lambda text: None)
    channels.revoke(store, "demo:1.0-r2", "a token in it", lambda text: None)
    assert place.find("demo:1.0-r1").standing.text == "deprecated until 9999-01-31: old CUDA; use demo:1.0-r2"
    assert place.find("demo").standing.refused == "revoked: a token in it"


def test_what_there_is_not(place: Place, put: Publisher) -> None:
    put("demo")
    with pytest.raises(StoreError, match="no image 'dmeo'") as caught:
        place.find("dmeo")
    assert "did you mean 'demo'" in caught.value.hint
    with pytest.raises(StoreError, match="no version '7' of demo") as caught:
        place.find("demo:7")
    assert "1.0-r1" in caught.value.hint


def test_a_record_that_names_another_place(place: Place, store: Store, put: Publisher) -> None:
    put("demo")
    path = store.record("demo", "1.0-r1")
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), "file": "../../etc/passwd"}))
    with pytest.raises(VerifyError, match=r"is about .*etc.passwd"):
        place.find("demo")


def test_a_damaged_record(place: Place, store: Store, put: Publisher) -> None:
    put("demo")
    path = store.record("demo", "1.0-r1")
    path.chmod(0o644)
    path.write_text("{")
    with pytest.raises(StoreError, match="can't be read as a record"):
        place.find("demo")


def large(store: Store, put: Publisher) -> bytes:
    """A version of some pieces, whose record knows it."""
    put("demo")
    data = bytes(range(256)) * 8000
    image, about = store.image("demo", "1.0-r1"), store.record("demo", "1.0-r1")
    for path in (image, about):
        path.chmod(0o644)
    image.write_bytes(data)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    about.write_text(json.dumps({**json.loads(about.read_text()), "digest": digest, "size": len(data)}))
    return data


def test_a_line_that_is_cut_is_gone_on_with(
    server: Server, transport: Transport, store: Store, put: Publisher, tmp_path: Path
) -> None:
    data, server.cut = large(store, put), 8
    assert bring(Web(server.url, transport), "demo", tmp_path / "to") == data
    ranges = [ranged for path, ranged in server.asked if path.endswith(".sqsh")]
    assert len(ranges) == 4 and ranges[0] == "" and ranges[1] == f"bytes={5 << 17}-"


def test_a_server_without_ranges_begins_anew(
    server: Server, transport: Transport, store: Store, put: Publisher, tmp_path: Path
) -> None:
    data, server.cut, server.ranges = large(store, put), 6, False
    with pytest.raises(NetworkError, match="has no ranges to go on"):
        bring(Web(server.url, transport), "demo", tmp_path / "to")
    assert bring(Web(server.url, transport), "demo", tmp_path / "to") == data


def test_a_server_that_is_gone(server: Server, transport: Transport, put: Publisher) -> None:
    put("demo")
    server.shutdown()
    server.server_close()
    with pytest.raises(NetworkError, match="cannot reach 127"):
        Web(server.url, transport).find("demo")


def test_an_address_of_something_else(
    server: Server, transport: Transport, store: Store, put: Publisher
) -> None:
    put("demo")
    with pytest.raises(StoreError, match="answered 404") as caught:
        Web(f"{server.url}/demo", transport).find("demo")
    assert "catalog.json" in caught.value.hint
    store.catalog.write_text("<html>")
    with pytest.raises(StoreError, match="no catalogue of images"):
        Web(server.url, transport).find("demo")


def test_the_place_is_what_is_given(store: Store, transport: Transport) -> None:
    assert isinstance(offers.place("HTTPS://host/images/", store.root, transport), Web)
    assert isinstance(offers.place("", store.root, transport), Folder)
