"""Layers of an image while they are still on their way: the lowest can be unpacked already.

Owns the thread in which they are brought, and the pipe that tells of each.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from types import TracebackType

from kiln.files import translated
from kiln.registry.blobs import blob_path
from kiln.registry.download import Progress, Pull
from kiln.registry.oci import Descriptor

END_SECONDS = 1.0


class Delivery:
    """A pull that runs in a thread for as long as a `with` block does.

    `arrived` is a descriptor to read from: a line with a blob's digest once it is there, the end after the
    last one, or where there will be no more. `paths` are where the blobs will be, in the order of `wanted`.
    """

    def __init__(self, pull: Pull, wanted: Sequence[Descriptor], jobs: int, progress: Progress) -> None:
        self._pull, self._wanted, self._jobs, self._progress = pull, wanted, jobs, progress
        self.paths = [blob_path(pull.blobs, each.digest) for each in wanted]
        self.size = sum(each.size for each in dict.fromkeys(wanted))
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._telling, self._lock = -1, threading.Lock()

    def __enter__(self) -> Delivery:
        for path in self.paths:
            # Whoever reads them opens their folder before the first has come.
            with translated(path):
                path.parent.mkdir(parents=True, exist_ok=True)
        self.arrived, self._telling = os.pipe()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pull.end()
        # Threads of the pull that hang on a dead line are left behind; they tell nobody any more.
        self._thread.join(END_SECONDS)
        self._tell_no_more()
        os.close(self.arrived)

    @property
    def under_way(self) -> bool:
        return self._thread.is_alive()

    def check(self) -> None:
        """Raise what ended the pull, once its end has been told."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._pull.run(self._wanted, self._jobs, self._progress, self._tell)
        except BaseException as error:
            self._error = error
        finally:
            self._tell_no_more()

    def _tell(self, blob: Descriptor) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            if self._telling >= 0:
                os.write(self._telling, f"{blob.digest}\n".encode())

    def _tell_no_more(self) -> None:
        with self._lock:
            if self._telling >= 0:
                os.close(self._telling)
            self._telling = -1
