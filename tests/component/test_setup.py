"""``scripts/setup`` and ``scripts/codio-dht``, without a network.

The tree that is set up is a small one: the real scripts, empty locks, and a project that is built
by a few lines of its own, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """\
[build-system]
requires = []
build-backend = "build_it"
backend-path = ["."]

[project]
name = "codio-dht"
version = "0"

[project.scripts]
codio-dht = "codio_dht:main"
"""

BACKEND = '''\
"""Builds an editable wheel: a .pth file and a console script."""
import os, zipfile

INFO = "codio_dht-0.dist-info"
FILES = {
    "codio_dht_here.pth": os.getcwd() + "\\n",
    INFO + "/METADATA": "Metadata-Version: 2.1\\nName: codio-dht\\nVersion: 0\\n",
    INFO + "/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    INFO + "/entry_points.txt": "[console_scripts]\\ncodio-dht = codio_dht:main\\n",
}


def build_editable(directory, config_settings=None, metadata_directory=None):
    with open("builds.log", "a") as log:
        log.write("built\\n")
    name = "codio_dht-0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for path, content in FILES.items():
            wheel.writestr(path, content)
        record = "".join(path + ",,\\n" for path in [*FILES, INFO + "/RECORD"])
        wheel.writestr(INFO + "/RECORD", record)
    return name
'''

PACKAGE = '"""A stand-in."""\nimport sys\n\n\ndef main():\n    print("ran", sys.argv[1:])\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "a tree"  # with a space in its path
    (tree / "codio_dht").mkdir(parents=True)
    (tree / "requirements").mkdir()
    (tree / "scripts").mkdir()
    for script in ("setup", "codio-dht"):
        shutil.copy(ROOT / "scripts" / script, tree / "scripts")
    for lock in ("build", "run", "dev"):
        (tree / "requirements" / f"{lock}.txt").write_text("# nothing\n")
    (tree / "pyproject.toml").write_text(PYPROJECT)
    (tree / "build_it.py").write_text(BACKEND)
    (tree / "codio_dht" / "__init__.py").write_text(PACKAGE)
    return tree


def environment(**changes: str) -> dict[str, str]:
    """Ours, without an activated environment, where apt-get is never called."""
    ours = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return ours | {"CODIO_DHT_NO_APT": "1", "PIP_NO_INDEX": "1"} | changes


def setup(tree: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tree / "scripts" / "setup"],
        cwd="/",
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def builds(tree: Path) -> int:
    log = tree / "builds.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_one_command_sets_up_and_runs_from_anywhere(tree: Path, tmp_path: Path) -> None:
    for _ in range(2):
        result = subprocess.run(
            [tree / "scripts" / "codio-dht", "daemon", "--bootstrap", "a b"],
            cwd="/",
            env=environment(HOME=str(tmp_path / "no such home")),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.stdout == "ran ['daemon', '--bootstrap', 'a b']\n", result.stderr
    # The second time nothing was to be done, and nothing was said.
    assert result.stderr == ""
    assert builds(tree) == 1
    assert not (tmp_path / "no such home").exists()


def test_set_up_again_after_a_lock_changed_or_the_tree_moved(tree: Path) -> None:
    assert setup(tree).returncode == 0
    (tree / "requirements" / "run.txt").write_text("# nothing else\n")
    assert setup(tree).returncode == 0
    assert builds(tree) == 2
    moved = tree.rename(tree.with_name("moved"))
    assert setup(moved).returncode == 0
    assert builds(moved) == 3
    command = moved / ".venv" / "bin" / "codio-dht"
    assert (
        subprocess.run([command], capture_output=True, text=True, check=True).stdout == "ran []\n"
    )


def test_of_two_at_once_one_works_and_one_waits(tree: Path) -> None:
    both = [
        subprocess.Popen(
            [tree / "scripts" / "setup"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert builds(tree) == 1


def test_a_failed_set_up_is_taken_up_again(tree: Path) -> None:
    (tree / "requirements" / "run.txt").write_text(f"codio-none==1 --hash=sha256:{'0' * 64}\n")
    failed = setup(tree)
    assert failed.returncode == 1
    assert "codio-none==1" in failed.stderr
    assert "a way to the Python package index" in failed.stderr
    (tree / "requirements" / "run.txt").write_text("# nothing\n")
    assert setup(tree).returncode == 0


def bare_path(directory: Path, *without: str) -> str:
    """A PATH with all that a Debian base system has, and this Python, but no compiler."""
    directory.mkdir()
    for name in (
        *("bash", "cat", "cksum", "dirname", "env", "id", "mktemp", "mv", "rm", "sed", "tail"),
        *("apt-get", "python3"),
    ):
        found = shutil.which(name)
        if found is not None and name not in without:
            (directory / name).symlink_to(Path(found).resolve() if name != "python3" else found)
    return str(directory)


def test_what_is_missing_is_named_with_the_command_that_adds_it(tree: Path, tmp_path: Path) -> None:
    result = setup(tree, PATH=bare_path(tmp_path / "bin"))
    assert result.returncode == 1
    assert "a C compiler" in result.stderr
    assert "GMP with its header" in result.stderr
    assert "please run:" in result.stderr
    if shutil.which("apt-get"):
        assert "apt-get install gcc libc6-dev" in result.stderr
    assert not (tree / ".venv").exists()


def test_without_a_new_enough_python_it_says_which_one_is_needed(
    tree: Path, tmp_path: Path
) -> None:
    result = setup(tree, PATH=bare_path(tmp_path / "bin", "python3"))
    assert result.returncode == 1
    assert "Python 3.11, 3.12, 3.13 or 3.14 is needed" in result.stderr


def test_an_unknown_argument_is_refused(tree: Path) -> None:
    result = subprocess.run(
        [tree / "scripts" / "setup", "--fast"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "--fast" in result.stderr
