"""Site profiles: paths, what is taken from the environment, what is told, what ships."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kiln import site
from kiln.document import Mistake, schema
from kiln.errors import ManifestError, UsageError
from kiln.expansion import expand
from kiln.fields import Mount
from kiln.reference import reference
from kiln.site import Pbs, Site

ROOT = Path(__file__).resolve().parents[2]
HEAD = "format: 1\nname: x\nimages: /images\ncache: /cache\n"
HOME = {"HOME": "/home/me", "USER": "me"}


def load(folder: Path, text: str, environ: dict[str, str] | None = None, head: str = HEAD) -> Site:
    (folder / "sites").mkdir(exist_ok=True)
    (folder / "sites/x.yaml").write_text(head + dedent(text))
    return site.load("x", folder, HOME if environ is None else environ)


def told(folder: Path, text: str, environ: dict[str, str] | None = None, head: str = HEAD) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load(folder, text, environ, head)
    found = (re.match(r"\S*x\.yaml:\d+:\d+: (.*)", line) for line in caught.value.details)
    return [match[1] for match in found if match]


# --- choosing ----------------------------------------------------------------------------------


def test_the_site_is_the_option_else_the_variable_else_local(tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    for name in ("local", "one", "two"):
        (tmp_path / f"sites/{name}.yaml").write_text(HEAD.replace("name: x", f"name: {name}"))
    assert site.load(None, tmp_path, {}).name == "local"
    assert site.load(None, tmp_path, {"KILN_SITE": "one"}).name == "one"
    assert site.load("two", tmp_path, {"KILN_SITE": "one"}).name == "two"


def test_an_unknown_site(tmp_path: Path) -> None:
    load(tmp_path, "")
    (tmp_path / "sites/aspire.yaml").touch()
    with pytest.raises(UsageError, match=r"there is no site 'aspir' in .*/sites$") as caught:
        site.load("aspir", tmp_path, {})
    assert caught.value.hint == "did you mean 'aspire'?"
    with pytest.raises(UsageError) as caught:
        site.load("../sites/x", tmp_path, {})
    assert caught.value.exit_code == 2


# --- paths -------------------------------------------------------------------------------------


def test_where_everything_is(tmp_path: Path) -> None:
    found = load(tmp_path, "scratch: /fast/${JOB:-$USER}\n", {**HOME, "JOB": "12"})
    assert (found.images, found.cache) == (Path("/images"), Path("/cache"))
    assert (found.work, found.trees) == (Path("/fast/12/work"), Path("/fast/12/trees"))
    assert found.blobs == Path("/cache/v1/blobs")
    assert found.enroot_cache == Path("/cache/v1/enroot")
    assert found.logs == Path("/cache/v1/logs")
    assert found.shared is None
    found = load(tmp_path, "layers: {shared: /lustre/kiln}\n")
    assert (found.work, found.trees) == (Path("/cache/v1/work"), Path("/cache/v1/trees"))
    assert found.shared == Path("/lustre/kiln/v1")


def test_paths_start_from_the_checkout(tmp_path: Path) -> None:
    head = "format: 1\nname: x\nimages: ./images\ncache: ${XDG_CACHE_HOME:-~/.cache}/kiln\n"
    found = load(tmp_path, "mounts: [wheels:/mnt/wheels, '~/x:/x:rw']", head=head)
    assert found.images == tmp_path / "images"
    assert found.cache == Path("/home/me/.cache/kiln")
    assert found.mounts == (
        Mount(tmp_path / "wheels", "/mnt/wheels"),
        Mount(Path("/home/me/x"), "/x", read_only=False),
    )
    assert load(tmp_path, "", {"XDG_CACHE_HOME": "/c"}, head).cache == Path("/c/kiln")


def test_the_environment_may_say_where_images_and_cache_are(tmp_path: Path) -> None:
    head = "format: 1\nname: x\nimages: ${UNSET}\ncache: ~/kiln\n"
    found = load(tmp_path, "", {"KILN_IMAGES": "/i", "KILN_CACHE": "c"}, head)
    assert (found.images, found.cache) == (Path("/i"), tmp_path / "c")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~", "/home/me"),
        ("~/a", "/home/me/a"),
        ("a~", "a~"),
        ("$USER/${USER}", "me/me"),
        ("${NONE:-}", ""),
        ("${NONE:-$USER-x}", "me-x"),
        ("${EMPTY:-a}", "a"),
        ("${USER:-a}", "me"),
    ],
)
def test_expansion(text: str, value: str) -> None:
    assert expand(text, {**HOME, "EMPTY": ""}) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${NONE}/a", "the variable NONE is not set"),
        ("$EMPTY", "the variable EMPTY is not set"),
        ("~/a", "'~' has no meaning: the variable HOME is not set"),
        ("a$", "a '$' without the name of a variable"),
        ("${a b}", "a '$' without the name of a variable"),
        ("$(id)", "a '$' without the name of a variable"),
    ],
)
def test_what_can_not_be_expanded(text: str, words: str) -> None:
    with pytest.raises(Mistake, match="^" + re.escape(words)):
        expand(text, {"EMPTY": ""})


def test_an_unset_variable_is_shown_at_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, "scratch: /fast/$JOB\n")
    assert caught.value.message == "sites/x.yaml has a mistake"
    assert caught.value.details == (
        "sites/x.yaml:5:10: the variable JOB is not set; set it, or write ${JOB:-DEFAULT}",
        "  5 | scratch: /fast/$JOB",
        "    |          ^^^^^^^^^^",
    )


# --- the network -------------------------------------------------------------------------------


PROXIES = "proxies: {http: 'http://p:1', https: 'http://p:2', no: 'localhost,10.0.0.0/8'}\n"


def test_proxies_in_lower_and_upper_case(tmp_path: Path) -> None:
    assert load(tmp_path, PROXIES).proxy_environment() == {
        "http_proxy": "http://p:1",
        "https_proxy": "http://p:2",
        "no_proxy": "localhost,10.0.0.0/8",
        "HTTP_PROXY": "http://p:1",
        "HTTPS_PROXY": "http://p:2",
        "NO_PROXY": "localhost,10.0.0.0/8",
    }
    assert load(tmp_path, "").proxy_environment() == {}


CALLER = {
    **HOME,
    "https_proxy": "http://lower:3",
    "HTTPS_PROXY": "http://upper:3",
    "NO_PROXY": "h",
    "PIP_INDEX_URL": "https://index/simple",
    "PIP_EXTRA_INDEX_URL": "https://a/simple /wheels https://b/simple",
    "UV_INDEX": "named=https://c/simple https://a/simple",
}


def test_the_callers_network(tmp_path: Path) -> None:
    found = load(tmp_path, "from_environment: true\nproxies: {http: 'http://p:1'}\n", CALLER)
    assert (found.proxies.http, found.proxies.https, found.proxies.no) == (
        "http://p:1",
        "http://lower:3",
        "h",
    )
    assert found.index_environment() == {
        "PIP_INDEX_URL": "https://index/simple",
        "UV_DEFAULT_INDEX": "https://index/simple",
        "PIP_EXTRA_INDEX_URL": "https://a/simple https://b/simple https://c/simple",
        "UV_INDEX": "https://a/simple https://b/simple https://c/simple",
    }


def test_without_from_environment_nothing_is_taken(tmp_path: Path) -> None:
    found = load(tmp_path, "", {**CALLER, "SSL_CERT_FILE": __file__})
    assert found.proxy_environment() == found.index_environment() == found.ca_environment("/x") == {}
    assert found.ca_bundle is None


@pytest.mark.parametrize("index", ["file:///wheels", "/wheels", "wheels", "../wheels"])
def test_an_index_that_is_a_folder_of_the_caller_is_left_out(index: str, tmp_path: Path) -> None:
    environ = {**HOME, "PIP_INDEX_URL": index, "UV_DEFAULT_INDEX": "https://u/simple"}
    found = load(tmp_path, "from_environment: true\n", environ)
    assert found.indexes.pip == "https://u/simple"


def test_the_callers_certificates(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.touch()
    environ = {"SSL_CERT_FILE": "/none", "REQUESTS_CA_BUNDLE": str(tmp_path), "CURL_CA_BUNDLE": str(bundle)}
    found = load(tmp_path, "from_environment: true\n", environ)
    assert found.ca_bundle == bundle
    inside = found.ca_environment("/run/ca.crt")
    assert {"SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"} <= set(
        inside
    )
    assert set(inside.values()) == {"/run/ca.crt"}


def test_without_any_the_machines_own_certificates_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "_SYSTEM_BUNDLES", (tmp_path / "none.crt", Path(__file__)))
    assert load(tmp_path, "from_environment: true\n", {}).ca_bundle == Path(__file__)
    assert load(tmp_path, "", {}).ca_bundle is None


def test_a_profiles_certificates_come_first(tmp_path: Path) -> None:
    (tmp_path / "site.crt").touch()
    found = load(tmp_path, "from_environment: true\nca_bundle: site.crt\n", {"SSL_CERT_FILE": __file__})
    assert found.ca_bundle == tmp_path / "site.crt"


def test_secrets_are_what_logs_must_not_show(tmp_path: Path) -> None:
    text = """\
        proxies: {http: 'http://me:p%40ss@p:1', https: 'http://p:2'}
        indexes: {pip: 'https://token@i/simple', extra: ['https://u:${WORD}@i/simple']}
        mirrors: {debian: 'http://m:debpass@d/debian'}
        registries: {nvcr.io: {mirror: 'https://r:regpass@r'}}
        """
    found = load(tmp_path, text, {**HOME, "WORD": "fromenv"})
    assert found.secrets() == ("debpass", "fromenv", "regpass", "p%40ss", "token", "p@ss")
    assert load(tmp_path, PROXIES).secrets() == ()


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("proxies: {http: 'p:1'}", "'p:1' is not an address; write http://HOST/… or https://HOST/…"),
        ("proxies: {htp: 'http://p:1'}", "unknown key 'htp'; did you mean 'http'?"),
        ("ca_bundle: /none.crt", "there is no file '/none.crt'"),
        (f"ca_bundle: /{'a' * 300}", f"there is no file '/{'a' * 58}…'"),
        ("mirrors: {debain: 'http://m'}", "'debain' is not known here; did you mean 'debian'?"),
        ("registries: {nvcr.io: 'http://m'}", "a mapping is wanted here, not the text 'http://m'"),
        ("runtime: docker", "'docker' is not known here; known are: auto, embedded, enroot"),
        ("scheduler: Slurm", "'Slurm' is not known here; did you mean 'slurm'?"),
        ("squashfs: {level: 23}", "the number must be at most 22"),
        ("squashfs: {level: 0}", "the number must be at least 1"),
        ("from_environment: maybe", "true or false is wanted here, not the text 'maybe'"),
        ("scratch: ", "a value is missing here; write one, or remove the line"),
        ("scratch: ''", "this text is empty; write something, or remove it"),
        ("mounts: [/a]", "'/a' is not a mount; write SOURCE:TARGET, SOURCE:TARGET:ro or SOURCE:TARGET:rw"),
        ("start: {env: ['a b']}", "'a b' is not a variable; write NAME, to pass the caller's, or NAME=VALUE"),
        ("start: {mounts: [/a]}", "'/a' is not a mount; write SOURCE:/TARGET"),
        ("pbs: {cpus_per_gpu: 1, memory_per_gpu: 1gb, walltime: 3:00:00}",
         "3:00:00 is read as the number 10800, not as text; quote it: '3:00:00'"),
        ("pbs: {memory_per_gpu: 1gb}", "the key 'cpus_per_gpu' is missing; add it"),
    ],
)  # fmt: skip
def test_mistakes(text: str, words: str, tmp_path: Path) -> None:
    assert told(tmp_path, text) == [words]


def test_a_profile_that_has_another_name_or_a_newer_format(tmp_path: Path) -> None:
    assert told(tmp_path, "", head=HEAD.replace("name: x", "name: y")) == [
        "the name 'y' differs from the file's; write x, or rename the file"
    ]
    assert told(tmp_path, "taste: mint", head=HEAD.replace("format: 1", "format: 2")) == [
        "format 2 is for a newer Kiln; this one reads 1; update Kiln"
    ]


KEYS = sorted(Site.model_fields)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.just("http://u:p@[x")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(KEYS), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
@settings(max_examples=100, deadline=None)
def test_nothing_gives_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: dict[str, object]) -> None:
    try:
        load(tmp_path_factory.getbasetemp(), yaml.dump(data, allow_unicode=True), head="")
    except ManifestError as error:
        assert error.details


@given(st.dictionaries(st.sampled_from(sorted(CALLER)), st.text(max_size=20)))
@settings(max_examples=100, deadline=None)
def test_no_environment_gives_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]
) -> None:
    found = load(tmp_path_factory.getbasetemp(), "from_environment: true\n", environ)
    assert isinstance(found.secrets(), tuple)


# --- the layer store ---------------------------------------------------------------------------


def test_what_is_kept_of_a_build(tmp_path: Path) -> None:
    found = load(tmp_path, "").layers
    assert (found.stale_after, found.keep_unused, found.max_size) == (None, 30 * 86_400, 100 * 10**9)
    text = "layers: {trusted: [curator, '1000'], stale_after: 12h, keep_unused: 7d, max_size: 2 TB}\n"
    found = load(tmp_path, text).layers
    assert found.trusted == ("curator", "1000")
    assert (found.stale_after, found.keep_unused, found.max_size) == (12 * 3600, 7 * 86_400, 2 * 10**12)


@pytest.mark.parametrize("key", ["stale_after", "keep_unused"])
@pytest.mark.parametrize("value", ["0d", "'7'", "7 d", "-1d", "1.5h", "30m", "100000d", "''"])
def test_what_is_no_age(key: str, value: str, tmp_path: Path) -> None:
    [words] = told(tmp_path, f"layers: {{{key}: {value}}}\n")
    assert words.endswith("is not an age; write hours or days: 12h, 30d")


@pytest.mark.parametrize("value", ["0GB", "'100'", "100GiB", "1.5TB", "100gb", "1000000GB", "''"])
def test_what_is_no_size(value: str, tmp_path: Path) -> None:
    [words] = told(tmp_path, f"layers: {{max_size: {value}}}\n")
    assert words.endswith("is not a size; write one as 500MB, 100GB or 2TB")


# --- what ships --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "sites").glob("*.yaml")))
def test_every_shipped_profile_loads(name: str) -> None:
    assert site.load(name, ROOT, HOME).description


def test_the_local_profile() -> None:
    found = site.load(None, ROOT, HOME)
    assert (found.images, found.cache) == (ROOT / "images", Path("/home/me/.cache/kiln"))
    assert (found.from_environment, found.runtime) == (True, "auto")


def test_the_profile_of_aspire2a_plus() -> None:
    found = site.load("aspire2a-plus", ROOT, {**HOME, "PBS_JOBID": "12.srv", "http_proxy": "http://mine:1"})
    assert found.images == Path("/images")
    assert found.work == Path("/raid/local/containers/enroot-data/12.srv/.kiln/work")
    assert found.proxy_environment()["HTTPS_PROXY"] == "http://10.104.4.124:10104"
    assert found.proxy_environment()["http_proxy"] == "http://10.104.4.124:10104"
    assert (found.runtime, found.unpack, found.scheduler) == ("enroot", "kiln", "pbs")
    assert found.pbs == Pbs(cpus_per_gpu=14, memory_per_gpu="235gb", walltime="03:00:00")
    assert found.start.env[0] == "CUDA_VISIBLE_DEVICES"


def test_every_key_is_described() -> None:
    found = schema(Site)
    for part in (found, *found["$defs"].values()):
        for name, field in part["properties"].items():
            assert field.get("description") or "$ref" in field, f"{part['title']}: {name}"
    assert "| `images` | text | **required** |" in reference(Site)
