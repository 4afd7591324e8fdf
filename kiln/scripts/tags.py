"""Says which wheels this Python takes, best first, and its environment (PEP 425, PEP 508), as JSON.

`packaging` is Kiln's own, mounted for this: an image need not have it.
"""

import json
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, "/run/kiln/python")

from packaging.markers import default_environment  # noqa: E402
from packaging.tags import sys_tags  # noqa: E402

json.dump({"tags": [str(tag) for tag in sys_tags()], "environment": default_environment()}, sys.stdout)
