"""Folders that Ray and other libraries need on this machine, where those of the environment cannot be used.

A container may have a user without an entry in its password file, a home folder that cannot be written, or a
long temporary folder, in which Ray's sockets exceed the 107 bytes that Linux allows.
"""

import getpass
import os
import secrets
import tempfile
from pathlib import Path

from tkd_search.files import not_writable

_SOCKET = "/ray/session_2026-12-01_19-15-56_528136_4194304/sockets/plasma_store"
MOST_TEMPORARY = 107 - len(_SOCKET)
"""Most bytes of the path of Ray's temporary folder."""


def provide_folders() -> list[str]:
    """Set the environment of this process and its children so that Ray finds usable folders.

    Call it before Ray is imported. What is usable already is left as it is.

    Returns:
        A line for everything that was replaced.
    """
    _provide_name()
    return [*_provide_home(), *_provide_temporary(), *_provide_token(), *_provide_caches()]


def private_folder() -> Path:
    """Return a folder with a short path that only this user can enter; it is created if missing."""
    for root in ("/tmp", tempfile.gettempdir()):
        place = Path(root) / f"tkd-{os.getuid()}"
        try:
            place.mkdir(mode=0o700, exist_ok=True)
            found = place.lstat()
        except OSError:
            continue
        private = (found.st_uid, found.st_mode & 0o077) == (os.getuid(), 0)
        if private and place.is_dir() and not place.is_symlink():
            return place
    return Path(tempfile.mkdtemp(prefix="tkd-"))


def _provide_name() -> None:
    """Name a user without an entry in the password file, as ``docker run --user`` makes one."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the second: from Python 3.13 on
        os.environ["LOGNAME"] = f"user-{os.getuid()}"


def _provide_home() -> list[str]:
    """Give a user without a home folder one."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(private_folder())
        return [f"no home folder (HOME is unset): {os.environ['HOME']} is used"]
    return []


def _provide_temporary() -> list[str]:
    """Replace a temporary folder that is too long for Ray's sockets, or cannot be written."""
    place = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    length = len(os.fsencode(place))
    problem = f"{length} bytes" if length > MOST_TEMPORARY else not_writable(Path(place) / "ray")
    if not problem:
        return []
    os.environ["RAY_TMPDIR"] = str(private_folder())
    return [
        f"a temporary folder that Ray cannot use (TMPDIR or RAY_TMPDIR, at most {MOST_TEMPORARY} bytes: "
        f"{problem}): {os.environ['RAY_TMPDIR']} is used"
    ]


def _provide_token() -> list[str]:
    """Write a token for Ray where there is none and the home folder cannot take it."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    home = Path.home() / ".ray" / "auth_token"
    if given or home.exists() or not not_writable(home):
        return []
    file = private_folder() / "auth_token"
    if not file.exists():
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as made:
            made.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
    return [f"a home folder that cannot be written: Ray's token is in {file}"]


def _provide_caches() -> list[str]:
    """Set folders for the caches that libraries make in a home folder, where it cannot be written.

    A cache folder that exists is kept, because it may hold downloaded weights.
    """
    replaced = []
    for name, place in (("MPLCONFIGDIR", ".config/matplotlib"), ("XDG_CACHE_HOME", ".cache")):
        folder = Path.home() / place
        if not (os.environ.get(name) or folder.exists()) and not_writable(folder):
            os.environ[name] = str(private_folder() / place)
            replaced.append(os.environ[name])
    return [f"a home folder that cannot be written: caches are in {', '.join(replaced)}"] if replaced else []
