"""Pages whose writer is killed, again and again, while somebody reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kiln import page
from tests import showcase

ROOT = Path(__file__).resolve().parents[2]
WRITE = """
import sys
from pathlib import Path
from kiln import page
from tests import showcase
from kiln.store import Store
store = Store(Path(sys.argv[1]))
site = showcase.site_of(store.root)
while True:
    print(flush=True)
    page.write(store, site, "vllm", print)
"""
KILLS = 12


def test_a_killed_writer_leaves_whole_pages(tmp_path: Path) -> None:
    store = showcase.make(tmp_path, 5, 2, 20)
    page.write(store, showcase.site_of(tmp_path), "", print)
    pages = (tmp_path / page.PAGE, tmp_path / "vllm" / page.PAGE)
    for reads in range(KILLS):
        with subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path)], cwd=ROOT, stdout=-1) as writer:
            assert writer.stdout
            writer.stdout.readline()
            # Each time after another number of reads: somewhere in the writing.
            for _ in range(1 + reads * 15):
                assert all(path.read_text().endswith("</html>") for path in pages)
            writer.kill()
        assert all(path.read_text().endswith("</html>") for path in pages)
    page.write(store, showcase.site_of(tmp_path), "vllm", print)
    assert [path.name for path in tmp_path.rglob(f".{page.PAGE}.*")] == []
