"""Kiln's commands as Invoke tasks: `invoke --list` shows them, `invoke --help NAME` explains one."""

from kiln.tasks import namespace

ns = namespace
