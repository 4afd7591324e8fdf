"""Files in which programs keep logins, keys and what was typed: by their names, and where those don't tell,
by what they say.

Owns that list. Whether one of them may be in an image is decided in `kiln.imagerules`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

PRIVATE_KEY = rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"
# A login in an address; one that is only named (`$TOKEN`, `<password>`) is none.
LOGIN_IN_ADDRESS = re.compile(rb"[a-z]://[^/\s:@'\"]*:(?![$<{%])[^/\s:@'\"]+@")


@dataclass(frozen=True)
class Login:
    """A file by the end of its path, whose last part may have `*`; `says` is what makes it a secret."""

    tail: str
    what: str
    says: re.Pattern[bytes] | None = None

    def fits(self, path: str) -> bool:
        folders, _, name = self.tail.rpartition("/")
        place, _, found = path.rpartition("/")
        return fnmatchcase(found, name) and (not folders or f"{place}/".endswith(f"/{folders}/"))


def _login(tail: str, what: str, says: bytes = b"") -> Login:
    return Login(tail, what, re.compile(says) if says else None)


LOGINS = (
    _login(".netrc", "logins of hosts (wandb's too)"),
    _login("_netrc", "logins of hosts"),
    _login(".git-credentials", "git's logins"),
    _login("git/credentials", "git's logins"),
    _login(".pypirc", "a login of a package index", rb"(?i)password|token"),
    _login(".npmrc", "a token of npm", rb"_authToken|_auth\b|_password"),
    _login(".docker/config.json", "logins of registries", rb'"(auth|identitytoken|password)"\s*:'),
    _login("containers/auth.json", "logins of registries", rb'"auth"\s*:'),
    _login("enroot/.credentials", "enroot's logins"),
    _login(".ngc/config", "an NGC key", rb"apikey"),
    _login(".aws/credentials", "AWS's keys"),
    _login("gcloud/application_default_credentials.json", "a login of Google Cloud"),
    _login("gcloud/credentials.db", "a login of Google Cloud"),
    _login(".azure/msal_token_cache.*", "a login of Azure"),
    _login(".kube/config", "a login of Kubernetes", rb"token|client-key-data|password"),
    _login(".config/wandb/settings", "a key of wandb", rb"api_key"),
    _login("huggingface/token", "a token of Hugging Face"),
    _login("huggingface/stored_tokens", "tokens of Hugging Face"),
    _login(".huggingface/token", "a token of Hugging Face"),
    _login(".kaggle/kaggle.json", "a key of Kaggle"),
    _login("gh/hosts.yml", "a token of GitHub", rb"oauth_token"),
    _login("rclone/rclone.conf", "logins of storage", rb"(?m)^(pass|token|secret\w*|password)\s*="),
    _login(".s3cfg", "keys of storage", rb"secret_key"),
    _login(".pgpass", "passwords of databases"),
    _login(".my.cnf", "a password of a database", rb"(?m)^password"),
    _login(".vault-token", "a token of Vault"),
    _login(".modal.toml", "a token", rb"token_secret"),
    _login(".Xauthority", "a key to somebody's screen"),
    _login(".ssh/*", "a private ssh key", PRIVATE_KEY),
    _login("etc/ssh/ssh_host_*_key", "a private key of one host"),
    _login("private-keys-v1.d/*.key", "a private key of gpg"),
    _login(".gnupg/secring.gpg", "private keys of gpg"),
    _login("etc/apt/auth.conf", "logins of package sources", rb"password"),
    _login("apt/auth.conf.d/*", "logins of package sources", rb"password"),
    *(
        Login(tail, "a login in an address", LOGIN_IN_ADDRESS)
        for tail in (
            "pip.conf", "uv.toml", ".condarc", ".gitconfig", "etc/gitconfig", ".git/config",
            "etc/environment",
            "apt/sources.list", "apt/sources.list.d/*", "apt/apt.conf", "apt/apt.conf.d/*", "etc/profile",
            "etc/profile.d/*", ".bashrc", ".profile", ".bash_profile", "wgetrc", ".wgetrc", ".curlrc",
            ".cargo/config*", ".yarnrc*", "direct_url.json",
        )
    ),
)  # fmt: skip
HISTORIES = frozenset(
    (
        ".bash_history", ".zsh_history", ".sh_history", ".history", ".python_history", ".node_repl_history",
        ".sqlite_history", ".psql_history", ".mysql_history", ".lesshst", ".viminfo", ".wget-hsts",
    )
)  # fmt: skip
_LOOSE = tuple(each for each in LOGINS if "*" in each.tail)
_EXACT = {
    name: tuple(each for each in LOGINS if each.tail.rpartition("/")[2] == name)
    for name in {each.tail.rpartition("/")[2] for each in LOGINS if each not in _LOOSE}
}
# Hardly any path has one of these in it.
_HINTS = re.compile("|".join(sorted({re.escape(each.tail.partition("*")[0]) for each in _LOOSE})))


def candidates(path: str) -> list[Login]:
    """What a file of this path may hold; asked for every path of an image, so that it must be quick."""
    found = _EXACT.get(path[path.rfind("/") + 1 :], ())
    if _HINTS.search(path):
        found += _LOOSE
    return [each for each in found if each.fits(path)] if found else []
