"""Images of our node and of the real peers, and the programs that build and run them.

``ensure_images`` builds what is missing, once per content: an image's tag is the hash of all that
it is made of. The images stay in podman's store, and what is downloaded for them in the user's
cache (``peer_builds.cache_dir``). No image is pulled:

    base    Debian's python3 and what it needs, unpacked from the system's own package sources
    node    this project's ``Dockerfile`` on that base
    ours    that, with the program of ``py-peer``
    go, rust, js, kubo    the programs that ``peer_builds`` built

Run as a program (``scripts/images [NAME ...]``), builds all or those named, and tags each as
``codio-dht-test/NAME:latest`` too, which is what ``images/compose.yaml`` runs. With ``CI=true`` a
missing tool is an error, after an attempt to install it.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import peer_builds
from peer_builds import BuildError, MissingToolError

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
FILES: Final = HERE / "images"

PREFIX: Final = "localhost/codio-dht-test"
PEERS: Final = ("go", "rust", "js", "kubo")

BASE_PACKAGES: Final = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "passwd"),
    *("login", "sed", "python3", "python3-venv", "libstdc++6"),
)
_LEFT_OUT: Final = ("./usr/share/doc", "./usr/share/man", "./usr/share/locale")
_MERGED: Final = ("bin", "sbin", "lib", "lib64")

TOOLS: Final = {"podman": "podman", "buildah": "buildah", "crun": "crun", "unshare": "util-linux"}
"""Programs, and the packages of Debian that have them."""

BUILD_TIMEOUT_S: Final = 600

KEPT: Final = 4
"""Images of one name that stay in podman's store, the newest; trees of other content made them."""

HYBRID_CGROUPS: Final = Path("/sys/fs/cgroup/unified")
"""crun refuses to run beside this hierarchy, so a command of podman gets a view without it."""

_CONFIGURATION: Final = """\
[containers]
default_ulimits = []
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
"""


def ensure_images(names: Iterable[str]) -> dict[str, str]:
    """The reference of each image named (a peer, ``ours``, ``node``), built now if it is missing.

    Raises:
        MissingToolError: a program is not installed, and may not be installed from here.
        BuildError: a build failed.
    """
    _ensure_tools()
    with peer_builds.lock(_cache() / "lock"):
        references = {name: _ensure_image(name) for name in names}
        for name in references:
            _forget_old(name)
        return references


def podman(*arguments: str) -> tuple[str, ...]:
    """The command that runs podman with these arguments; its environment is ``environment()``."""
    plain = ("podman", *arguments)
    if not HYBRID_CGROUPS.exists():
        return plain
    return ("unshare", "-m", "sh", "-c", f'umount {HYBRID_CGROUPS}; exec "$@"', "sh", *plain)


def environment() -> dict[str, str]:
    """The environment of podman's commands: limits as on any machine, no hierarchy of cgroups."""
    file = _cache() / "containers.conf"
    if not file.exists() or file.read_text() != _CONFIGURATION:
        file.write_text(_CONFIGURATION)
    return {**os.environ, "CONTAINERS_CONF": str(file)}


def run(*command: str, **options: str | bytes | Path) -> str:
    """What a command printed.

    Raises:
        BuildError: it failed, or took too long; the message ends with what it said.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=BUILD_TIMEOUT_S,
            env=environment(),
            check=True,
            **options,  # type: ignore[call-overload]
        )
    except subprocess.CalledProcessError as error:
        said = (error.stdout + error.stderr)[-3000:].decode(errors="replace")
        raise BuildError(f"{' '.join(command)}: exit status {error.returncode}\n{said}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{' '.join(command)}: not done after {BUILD_TIMEOUT_S} s") from error
    return str(done.stdout.decode())


# --- tools ----------------------------------------------------------------------------------------


def _ensure_tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and _may_install():
        packages = sorted({TOOLS[tool] for tool in missing})
        install = ("apt-get", "-qy", "install", "--no-install-recommends", *packages)
        run("apt-get", "-q", "update")
        run("env", "DEBIAN_FRONTEND=noninteractive", *install)
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise MissingToolError(f"containers need {', '.join(missing)} on PATH")
    if os.geteuid():
        raise MissingToolError("containers with addresses of their own need root")


def _may_install() -> bool:
    """As ``scripts/setup`` decides it, but as root only, and in CI."""
    forbidden = os.environ.get("CODIO_DHT_NO_APT") or os.environ.get("CI") != "true"
    return not forbidden and os.geteuid() == 0 and shutil.which("apt-get") is not None


# --- images ---------------------------------------------------------------------------------------


def _ensure_image(name: str) -> str:
    if name == "base":
        reference = f"{PREFIX}/base:{_digest([], inspect.getsource(_import_base), *BASE_PACKAGES)}"
        return reference if _exists(reference) else _import_base(reference)
    if name == "node":
        base = _ensure_image("base")
        reference = f"{PREFIX}/node:{_digest(_node_sources(), base)}"
        return reference if _exists(reference) else _build_node(reference, base)
    file = FILES / f"{name}.Containerfile"
    contents: Mapping[str, Path]
    if name == "ours":
        base, contents = _ensure_image("node"), {"py_peer.py": HERE / "py-peer" / "py_peer.py"}
        reference = f"{PREFIX}/ours:{_digest([file, *contents.values()], base)}"
    else:
        base, contents = _peer_contents(name)
        reference = f"{PREFIX}/{name}:{_digest([file], base, *map(str, contents.values()))}"
    return reference if _exists(reference) else _build(reference, file, base, contents)


def _peer_contents(name: str) -> tuple[str, Mapping[str, Path]]:
    """The base, and what is copied into the image, by the names that the Containerfile has."""
    peer_builds.ensure_built(name)
    source = peer_builds.PEERS[name]
    place = peer_builds.place_of(source)
    if name == "go":
        return "scratch", {source.program: place / source.program}
    if name == "js":
        node = shutil.which("node")
        if node is None:
            raise MissingToolError("the js image needs node on PATH")
        return _ensure_image("base"), {"node": Path(node).resolve(), "peer": place}
    return _ensure_image("base"), {source.program: place / source.program}


def _forget_old(name: str) -> None:
    form = ("--sort", "created", "--format", "{{.Repository}}:{{.Tag}}")
    listed = run(*podman("images", *form, f"{PREFIX}/{name}")).split()
    old = [reference for reference in listed if not reference.endswith(":latest")][KEPT:]
    for reference in old:  # one that a container still uses stays
        command = podman("rmi", reference)
        subprocess.run(command, env=environment(), capture_output=True, check=False)


def _exists(reference: str) -> bool:
    command = podman("image", "exists", reference)
    return subprocess.run(command, env=environment(), check=False).returncode == 0


def _build(reference: str, file: Path, base: str, contents: Mapping[str, Path]) -> str:
    """Build from a directory that holds exactly ``contents``."""
    with tempfile.TemporaryDirectory(dir=_cache()) as context:
        for name, source in contents.items():
            target = Path(context, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            run("cp", "-a", "--", str(source), str(target))
        options = ("--isolation=chroot", "--quiet", "--build-arg", f"BASE={base}")
        run(*podman("build", *options, "-f", str(file), "-t", reference, context))
    return reference


def _import_base(reference: str) -> str:
    """Unpack the packages; nothing of them is run, so this takes seconds and no other system."""
    debs = _cache() / "debs"
    (debs / "partial").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_cache()) as directory:
        place = Path(directory)
        (place / "status").touch()
        options = (
            f"Dir::State::status={place / 'status'}",  # as if nothing were installed
            f"Dir::Cache::archives={debs}",
            "APT::Sandbox::User=root",
            "Debug::NoLocking=1",
        )
        flags = [flag for option in options for flag in ("-o", option)]
        apt = ("apt-get", "-qy", "--no-install-recommends", *flags)
        for stale in debs.glob("*.deb"):
            stale.unlink()
        run(*apt, "--download-only", "install", *BASE_PACKAGES)
        root = place / "root"
        for name in _MERGED:
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        (root / "usr/local/bin").mkdir(parents=True)
        exclude = [f"--exclude={path}" for path in _LEFT_OUT]
        tar = " ".join(["tar", "-x", "-C", str(root), "--keep-directory-symlink", *exclude])
        for deb in sorted(debs.glob("*.deb")):
            run("sh", "-c", f'dpkg-deb --fsys-tarfile "$0" | {tar}', str(deb))
        for name in ("passwd", "group"):
            shutil.copy(root / "usr/share/base-passwd" / f"{name}.master", root / "etc" / name)
        run("ldconfig", "-r", str(root))
        run("tar", "-c", "-C", str(root), "-f", str(place / "base.tar"), ".")
        run(*podman("import", "--quiet", str(place / "base.tar"), reference))
    return reference


def _node_sources() -> list[Path]:
    """What the Dockerfile copies."""
    trees = (ROOT / "codio_dht", ROOT / "requirements")
    files = [path for tree in trees for path in tree.rglob("*") if "__pycache__" not in path.parts]
    single = ("Dockerfile", ".dockerignore", "README.md", "pyproject.toml", "scripts/setup")
    return [*files, *(ROOT / name for name in single)]


def _build_node(reference: str, base: str) -> str:
    """The Dockerfile as it is. What pip installs there was fetched here, so that it needs no
    settings of this machine's."""
    wheels = _cache() / "wheels"
    locks = [str(ROOT / "requirements" / f"{name}.txt") for name in ("build", "run")]
    requirements = [flag for lock in locks for flag in ("-r", lock)]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
    run(*pip, "--no-deps", "--require-hashes", *requirements, "--dest", str(wheels))
    settings = _cache() / "pip.conf"
    settings.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    mounts = ("-v", f"{wheels}:/wheels:ro", "-v", f"{settings}:/etc/pip.conf:ro")
    options = ("--isolation=chroot", "--quiet", "--layers", "--build-arg", f"BASE={base}")
    run(*podman("build", *options, *mounts, "-t", reference, str(ROOT)))
    return reference


def _digest(files: Sequence[Path], *words: str) -> str:
    digest = hashlib.sha256("\n".join(words).encode())
    for path in sorted(files):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[: peer_builds.HASH_CHARS]


def _cache() -> Path:
    place = peer_builds.cache_dir() / "images"
    place.mkdir(parents=True, exist_ok=True)
    return place


# --- networks -------------------------------------------------------------------------------------


@contextmanager
def bridge_network(name: str) -> Iterator[str]:
    """A bridge network that exists while the block runs: the first three numbers of its addresses.
    The containers on it end with it."""
    run(*podman("network", "create", name))
    try:
        form = "{{range .Subnets}}{{.Subnet}}{{end}}"
        subnet = run(*podman("network", "inspect", name, "--format", form)).strip()
        yield subnet.rsplit(".", 1)[0]
    finally:
        run(*podman("network", "rm", "--force", name))


def main(names: Sequence[str]) -> int:
    try:
        for name, reference in ensure_images(names or ("node", "ours", *PEERS)).items():
            run(*podman("tag", reference, f"{PREFIX}/{name}:latest"))
            print(f"{name}: {reference}", file=sys.stderr)
    except MissingToolError as error:
        print(f"images: not built: {error}", file=sys.stderr)
        return int(os.environ.get("CI") == "true")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
