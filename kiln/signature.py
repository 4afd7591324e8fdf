"""Signatures by `ssh-keygen -Y`: people have such keys, and nothing else has to be installed.

Owns ssh-keygen's command lines and what its answers mean. What is signed is an image's record, which has
the image's own digest and those of what lies beside it. Format: PROTOCOL.sshsig of OpenSSH; the file of
those whose signatures count: ssh-keygen(1), 'ALLOWED SIGNERS'.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kiln.errors import EnvironmentMissing, VerifyError
from kiln.run import Result, host_environment, run

NAMESPACE = "kiln"
SECONDS = 60.0
AGENT = "SSH_AUTH_SOCK"
PAGE = "see docs/record.md, 'Signatures'"


def sign(data: bytes, key: Path, environ: Mapping[str, str]) -> bytes:
    """The signature of `data` by the private key in the file `key`, or by one in an agent.

    Raises `EnvironmentMissing` where that key can't be used without asking.
    """
    with tempfile.TemporaryDirectory(prefix="kiln-sign-") as place:
        message = Path(place) / "message"
        message.write_bytes(data)
        result = _run(("-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(message)), environ)
        signature = message.with_suffix(".sig")
        if result.returncode != 0 or not signature.is_file():
            raise EnvironmentMissing(
                f"cannot sign with {key}: {_said(result)}",
                f"a key must be yours alone, without a passphrase or in your agent; {PAGE}",
                result.tail(5),
            )
        return signature.read_bytes()


def signer(data: bytes, signature: bytes, allowed: Path, when: str, environ: Mapping[str, str]) -> str:
    """Whose signature of `data` this is, as `allowed` names them.

    A key must have been valid at `when`, ISO 8601 in UTC: that of a curator who left may be ended, and what
    was signed before stays good. Raises `VerifyError` that says which of the things to be checked failed.
    """
    if not allowed.is_file():
        raise VerifyError(
            f"there is no file {allowed}, which says whose signatures count",
            "look at 'signing: allowed_signers' in the site profile",
        )
    with tempfile.TemporaryDirectory(prefix="kiln-verify-") as place:
        message, other = Path(place) / "message", Path(place) / "signature"
        message.write_bytes(data)
        other.write_bytes(signature)
        time = f"-Overify-time={re.sub(r'[^0-9]', '', when)}"
        found = _run(
            ("-Y", "find-principals", time, "-s", str(other), "-f", str(allowed)), environ, separate=True
        )
        principal = found.output.partition("\n")[0].split(",")[0].strip()
        if found.returncode != 0 or not principal:
            raise _unknown(other, allowed, time, message, environ)
        result = _verify(message, other, allowed, principal, time, environ)
        if result.returncode != 0:
            raise VerifyError(
                f"the signature by {principal} is not good: {_said(result)}", PAGE, result.tail(5)
            )
        return principal


def _unknown(
    signature: Path, allowed: Path, time: str, message: Path, environ: Mapping[str, str]
) -> VerifyError:
    """Why no signer was found: ssh-keygen says it on stderr, which was no data."""
    said = _run(("-Y", "find-principals", time, "-s", str(signature), "-f", str(allowed)), environ)
    if "Couldn't parse signature" in said.output:
        return VerifyError("the signature is damaged: ssh-keygen can't read it", PAGE, said.tail(5))
    # Good or not for those bytes, by whichever key.
    plain = ("-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature))
    checked = _from(plain, message, environ)
    by = re.search(r"SHA256:\S+", checked.output)
    key = f"the key {by[0]}" if by else "a key"
    return VerifyError(
        f"it is signed by {key}, which {allowed} doesn't have",
        f"whose is it? Whoever runs the site adds keys to that file; {PAGE}",
        said.tail(5),
    )


def _verify(
    message: Path, signature: Path, allowed: Path, principal: str, time: str, environ: Mapping[str, str]
) -> Result:
    words = ("-Y", "verify", time, "-f", str(allowed), "-I", principal, "-n", NAMESPACE, "-s", str(signature))
    return _from(words, message, environ)


def _from(words: tuple[str, ...], message: Path, environ: Mapping[str, str]) -> Result:
    """ssh-keygen takes what is signed from its standard input only."""
    script = 'message=$1; shift; exec ssh-keygen "$@" < "$message"'
    return _start(("sh", "-c", script, "sh", str(message), *words), environ)


def _run(words: tuple[str, ...], environ: Mapping[str, str], separate: bool = False) -> Result:
    return _start(("ssh-keygen", *words), environ, separate)


def _start(argv: tuple[str, ...], environ: Mapping[str, str], separate: bool = False) -> Result:
    agent = {AGENT: environ[AGENT]} if AGENT in environ else {}
    # Times without a zone are local ones to ssh-keygen, and not all versions know a zone.
    env = host_environment(environ, {**agent, "TZ": "UTC"})
    return run(argv, what="sign or verify a record", env=env, timeout=SECONDS, check=False, separate=separate)


def _said(result: Result) -> str:
    """The line that gives the reason: the first that is no headline."""
    lines = [
        line for line in result.tail(20) if not line.startswith(("@", "Signing file", "Could not verify"))
    ]
    return re.sub(r"\s+", " ", lines[0]).strip() if lines else result.outcome()
