"""Which candidate still has to be tested."""

from __future__ import annotations

from kiln import channels, retest
from kiln.store import Store
from tests.unit.conftest import Publisher


def test_only_a_candidate_that_is_newer_than_current_is_pending(store: Store, put: Publisher) -> None:
    assert retest.pending(store, "demo") == ""
    put("demo", smoke=("skipped",))
    assert retest.pending(store, "demo") == "demo:1.0-r1"
    put("demo", smoke=("passed",))
    assert retest.pending(store, "demo") == "", "it would put an older one in place of current"
    put("demo", smoke=("skipped",))
    assert retest.pending(store, "demo") == "demo:1.0-r3"
    channels.promote(store, "demo:1.0-r3", "current", "tested by hand", lambda text: None)
    assert retest.pending(store, "demo") == ""
