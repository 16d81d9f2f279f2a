"""``scripts/setup`` and ``scripts/codio-dht``, without a network.

The tree that is set up is a small one: the real scripts, empty locks, and a project that is built
by a few lines of its own, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYTHON = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")

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
    for lock in ("build", "run", "libp2p", "dev"):
        (tree / "requirements" / f"{lock}.txt").write_text("# nothing\n")
    (tree / "pyproject.toml").write_text(PYPROJECT)
    (tree / "build_it.py").write_text(BACKEND)
    (tree / "codio_dht" / "__init__.py").write_text(PACKAGE)
    return tree


def environment(**changes: str) -> dict[str, str]:
    """Ours, without an activated environment, where apt-get is never called."""
    ours = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return ours | {"CODIO_DHT_NO_APT": "1", "PIP_NO_INDEX": "1", "PYTHON": PYTHON} | changes


def setup(tree: Path, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tree / "scripts" / "setup", *options],
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


def test_two_first_commands_at_once_set_up_once_and_both_run(tree: Path, tmp_path: Path) -> None:
    home = tmp_path / "no such home"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [tree / "scripts" / "codio-dht", "daemon", "--bootstrap", "a b"],
            cwd="/",
            env=environment(HOME=str(home)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    ran = "ran ['daemon', '--bootstrap', 'a b']\n"
    both = [process.communicate(timeout=80) for process in (start(), start())]
    assert [stdout for stdout, _ in both] == [ran, ran], both
    assert builds(tree) == 1
    assert not (home / ".cache").exists()
    # From now on there is nothing to do, and nothing is said.
    assert start().communicate(timeout=80) == (ran, "")
    assert builds(tree) == 1


@pytest.mark.deadline_s(180)
def test_it_is_set_up_anew_after_a_failure_a_new_lock_or_a_move(tree: Path) -> None:
    lock = tree / "requirements" / "run.txt"
    lock.write_text(f"codio-none==1 --hash=sha256:{'0' * 64}\n")
    failed = setup(tree)
    assert failed.returncode == 1
    assert "codio-none==1" in failed.stderr
    assert "a way to the Python package index" in failed.stderr
    for number in (1, 2):
        lock.write_text(f"# nothing, {number}\n")
        assert setup(tree).returncode == 0
        assert builds(tree) == number
    moved = tree.rename(tree.with_name("moved"))
    assert setup(moved).returncode == 0
    assert builds(moved) == 3
    command = moved / ".venv" / "bin" / "codio-dht"
    assert (
        subprocess.run([command], capture_output=True, text=True, check=True).stdout == "ran []\n"
    )


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH with what every base system has, and neither Python nor a compiler."""
    directory = tmp_path / "bin"
    directory.mkdir()
    base = ("bash", "cat", "cksum", "dirname", "env", "id", "mktemp", "mv", "rm", "sed", "tail")
    for found in filter(None, map(shutil.which, (*base, "apt-get"))):
        (directory / Path(found).name).symlink_to(found)
    return str(directory)


@pytest.mark.parametrize("option", ["--dev", "--libp2p"])
def test_what_is_missing_is_named_with_the_command_that_adds_it(
    tree: Path, bare_path: str, option: str
) -> None:
    result = setup(tree, option, PATH=bare_path)
    assert result.returncode == 1
    assert "a C compiler" in result.stderr
    assert "GMP with its header" in result.stderr
    assert "please run:" in result.stderr
    if shutil.which("apt-get"):
        assert "apt-get install gcc libc6-dev" in result.stderr
    assert not (tree / ".venv").exists()


def test_a_node_is_set_up_without_py_libp2p_where_that_cannot_be_built(
    tree: Path, bare_path: str
) -> None:
    (tree / "requirements" / "libp2p.txt").write_text("not to be read\n")
    result = setup(tree, PATH=bare_path)
    assert result.returncode == 0, result.stderr
    assert "without py-libp2p" in result.stderr
    assert "for want of: a C compiler; " in result.stderr
    assert "scripts/setup --libp2p" in result.stderr
    # That is settled: it is not tried again at each start.
    assert (0, "") == ((again := setup(tree, PATH=bare_path)).returncode, again.stderr)


@pytest.mark.deadline_s(180)
def test_py_libp2p_that_cannot_be_installed_is_no_failure_unless_it_was_asked_for(
    tree: Path,
) -> None:
    lock = tree / "requirements" / "libp2p.txt"
    lock.write_text(f"codio-none==1 --hash=sha256:{'0' * 64}\n")
    result = setup(tree)
    assert result.returncode == 0, result.stderr
    assert "codio-none==1" in result.stderr
    assert "without py-libp2p" in result.stderr
    assert "ready" in result.stderr
    assert 1 == setup(tree, "--libp2p").returncode
    lock.write_text("# nothing\n")
    assert 0 == setup(tree, "--libp2p").returncode
    assert (0, "") == ((again := setup(tree)).returncode, again.stderr)


def test_without_a_python_it_says_which_one_is_needed(tree: Path, bare_path: str) -> None:
    result = setup(tree, PATH=bare_path, PYTHON="")
    assert result.returncode == 1
    assert "Python 3.11, 3.12, 3.13 or 3.14 is needed" in result.stderr


def test_an_unknown_argument_is_refused(tree: Path) -> None:
    result = subprocess.run(
        [tree / "scripts" / "setup", "--fast"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "--fast" in result.stderr
