"""Files that a reader sees whole, old or new, and never a half."""

import json
import os


def write_bytes(path, content):
    """Writes a file all at once.

    Args:
        path: A `pathlib.Path`.
        content: The contents.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_text(path, text):
    """As `write_bytes`, for text."""
    write_bytes(path, text.encode())


def write_json(path, value):
    """As `write_bytes`, for numbers, texts, lists and dictionaries."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def create_json(path, value):
    """As `write_json`, for a file that is not there yet.

    Raises:
        FileExistsError: If it is, or another process has just created it.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(draft, value)
    try:
        os.link(draft, path)
    finally:
        draft.unlink()
