"""Files that a reader sees whole, old or new, and never a half; and locks on their folders."""

import fcntl
import json
import os


class DamagedFileError(ValueError):
    """A file that is not what it should be."""


def read_json(path):
    """The dictionary in a file.

    Args:
        path: A `pathlib.Path`.

    Raises:
        DamagedFileError: If the file holds something else.
        OSError: If it cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}")
    except ValueError as error:
        raise DamagedFileError(f"Expected a JSON object. Received: {path}, {error}") from error
    return value


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


class Lock:
    """A lock on a folder, which goes with the process that holds it.

    Args:
        folder: A `pathlib.Path`, made if it is not there.
        wait: Whether to wait for another process that holds it.

    Attributes:
        held: Whether this process holds it.
    """

    def __init__(self, folder, wait=True):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / ".lock").open("w")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self.held = True
        except BlockingIOError:
            self.file.close()
            self.held = False

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()
