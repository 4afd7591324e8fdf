"""What every command does: errors become a message and an exit code, signals an orderly end.

The only place that exits. Owns the options that commands share, and what several images in a name mean.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.exceptions import Exit
from invoke.program import Program
from invoke.tasks import Task
from invoke.tasks import task as invoke_task

from kiln import files, ui
from kiln.checkout import find_root
from kiln.context import Context, open_context
from kiln.errors import Interrupted, KilnError, UsageError
from kiln.run import SIGNALS
from kiln.selection import select

HELP = {
    "name": "the image; several as a comma list, a pattern in quotes, or 'all'",
    "site": "the site profile (default: KILN_SITE, else local)",
    "images": "the images folder, in place of the site's",
    "runtime": "enroot or embedded (default: enroot where it is installed)",
    "no_cache": "run every layer anew, whatever there is of an earlier build",
    "locked": "demand a lock: fail where there is none",
    "from": "run this layer (its number in 'plan') and those after it anew",
    "json": "JSON lines in place of text",
    "on": "the scheduler that does it as jobs: pbs or slurm; 'here' for none (default: the site's)",
    "wait": "follow the jobs to their end",
}


class Command(Task[Any]):
    """A task that explains itself, too: Invoke takes the --help of `show --help` for the name it wants."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Invoke takes each text out of its own when it reads the arguments.
        self.texts = dict(kwargs.get("help") or {})
        super().__init__(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not {"--help", "-h"}.isdisjoint(each for each in kwargs.values() if isinstance(each, str)):
            name, known = Path(sys.argv[0]).name, self.name.rstrip("_")
            alone = Collection(Task(self.body, name=known, help=self.texts))
            with command(as_json=False):
                return Program(namespace=alone, binary=name).run([name, "--help", known])
        return super().__call__(*args, **kwargs)


task = functools.partial(invoke_task, klass=Command)


@contextlib.contextmanager
def command(as_json: bool) -> Iterator[ui.Ui]:
    """Run a command: errors become a message and an exit code, signals an orderly end."""
    shown = ui.make(as_json, sys.stdout, sys.stderr)
    previous = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        with files.full_disk_told():
            yield shown
    except KilnError as error:
        shown.close()
        shown.error(error)
        raise Exit(code=error.exit_code) from error
    except BrokenPipeError as error:
        # The reader of our output went away (a pager, head): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Exit(code=128 + signal.SIGPIPE) from error
    finally:
        shown.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: object) -> None:
    # One is enough: a second, while things are being tidied up, would leave them half done.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(f"stopped by {signal.Signals(number).name}", number, "nothing was published")


@contextlib.contextmanager
def opened(
    as_json: bool, site: str | None, images: str | None, *, reading: bool = False, web: bool = False
) -> Iterator[Context]:
    """A command's context: see `open_context`. Only with `web` the images may be a web server's."""
    with command(as_json) as shown:
        address = images or os.environ.get("KILN_IMAGES", "")
        if address.startswith(("http://", "https://")) and not web:
            raise UsageError(
                f"{address} is a web server's: from there images are pulled, no more",
                f"see what it has in a browser: {address.rstrip('/')}/index.html",
            )
        yield open_context(find_root(os.environ), site, images, os.environ, shown, reading=reading)


def for_each(context: Context, text: str, work: Callable[[str], None]) -> None:
    """Do `work` for each image that `text` means. One that fails does not stop the others."""
    names = select(context.manifests, text)
    failures = []
    for name in names:
        try:
            work(name)
        except KilnError as error:
            if len(names) == 1 or isinstance(error, Interrupted):
                raise
            context.ui.error(error)
            failures.append((name, error))
    if failures:
        raise Exit(
            f"failed: {', '.join(name for name, _ in failures)} ({len(failures)} of {len(names)})",
            code=failures[0][1].exit_code,
        )


def options(*names: str) -> dict[str, str]:
    return {name: HELP[name] for name in names}
