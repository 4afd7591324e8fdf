"""A seccomp filter that lets an unprivileged "root" install packages.

With one uid mapped, the kernel refuses chown to any other and setuid to any other, on which dpkg,
apt and many maintainer scripts give up. The filter answers those calls with success and does
nothing, as enroot's does, so everything stays 0:0. Making a device node succeeds and makes nothing.
The calls' numbers are from the kernel's syscall tables, the layout from linux/seccomp.h and
linux/filter.h. What it can't do: a program that checks the owner it just set sees 0:0.
"""

from __future__ import annotations

import stat
import struct

LD_WORD, JUMP_EQUAL, AND, RETURN = 0x20, 0x15, 0x54, 0x06
ALLOW, ANSWER_ZERO = 0x7FFF0000, 0x00050000
NUMBER, ARCHITECTURE = 0, 4
QUERY = 0xFFFFFFFF

AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FAKED = {
    # chown fchown lchown fchownat setuid setgid setreuid setregid setgroups setresuid setresgid capset
    "x86_64": (92, 93, 94, 260, 105, 106, 113, 114, 116, 117, 119, 126),
    # fchownat fchown setregid setgid setreuid setuid setresuid setresgid setgroups capset
    "aarch64": (54, 55, 143, 144, 145, 146, 147, 149, 159, 91),
}
SET_FS_ID = {"x86_64": (122, 123), "aarch64": (151, 152)}
# number of the call -> which argument holds the mode
MAKE_NODE = {"x86_64": {133: 1, 259: 2}, "aarch64": {33: 2}}


def argument(index: int) -> int:
    """Offset of the low 32 bits of an argument in struct seccomp_data (little endian)."""
    return 16 + 8 * index


def program(machine: str) -> bytes:
    """The filter as an array of struct sock_filter, for `bwrap --seccomp`.

    Raises KeyError for a machine other than x86_64 and aarch64.
    """
    code: list[tuple[int, int, str, str]] = [
        (LD_WORD, ARCHITECTURE, "", ""),
        (JUMP_EQUAL, AUDIT_ARCHITECTURE[machine], "", "allow"),
        (LD_WORD, NUMBER, "", ""),
    ]
    code += [(JUMP_EQUAL, number, "fake", "") for number in FAKED[machine]]
    code += [(JUMP_EQUAL, number, "fsid", "") for number in SET_FS_ID[machine]]
    code += [(JUMP_EQUAL, number, f"node{index}", "") for number, index in MAKE_NODE[machine].items()]
    code += [(RETURN, ALLOW, "", "")]
    labels = {"fsid": len(code)}
    # setfsuid(-1) asks for the present id, and changes nothing: it goes through.
    code += [(LD_WORD, argument(0), "", ""), (JUMP_EQUAL, QUERY, "allow", "fake")]
    for index in sorted(set(MAKE_NODE[machine].values())):
        labels[f"node{index}"] = len(code)
        code += [
            (LD_WORD, argument(index), "", ""),
            (AND, stat.S_IFMT(0xFFFF), "", ""),
            (JUMP_EQUAL, stat.S_IFCHR, "fake", ""),
            (JUMP_EQUAL, stat.S_IFBLK, "fake", "allow"),
        ]
    labels |= {"allow": len(code), "fake": len(code) + 1}
    code += [(RETURN, ALLOW, "", ""), (RETURN, ANSWER_ZERO, "", "")]
    return b"".join(_encode(at, *instruction, labels) for at, instruction in enumerate(code))


def _encode(
    at: int, operation: int, value: int, if_true: str, if_false: str, labels: dict[str, int]
) -> bytes:
    """One struct sock_filter; jumps count from the next instruction, and an empty label is that one."""
    jumps = [labels[label] - at - 1 if label else 0 for label in (if_true, if_false)]
    return struct.pack("=HBBI", operation, jumps[0], jumps[1], value)
