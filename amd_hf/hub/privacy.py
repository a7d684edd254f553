"""What must not be published: secrets, absolute paths and the name of the user.

A run leaves them out of what it writes ([`redact`], [`redact_values`], [`redact_command`]); what is published is
searched for them ([`private_parts`]). Secrets are known by their form (tokens of the Hub, GitHub, AWS and others,
private keys, addresses with credentials), by the name that stands before them (`password=...`), and by their value:
that of the Hub's token in use and of environment variables that are called so.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import get_token


# At least two parts, or `</b>` of HTML would count; not what follows a word, a colon or a slash: addresses, `a/b`.
_POSIX_PATH = re.compile(r"(?<![\w.:/<~])~?(?:/[\w.@+=~-]+){2,}/?|(?<![\w/])~/[\w.@+=-]+|file://[^\s\"')>]+")
_WINDOWS_PATH = re.compile(r"\b[A-Za-z]:[\\/]+[^\s\"'`<>|)]+|(?<![\\\w])\\\\[\w.$-]+\\[^\s\"'`<>|)]+")
_HOME = re.compile(
    rf"(?<!\w)(?:{re.escape(str(Path.home()))}|/home/[^/\s]+|/Users/[^/\s]+|[A-Za-z]:\\Users\\[^\\\s]+)"
)
_GENERIC_USERS = {"root", "user", "users", "ubuntu", "admin", "runner", "nobody", "jovyan"}
_PLACEHOLDER = "PATH"
_SECRET = "SECRET"
_USER = "USER"

# ---- Secrets by their form ----

_BEFORE = r"(?<![A-Za-z0-9_-])"
_TOKENS = {
    "a token of the Hub": r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,})",
    "a token of GitHub": r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,})",
    "a token of GitLab": rf"{_BEFORE}gl[a-z]{{2,6}}-[A-Za-z0-9_-]{{20,}}",
    "a key of AWS": r"(?<![A-Z0-9])(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])",
    "a token of Slack": rf"{_BEFORE}(?:xox[a-z]-[A-Za-z0-9-]{{10,}}|xapp-[A-Za-z0-9-]{{10,}})",
    "an address of Slack's webhooks": r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{10,}",
    "a key of OpenAI's kind": rf"{_BEFORE}sk-[A-Za-z0-9_-]{{20,}}",
    "a key of Google": rf"{_BEFORE}(?:AIza[A-Za-z0-9_-]{{35}}|ya29\.[A-Za-z0-9_-]{{20,}})",
    "a key of Stripe": rf"{_BEFORE}[sr]k_(?:live|test)_[A-Za-z0-9]{{16,}}",
    "a token of a package index": rf"{_BEFORE}(?:npm_[A-Za-z0-9]{{30,}}|pypi-[A-Za-z0-9_-]{{40,}})",
    "a key of Weights & Biases": r"wandb_v1_[A-Za-z0-9_]{20,}|(?<=local-)[0-9a-f]{40}(?![0-9a-f])"
    r"|(?i:wandb)[^\n]{0,60}?(?<![0-9a-fA-F])[0-9a-f]{40}(?![0-9a-f])",
    "a token of Replicate": rf"{_BEFORE}r8_[A-Za-z0-9]{{30,}}",
    "a JSON web token": rf"{_BEFORE}eyJ[A-Za-z0-9_-]{{20,}}={{0,2}}(?:\.[A-Za-z0-9_-]*)*",
    "a private key": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----(?:(?s:.{0,20000}?)-----END [A-Z0-9 ]*PRIVATE KEY"
    r"[A-Z ]*-----|[A-Za-z0-9+/=\s]*)",
    "a header of authorization": r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/-]{16,}=*",
    "an address with credentials": r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@\"'<>]+@[^\s/?#\"'<>]*",
}
_TOKEN_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _TOKENS.items()}
# A name, `=` or (as in JSON) `":`, and a value. Environment variables may have a colon too.
_ASSIGNMENT = re.compile(
    r"""(?P<name>[A-Za-z][\w.-]*)(?P<sign>["']\s*[:=]\s*|\s?=\s?|(?<=[A-Z])\s*:\s*)(?P<quote>\\?["']?)"""
    r"""(?P<value>[^\s"'\\&,;<>{}()\[\]`|]{6,})"""
)
_NO_VALUES = re.compile(r"(?i)\$.*|true|false|none|null|secret|hidden|x{3,}.*|\.{3}.*|\*+|your[_-].*")

_SECRET_WORDS = {
    "token", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "pwd", "credential", "credentials",
    "apikey", "authorization",
}  # fmt: skip
# Tokens of transformers (`use_class_token`) and of text, and the key frames of videos.
_NO_SECRETS = re.compile(r"(?:class|cls|pad|bos|eos|sep|unk|mask|image|video|frame|special)_?token|key_?frame")


def is_secret_name(name: str) -> bool:
    """Return whether an option, variable or key of this name holds a secret: it says token, key, secret, password."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)
    lowered = [word.lower() for word in words]
    if _NO_SECRETS.search("_".join(lowered)):
        return False
    return "key" in lowered or not _SECRET_WORDS.isdisjoint(lowered)


def known_secrets() -> set[str]:
    """Return the secrets of this process by value: the Hub's token, and environment variables whose names say so."""
    values = {value for name, value in os.environ.items() if is_secret_name(name)}
    values.add(get_token() or "")
    return {value for value in values if len(value) >= 8 and not _NO_VALUES.fullmatch(value)}


def secret_parts(text: str, known: Collection[str] | None = None) -> list[str]:
    """Describe the kinds of the secrets in a text, none of them revealed, in no order.

    Args:
        text (`str`): What to look through.
        known (`Collection[str]`, *optional*): Secrets by value; those of [`known_secrets`] when not given.
    """
    found = [kind for kind, pattern in _TOKEN_PATTERNS.items() if pattern.search(text)]
    names = {match["name"] for match in _ASSIGNMENT.finditer(text) if _is_assigned_secret(match)}
    found += [f"a value of `{name}`" for name in sorted(names)]
    if any(value in text for value in (known_secrets() if known is None else known)):
        found.append("a secret of this machine (a token in use, or a variable of the environment)")
    return found


def _is_assigned_secret(match: re.Match[str]) -> bool:
    return is_secret_name(match["name"]) and not _NO_VALUES.fullmatch(match["value"])


def hide_secrets(text: str, known: Collection[str] | None = None) -> str:
    """Return a text with `SECRET` instead of each secret."""
    for value in sorted(known_secrets() if known is None else known, key=len, reverse=True):
        text = text.replace(value, _SECRET)
    for pattern in _TOKEN_PATTERNS.values():
        text = pattern.sub(_hide_token, text)
    return _ASSIGNMENT.sub(_hide_value, text)


def _hide_token(match: re.Match[str]) -> str:
    # Keep the scheme of an address, so that it is recognisable as one.
    scheme, is_address, _ = match.group().partition("://")
    return f"{scheme}://{_SECRET}" if is_address else _SECRET


def _hide_value(match: re.Match[str]) -> str:
    if not _is_assigned_secret(match):
        return match.group()
    return match["name"] + match["sign"] + match["quote"] + _SECRET


# ---- Paths and names ----


def absolute_paths(text: str) -> list[str]:
    """Return the absolute paths in a text, each once, in order."""
    found = [match.group() for pattern in (_POSIX_PATH, _WINDOWS_PATH) for match in pattern.finditer(text)]
    return list(dict.fromkeys(found))


def hide_paths(text: str) -> str:
    """Return a text in which of an absolute path the last part alone is left, after `PATH/`."""
    for pattern in (_POSIX_PATH, _WINDOWS_PATH):
        text = pattern.sub(_shorten, text)
    return text


def _shorten(match: re.Match[str]) -> str:
    parts = [part for part in re.split(r"[\\/]+", match.group()) if part]
    return f"{_PLACEHOLDER}/{parts[-1]}"


def user_names() -> list[str]:
    """Return the names of the user and of the home folder, but for those that many machines have."""
    names = {Path.home().name}
    try:
        names.add(getpass.getuser())
    except (OSError, KeyError):  # a user without a name, as in containers
        pass
    return sorted(name for name in names if len(name) > 2 and name.lower() not in _GENERIC_USERS)


def _name_pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)


# ---- All of them ----


def private_parts(text: str, allowed: str = "", known: Collection[str] | None = None) -> list[str]:
    """Describe the secrets, absolute paths and user names in a text.

    Args:
        text (`str`): What to look through.
        allowed (`str`, *optional*): A Hub id: it, and others of its owner, may hold the name of the user.
        known (`Collection[str]`, *optional*): See [`secret_parts`].
    """
    found = secret_parts(text, known)
    hidden = hide_secrets(text, known) if found else text  # or an address of a webhook would count as a path too
    found += [f"the absolute path {path}" for path in absolute_paths(hidden)]
    if allowed:
        owner, _, name = allowed.rpartition("/")
        hidden = hidden.replace(allowed, "")
        if owner:  # `me/other-model`, but no `/home/me/...`
            hidden = re.sub(rf"(?<![\w/\\.~-]){re.escape(owner)}/[\w.-]+(?![\w/])", "", hidden)
    found += [f"the user name {name}" for name in user_names() if _name_pattern(name).search(hidden)]
    return found


def redact(text: str, known: Collection[str] | None = None) -> str:
    """Return a text without secrets, absolute paths and the name of the user.

    The last part of a path stays, and the name of the user where it may be an owner on the Hub: `me/model`.
    """
    text = hide_paths(hide_secrets(text, known))
    for name in user_names():
        hub_id = rf"(?<![\w/\\.~-])(?={re.escape(name)}/[\w.-]+(?![\w/]))"
        text = re.sub(
            rf"(?P<id>{hub_id})?(?<!\w){re.escape(name)}(?!\w)",
            lambda match: match.group() if match["id"] is not None else _USER,
            text,
            flags=re.IGNORECASE,
        )
    return text


def hide_identity(value: Any, known: Collection[str] | None = None) -> Any:
    """Take secrets, home folders (`~` instead) and the user's name out of the settings of a run; other paths stay.

    For files that stay where the paths are: arguments, logs and states of a run. Texts inside mappings and lists too.
    """
    if isinstance(value, dict):
        return {
            key: _SECRET if isinstance(item, str) and item and is_secret_name(str(key)) else hide_identity(item, known)
            for key, item in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(hide_identity(item, known) for item in value)
    if type(value) is not str:  # an enum of texts stays what it is
        return value
    text = _HOME.sub("~", hide_secrets(value, known))
    for name in user_names():
        text = _name_pattern(name).sub(_USER, text)
    return text


def redact_values(value: Any, known: Collection[str] | None = None) -> Any:
    """Take out of mappings, lists and texts what [`redact`] does, and the values of keys that are secrets."""
    if isinstance(value, str):
        redacted = redact(value, known)
        return value if redacted == value else redacted  # a subclass stays one
    if isinstance(value, dict):
        return {
            redact_values(key, known): _SECRET
            if isinstance(key, str) and isinstance(item, str) and item and is_secret_name(key)
            else redact_values(item, known)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(redact_values(item, known) for item in value)
    return value


def redact_command(words: Sequence[str]) -> tuple[list[str], list[str], set[str]]:
    """Return a command without the options that are secrets.

    Args:
        words (`Sequence[str]`): Program and arguments.

    Returns:
        The words that are left, not yet redacted otherwise; the names of the options left out; and their values.
    """
    kept: list[str] = []
    left_out: list[str] = []
    values: set[str] = set()
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        name, has_value, value = word.partition("=")
        if not word.startswith("-") or not is_secret_name(name):
            kept.append(word)
            continue
        left_out.append(name)
        if not has_value and remaining and not remaining[0].startswith("--"):
            values.add(remaining.pop(0))
        values |= {value} if has_value else set()
    return kept, left_out, {value for value in values if len(value) >= 4 and not _NO_VALUES.fullmatch(value)}
