from __future__ import annotations

from pathlib import Path

from kiln import owners

PLACE = "/usr/lib/python3/dist-packages"


def test_files_of_debian_of_python_and_of_nobody(tmp_path: Path) -> None:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info / "coreutils.list").write_text("/.\n/bin\n/bin/ls\n/usr/share/doc/coreutils\n")
    (info / "libc6:amd64.list").write_text("/etc/ld.so.conf.d/x86_64.conf\n")
    (info / "coreutils.md5sums").write_text("/etc/fake\n")
    record = tmp_path / PLACE.lstrip("/") / "num_py-1.0.dist-info/RECORD"
    record.parent.mkdir(parents=True)
    record.write_text('num_py/__init__.py,sha256=x,1\n"odd, name.py",,\n../../../bin/num,sha256=y,2\n\n')
    paths = ("/usr/bin/ls", "/etc/ld.so.conf.d/x86_64.conf", "/etc/fake", "/nobody")
    modules = (f"{PLACE}/num_py/__init__.py", f"{PLACE}/odd, name.py")
    found = owners.of(tmp_path, (*paths, *modules))
    assert found == {
        "/usr/bin/ls": "apt coreutils",
        "/etc/ld.so.conf.d/x86_64.conf": "apt libc6",
        f"{PLACE}/num_py/__init__.py": "python num_py",
        f"{PLACE}/odd, name.py": "python num_py",
    }


def test_a_tree_without_packages(tmp_path: Path) -> None:
    assert owners.of(tmp_path, ["/etc/x", "/opt/site-packages/x"]) == {}
    assert owners.of(tmp_path, []) == {}


def test_what_leads_out_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.list").write_text("/etc/x\n")
    tree = tmp_path / "tree"
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "var/lib/dpkg/info").symlink_to(tmp_path / "outside")
    assert owners.of(tree, ["/etc/x"]) == {}
