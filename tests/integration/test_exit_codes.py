"""Every documented exit code, and the test that produces it: a new one without a test fails here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from kiln.errors import catalogue
from tests.integration.project import CHECKOUT

TESTS = CHECKOUT / "tests"
HERE = "integration"
PRODUCED = {
    # Kiln's own failure is a bug: no test can hold on to one.
    "error": "unit/test_errors.py",
    "usage": f"{HERE}/test_machine.py::test_unknown_image_names_the_nearest",
    "manifest": f"{HERE}/test_machine.py::test_all_mistakes_of_a_manifest_are_told_at_once_with_their_places",
    "environment": f"{HERE}/test_machine.py::test_machine_without_user_namespaces_is_told_the_remedy",
    "base": f"{HERE}/test_machine.py::test_missing_base_file_is_told_with_its_place",
    "layer": f"{HERE}/test_layers.py::test_failing_layer_tells_the_whole_story",
    "runtime": f"{HERE}/test_machine.py::test_base_without_a_shell_is_the_runtimes_failure_not_the_layers",
    "space": f"{HERE}/test_layers.py::test_layer_that_fills_the_disk_is_a_matter_of_space",
    "export": f"{HERE}/test_machine.py::test_truncated_base_is_told_with_its_sizes",
    "smoke": f"{HERE}/test_smoke_hooks.py::"
    "test_failing_required_hook_publishes_nothing_and_leaves_a_way_back_in",
    "store": f"{HERE}/test_store_days.py::test_read_only_images_root_is_told_before_any_work",
    "lock": f"{HERE}/test_lock.py::test_a_lock_changed_by_hand_builds_nothing_and_is_told_with_its_place",
    "guard": f"{HERE}/test_guard.py::test_pip_cant_take_another_torch",
    "audit": f"{HERE}/test_audit.py::test_a_dirty_image_is_told_in_full_and_nothing_is_published",
    # The program waits ten minutes before it says so.
    "busy": "unit/test_files.py",
    "verify": f"{HERE}/test_record.py::test_verify_after_a_flipped_byte",
    "revoked": f"{HERE}/test_pull.py::test_deprecated_is_said_and_revoked_is_not_pulled",
    "network": "unit/test_offers.py::test_a_server_that_is_gone",
    "images": f"{HERE}/test_several.py::test_a_failure_blocks_only_what_is_built_on_it",
    "due": f"{HERE}/test_rebuild.py::test_a_newer_tag_of_the_series",
    "not-known": f"{HERE}/test_rebuild.py::test_a_registry_that_is_gone_is_not_known",
    "scheduler": f"{HERE}/test_pbs.py::test_a_server_that_is_down_and_refusals",
    "job": f"{HERE}/test_pbs.py::test_how_pbs_ends_a_job",
    "blocked": "unit/test_jobentry.py::test_a_job_whose_parent_did_not_end_well_starts_nothing",
    "interrupted": f"{HERE}/test_signals.py::test_signal_leaves_no_process_mount_or_file",
}


def test_every_documented_failure_has_a_test() -> None:
    assert set(PRODUCED) == {kind.id for kind in catalogue()}


@pytest.mark.parametrize("place", sorted(PRODUCED.values()))
def test_the_named_test_is_there(place: str) -> None:
    path, _, name = place.partition("::")
    tree = ast.parse(Path(TESTS, path).read_text())
    assert not name or name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
