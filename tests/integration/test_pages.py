"""The pages of an images folder in a real browser: from files and a web server, by keyboard, on a phone."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from kiln import history, page, publish
from kiln.history import Change
from kiln.inventory import PYTHON, Package
from kiln.store import Store
from tests import showcase
from tests.integration import browser as browsers
from tests.integration.browser import CONTROL, ENTER, ESCAPE, TAB, Browser
from tests.unit.test_page import EVIL

# Neither localhost nor https: what a browser takes for an insecure place.
HOST = "images.test"
ODD = "bilder ü & \"<b>\" 'x' #1 100%"
NAMES = "#images tbody tr th a"
# WCAG 2.2, 1.4.3: every text that can be seen, against what lies behind it.
CONTRASTS = """
const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = (c) => .2126 * linear(c[0] / 255) + .7152 * linear(c[1] / 255) + .0722 * linear(c[2] / 255);
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const ground = (e) => parse(getComputedStyle(e).backgroundColor);
const behind = (e) => (ground(e)[3] ?? 1) === 1 ? ground(e) : behind(e.parentElement);
const poor = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility()) continue;
  const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) poor.push([e.tagName, e.className, e.textContent.trim().slice(0, 30), ratio]);
}
return poor;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsers.started(
        tmp_path_factory.mktemp("browser"), f"--host-resolver-rules=MAP {HOST} 127.0.0.1"
    ) as running:
        yield running


def make(root: Path, *numbers: int) -> Store:
    store = showcase.make(root, *numbers)
    publish.refresh_catalog(store, pytest.fail)
    page.write(store, showcase.site_of(root), "", pytest.fail)
    return store


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("store") / ODD, 12, 3)


@pytest.fixture(params=["file", "http"])
def address(request: pytest.FixtureRequest, shown: Store) -> Iterator[str]:
    """Where the pages are: in the file system, and on a plain web server."""
    if request.param == "file":
        yield shown.root.as_uri()
        return
    handler = functools.partial(Quiet, directory=str(shown.root.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{HOST}:{server.server_port}/{quote(shown.root.name)}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def index(browser: Browser, shown: Store) -> Browser:
    browser.look()
    browser.open("about:blank")
    browser.open(f"{shown.root.as_uri()}/index.html")
    browser.log()
    return browser


def type_into(browser: Browser, selector: str, text: str) -> None:
    browser.click(selector)
    browser.keys(CONTROL, "a", text)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("LLM", ["pytorch-llm", "tensorrt-llm", "vllm"]),
        ("transformers≥4.50 flash-attn", ["alphafold", "jax", "r-bioconductor", "workshop"]),
        ("pytorch-llm transformers>=4.51.4", []),
        ("flash_attn >= 2.7.9 cudnn", []),
        ("numpy<1.27 numpy!=1.26.4", []),
        ("numpy~=1.25 nemo", ["nemo-speech-recognition-and-translation-multilingual"]),
        ("numpy~=1.25.0 nemo", []),
        ("libexample2399", ["r-bioconductor"]),
        ("revoked", ["alphafold", "jax"]),
    ],
)
def test_search_by_words_packages_and_versions(index: Browser, words: str, found: list[str]) -> None:
    type_into(index, "#words", words)
    assert index.texts(NAMES) == found
    assert index.texts("#count") == [f"{len(found)} of 12"]
    assert index.texts("#none") == ([] if found else ["No image has all of these words."])


def test_a_search_says_what_it_found_and_comes_back(index: Browser) -> None:
    type_into(index, "#words", "transformers>=4.50 vllm")
    assert index.texts(".match") == ["has transformers 4.51.3"]
    index.click(NAMES.replace("tbody tr", "tbody tr:not([hidden])"))
    assert index.address.endswith("/vllm/index.html") and index.texts("h1") == ["vllm"]
    index.run("history.back()")
    index.find("#images")
    assert index.texts(NAMES) == ["vllm"]
    index.click("#words")
    index.keys(ESCAPE)
    assert len(index.texts(NAMES)) == 12 and "#q" not in index.address


def test_sorting_by_keyboard(index: Browser) -> None:
    """Tab from the search to each head, Enter to sort; screen readers are told."""
    index.keys("/")
    order: dict[str, list[str]] = {}
    index.keys(TAB, TAB)
    for head in ("Image", "Version", "Base", "Size", "Built"):
        assert index.run("return document.activeElement.textContent") == head
        assert index.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
        index.keys(ENTER)
        order[head] = index.texts(NAMES)
        index.keys(TAB)
    assert order["Image"] == sorted(order["Image"], reverse=True)
    sizes = "return [...document.querySelectorAll('td.number')].map(e => Number(e.dataset.value))"
    index.click("th[data-sort=number] button")
    first = index.run(sizes)
    index.click("th[data-sort=number] button")
    assert first == sorted(first) and index.run(sizes) == first[::-1]
    assert index.run(
        "return [...document.querySelectorAll('[aria-sort]')].map(e => [e.innerText.trim(), e.ariaSort])"
    ) == [["Size", "descending"]]
    # The one without a record has no size: last, either way.
    assert index.texts(NAMES)[-1] == "geo-notebooks"
    assert order["Built"][0] == "pytorch-llm"


def test_screen_readers_are_told_what_is_what(index: Browser) -> None:
    assert index.role("#words") == ("searchbox", "Search")
    assert index.role("#images thead th")[0] == "columnheader"
    assert index.role("#images tbody th")[0] == "rowheader"
    assert index.role("th[data-sort=number] button") == ("button", "Size")
    assert index.role(".scroll") == ("region", "Table of images")
    index.keys(TAB, ENTER)
    assert index.run("return document.activeElement.id || location.hash") in ("main", "#main")


def test_an_images_page(browser: Browser, address: str) -> None:
    browser.look()
    browser.open(f"{address}/index.html")
    browser.click("a[href='sglang/index.html']")
    assert browser.texts("h1") == ["sglang"]
    assert browser.texts("details table") == []
    browser.click("details summary")
    changed = "\n".join(browser.texts("details table"))
    assert "flash-attn" in changed and "nvcr.io/nvidia/pytorch:25.05-py3" in changed
    type_into(browser, "#filter", "TORCH")
    assert browser.texts("#list tbody th") == ["torch"] and browser.texts("#filtered") == ["1 of 355"]
    assert "weeks ago" in browser.texts("dl")[0] or "ago" in browser.texts("dl")[0]
    assert [line for line in browser.log() if "favicon" not in line] == []
    assert browser.run("return performance.getEntriesByType('resource').map(e => e.name)") == []
    browser.click("a[href='../index.html']")
    assert len(browser.texts(NAMES)) == 12


def test_lines_are_copied_as_they_are(browser: Browser, address: str, shown: Store) -> None:
    """From a file, and from a server without https, where a page has no clipboard of its own."""
    browser.look()
    browser.open(f"{address}/pytorch-llm/index.html")
    assert browser.run("return isSecureContext") == address.startswith("file:")
    lines = browser.run("return document.querySelectorAll('pre code')[1].textContent")
    assert lines.startswith("#!/bin/bash\n#PBS -N pytorch-llm\n") and ODD in lines
    browser.run("document.querySelectorAll('.code .copy')[1].focus()")
    browser.keys(ENTER)
    assert pasted(browser) == lines
    browser.click("dd .copy")
    assert pasted(browser) == str(shown.image("pytorch-llm", shown.channels("pytorch-llm")["current"]))
    assert browser.texts("dd .copy") == ["Copied"]


def pasted(browser: Browser) -> str:
    # The copy is made when the button says so.
    browser.run(
        "const copied = () => [...document.querySelectorAll('.copy')].some(e => e.textContent === 'Copied');"
        "return new Promise(done => {"
        "  const look = () => copied() ? done() : requestAnimationFrame(look); look(); })"
    )
    browser.run("document.body.append(Object.assign(document.createElement('textarea'), {id: 'paste'}))")
    browser.click("#paste")
    browser.keys(CONTROL, "v")
    text = browser.run("const e = document.getElementById('paste'), text = e.value; e.remove(); return text")
    return str(text)


def test_a_manifest_full_of_script_is_text(browser: Browser, tmp_path: Path) -> None:
    store = Store(tmp_path / "<img src=x onerror=window.pwned=1>")
    because = Change(history.DEPRECATE, "", until=EVIL, use=EVIL, because=EVIL, who=EVIL, time=EVIL)
    made = showcase.record("demo", 0, 0)
    made = dataclasses.replace(
        made,
        description=EVIL,
        base=EVIL,
        built=EVIL,
        env={EVIL: EVIL},
        smoke=(dataclasses.replace(made.smoke[0], hook=EVIL, reason=EVIL),),
        packages=(Package(PYTHON, f"evil{EVIL}", EVIL, EVIL),),
    )
    showcase.put(store, dataclasses.replace(made, packages=()), "1", [because])
    showcase.put(store, made, "1", [because])
    page.write(store, showcase.site_of(store.root), "demo", pytest.fail)
    browser.look()
    browser.log()
    for name, places in (
        ("index.html", ("#images th .about",)),
        ("demo/index.html", ("header p", ".banner", "#list th")),
    ):
        browser.open(f"{store.root.as_uri()}/{name}")
        assert browser.run("return window.pwned") is None
        for place in places:
            assert any(EVIL in text for text in browser.texts(place)), place
    browser.click("summary")
    browser.open(f"{store.root.as_uri()}/index.html")
    type_into(browser, "#words", "evil")
    assert EVIL in browser.texts(".match")[0]
    browser.open(f"{store.root.as_uri()}/index.html#q={quote(EVIL)}")
    assert browser.run("return window.pwned") is None
    # Not even tried: nothing reached the policy that would have stopped it.
    assert browser.log() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_texts_can_be_read(browser: Browser, shown: Store, dark: bool) -> None:
    browser.look(dark=dark)
    grounds = set()
    for name in (
        "index.html",
        "sglang/index.html",
        "jax/index.html",
        "workshop/index.html",
        "geo-notebooks/index.html",
    ):
        browser.open(f"{shown.root.as_uri()}/{name}")
        browser.run("for (const each of document.querySelectorAll('details')) { each.open = true; }")
        grounds.add(browser.run("return getComputedStyle(document.body).backgroundColor"))
        assert browser.run(CONTRASTS) == []
    assert len(grounds) == 1 and ("rgb(22, 19, 17)" in grounds) == dark


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_cut_off_on_a_phone(browser: Browser, shown: Store, width: int) -> None:
    browser.look(width=width, height=700)
    for name in ("index.html", *(f"{each}/index.html" for each in shown.names())):
        browser.open(f"{shown.root.as_uri()}/{name}")
        assert browser.run("return document.documentElement.scrollWidth") <= width, name
    browser.open(f"{shown.root.as_uri()}/index.html")
    browser.click("th[data-sort=number] button")
    type_into(browser, "#words", "vllm")
    assert browser.texts(NAMES) == ["vllm"]


def test_without_scripts_everything_is_there_but_what_needs_them(browser: Browser, shown: Store) -> None:
    browser.look(scripts=False)
    browser.open(f"{shown.root.as_uri()}/index.html")
    browser.look()
    assert len(browser.texts(NAMES)) == 12
    assert browser.texts("search") == browser.texts("button") == []
    browser.look(scripts=False)
    browser.open(f"{shown.root.as_uri()}/vllm/index.html")
    browser.look()
    assert browser.texts("button") == [] and "enroot create" in browser.texts("pre")[0]
    browser.click("summary")
    assert browser.texts("details table") != []


def test_two_hundred_images_are_there_in_under_a_second(browser: Browser, tmp_path: Path) -> None:
    store = make(tmp_path / "images", 200, 10, 60)
    assert sum(len(store.versions(name)) for name in store.names()) >= 2000
    browser.look()
    times = []
    for _ in range(3):
        browser.open("about:blank")
        browser.open(f"{store.root.as_uri()}/index.html")
        times.append(browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd"))
    searched = browser.run(
        "const field = document.getElementById('words'), start = performance.now();"
        "for (const text of ['l', 'li', 'torch', 'transformers>=4.50 flash', '']) {"
        "  field.value = text; field.dispatchEvent(new Event('input')); document.body.offsetHeight; }"
        "document.querySelector('th[data-sort=number] button').click(); document.body.offsetHeight;"
        "return performance.now() - start"
    )
    assert 0 < min(times) < 1000, times
    assert searched < 1000
    assert len(browser.texts(NAMES)) == 200
