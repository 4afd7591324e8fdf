"""The commands as Invoke tasks: `invoke --list` shows them, `invoke --help NAME` explains one."""

from invoke.collection import Collection

from benchmarks.tasks import bench
from kiln.tasks import namespace

# The command `kiln` has no benchmark: outside a checkout there is none.
ns = Collection(bench)
for _name, _each in namespace.tasks.items():
    ns.add_task(_each, name=_name)
