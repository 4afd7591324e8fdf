"""The filter, run in a small interpreter of BPF: what each system call is answered."""

from __future__ import annotations

import stat
import struct

import pytest

from kiln.runtime import seccomp

CHARACTER, REGULAR = stat.S_IFCHR | 0o666, stat.S_IFREG | 0o644


def answer(machine: str, number: int, arguments: list[int], architecture: int | None = None) -> int:
    """What the kernel would return: linux/filter.h's meaning of the operations that are used."""
    data = struct.pack("<II Q", number, architecture or seccomp.AUDIT_ARCHITECTURE[machine], 0)
    data += b"".join(struct.pack("<Q", value) for value in (arguments + [0] * 6)[:6])
    code: list[tuple[int, int, int, int]] = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == seccomp.LD_WORD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == seccomp.AND:
            accumulator &= value
        elif operation == seccomp.JUMP_EQUAL:
            at += if_true if accumulator == value else if_false
        else:
            assert operation == seccomp.RETURN
            return value


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_owners_and_ids_are_faked(machine: str) -> None:
    for number in seccomp.FAKED[machine]:
        assert answer(machine, number, [33, 33]) == seccomp.ANSWER_ZERO


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_everything_else_goes_through(machine: str) -> None:
    special = {*seccomp.FAKED[machine], *seccomp.SET_FS_ID[machine], *seccomp.MAKE_NODE[machine]}
    for number in set(range(450)) - special:
        assert answer(machine, number, [1, 2, 3]) == seccomp.ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_asking_for_the_file_system_id_goes_through(machine: str) -> None:
    for number in seccomp.SET_FS_ID[machine]:
        assert answer(machine, number, [0xFFFFFFFF]) == seccomp.ALLOW
        assert answer(machine, number, [33]) == seccomp.ANSWER_ZERO


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_only_device_nodes_are_faked(machine: str) -> None:
    for number, index in seccomp.MAKE_NODE[machine].items():
        for mode, wanted in (
            (CHARACTER, seccomp.ANSWER_ZERO),
            (REGULAR, seccomp.ALLOW),
            (stat.S_IFIFO, seccomp.ALLOW),
        ):
            assert answer(machine, number, [0] * index + [mode]) == wanted


def test_calls_of_another_architecture_are_not_judged_by_these_numbers() -> None:
    i386 = 0x40000003
    assert answer("x86_64", 92, [], i386) == seccomp.ALLOW
