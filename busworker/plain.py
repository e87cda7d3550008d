"""Text that is safe on a terminal and in a log: what could move the cursor or mislead is escaped. Pure."""

from __future__ import annotations

import re
import shlex

# C0, DEL and C1 drive terminals; the line and paragraph separators break lines; marks of bidirectional text
# and those of no width show a text as what it isn't; lone surrogates can't be written as UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(text: str) -> str:
    r"""The text in one line, with control characters as `\n`, `\x1b` or `\u202e`."""
    return _UNSAFE.sub(_as_python, text)


def escaped_lines(text: str) -> list[str]:
    """The lines of a text, each escaped."""
    return [escaped(line) for line in text.split("\n")]


def escaped_json(document: str) -> str:
    r"""JSON that means the same, with each such character as `\u001b`; only strings can hold one."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def shell_word(text: str) -> str:
    r"""The text as one word for a shell to read, safe on a terminal too: as `$'\x1b'` where it must be (bash, zsh)."""
    if not _UNSAFE.search(text):
        return shlex.quote(text)
    inner = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{_UNSAFE.sub(_as_shell, inner)}'"


def told(error: BaseException) -> str:
    """An exception in one line: its type, and its text if it has one that can be had."""
    try:
        text = " ".join(str(error).split())
    except Exception as broken:  # noqa: BLE001  an application's __str__ may raise anything
        text = f"(its text can't be had: {type(broken).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _as_python(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _SHORT.get(match[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def _as_shell(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"  # \x is a byte there, not a character
