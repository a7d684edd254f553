"""What must not be published: absolute paths and the name of the user."""

from __future__ import annotations

import getpass
import re
from pathlib import Path


# At least two parts, or `</b>` of HTML would count; not what follows a word, a colon or a slash: addresses, `a/b`.
_POSIX_PATH = re.compile(r"(?<![\w.:/<~])~?(?:/[\w.@+=~-]+){2,}/?|(?<![\w/])~/[\w.@+=-]+|file://[^\s\"')>]+")
_WINDOWS_PATH = re.compile(r"\b[A-Za-z]:[\\/]+[^\s\"'`<>|)]+")
_GENERIC_USERS = {"root", "user", "users", "ubuntu", "admin", "runner", "nobody", "jovyan"}
_PLACEHOLDER = "PATH"


def absolute_paths(text: str) -> list[str]:
    """The absolute paths in a text, each once, in order."""
    found = [match.group() for pattern in (_POSIX_PATH, _WINDOWS_PATH) for match in pattern.finditer(text)]
    return list(dict.fromkeys(found))


def hide_paths(text: str) -> str:
    """A text in which of an absolute path the last part alone is left, after `PATH/`."""
    for pattern in (_POSIX_PATH, _WINDOWS_PATH):
        text = pattern.sub(_shorten, text)
    return text


def _shorten(match: re.Match[str]) -> str:
    parts = [part for part in re.split(r"[\\/]+", match.group()) if part]
    return f"{_PLACEHOLDER}/{parts[-1]}"


def user_names() -> list[str]:
    """Names that tell who is at work here: that of the user and of the home folder, unless everybody's are so."""
    names = {Path.home().name}
    try:
        names.add(getpass.getuser())
    except (OSError, KeyError):  # a user without a name, as in containers
        pass
    return sorted(name for name in names if len(name) > 2 and name.lower() not in _GENERIC_USERS)


def private_parts(text: str, allowed: str = "") -> list[str]:
    """Absolute paths and user names in a text, described; `allowed` (a Hub id) may hold the name of the user."""
    found = [f"the absolute path {path}" for path in absolute_paths(text)]
    rest = text.replace(allowed, "") if allowed else text
    found += [f"the user name {name}" for name in user_names() if re.search(rf"\b{re.escape(name)}\b", rest)]
    return found
