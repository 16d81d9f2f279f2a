"""What no file of this repository may hold, and what must hold over all of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Written in pieces, so that this file holds none of them.
REGISTRIES = (
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "proxy.golang" + ".org",
    "sum.golang" + ".org",
    "registry.npmjs" + ".org",
    "static.crates" + ".io",
    "index.crates" + ".io",
)
MACHINE_PATH = re.compile(r"(?<![\w.~}$*-])/(?:root|work|home/\w+|Users/\w+)/\w")


def files() -> list[Path]:
    """Every file that belongs to the repository, committed or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in sorted(set(listed.stdout.decode().split("\0"))) if name]
    # A source archive: all that is not made by set-up and tests.
    made = re.compile(r"/(\.venv|\.git|\.[a-z_]*cache[a-z_]*|\.hypothesis|__pycache__|dist)/")
    return [path for path in sorted(ROOT.rglob("*")) if not made.search(f"{path}/")]


def texts() -> list[tuple[str, str]]:
    """Path and content of every text file of the repository."""
    contents = [(path, path.read_bytes()) for path in files() if path.is_file()]
    return [
        (str(path.relative_to(ROOT)), content.decode("utf-8", "replace"))
        for path, content in contents
        if b"\0" not in content
    ]


def test_no_file_names_a_package_registry() -> None:
    naming = [(name, host) for name, text in texts() for host in REGISTRIES if host in text]
    assert naming == []


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    naming = [
        (name, line.strip())
        for name, text in texts()
        for line in text.splitlines()
        if MACHINE_PATH.search(line)
    ]
    assert naming == []


def test_every_locked_package_has_one_exact_version_and_hashes() -> None:
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        entries = re.split(r"\n(?=[a-z0-9])", lock.read_text(encoding="utf-8"))
        packages = [entry for entry in entries if not entry.startswith("#")]
        assert packages, lock.name
        for package in packages:
            assert re.match(r"[a-z0-9._-]+==[^ *]+ \\\n +--hash=sha256:[0-9a-f]{64}", package), (
                package
            )
        options = [entry for entry in entries if re.match(r"^(-i|--(?!hash))", entry)]
        assert options == []


def test_the_lock_holds_exactly_what_pyproject_asks_for() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = set(re.findall(r'"([a-z0-9-]+==[^"]+)"', pyproject))
    locked = {
        found.group(1)
        for lock in (ROOT / "requirements").glob("*.txt")
        for found in re.finditer(r"^([a-z0-9-]+==[^ ]+) \\$", lock.read_text("utf-8"), re.MULTILINE)
    }
    assert asked - locked == set()


def test_the_container_listens_where_a_daemon_does_and_exposes_both_transports() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    [command] = [line for line in lines if line.startswith("CMD [") and "daemon" in line]
    assert "--listen" not in command
    assert "EXPOSE 4001/tcp 4001/udp" in lines
