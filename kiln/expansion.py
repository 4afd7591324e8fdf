"""`~`, `$NAME`, `${NAME}` and `${NAME:-DEFAULT}` in a site profile's values.

Owns the syntax. Must not read the process's own environment: it is given one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kiln.document import Mistake

# The last part catches what begins like a variable and isn't one.
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::-([^{}]*))?\}|())", re.ASCII)


def expand(text: str, environ: Mapping[str, str]) -> str:
    """The text with its variables and a leading `~` filled in; Mistake when one has no value."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1] or match[2], match[3]
        if name is None:
            raise Mistake(
                "a '$' without the name of a variable", "write ${NAME}, or %24 for a '$' in an address"
            )
        if found := environ.get(name):
            return found
        if default is None:
            raise Mistake(f"the variable {name} is not set", f"set it, or write ${{{name}:-DEFAULT}}")
        return expand(default, environ)

    result = _VARIABLE.sub(value, text)
    if result != "~" and not result.startswith("~/"):
        return result
    if not environ.get("HOME"):
        raise Mistake("'~' has no meaning: the variable HOME is not set", "set it, or write the path out")
    return environ["HOME"] + result[1:]
