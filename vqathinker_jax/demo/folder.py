"""The folder of a demonstration: it is written anew, but never over files of someone else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

MANIFEST = "demo.json"
_PARTIAL = f".{MANIFEST}.partial"
_MAKER = "vqathinker demo"


class DemoError(ValueError):
    """The demonstration cannot be made; the message is one line for the user."""


class DemoFolder:
    """A folder whose manifest lists every file of ours before it is written.

    Args:
      path: absent, empty, or the folder of an earlier demonstration.

    Raises:
      DemoError: it holds other files, or is no folder. Nothing was touched.
    """

    def __init__(self, path: Path):
        self.path = path
        self._files: list[str] = []
        if os.path.lexists(path) and not path.is_dir():
            raise DemoError(f"{path}: is not a folder; name another one")
        try:
            found = sorted(_files_below(path))
        except OSError as error:
            raise DemoError(f"{path}: cannot be read ({error.strerror})") from None
        listed = [_PARTIAL, *_listed(path)] if found else []
        foreign = [name for name in found if name not in listed]
        if foreign:
            raise DemoError(
                f"{path}: holds files that are not of a demonstration ({foreign[0]!r}); "
                "name another folder"
            )
        self._earlier = found

    def begin(self, names: Iterable[str]) -> None:
        """Removes what an earlier demonstration left and claims the names to write.

        Raises:
          DemoError: the folder cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in self._earlier:
                if name != MANIFEST:
                    (self.path / name).unlink()
            emptied = {parent for name in self._earlier for parent in Path(name).parents}
            for folder in sorted(emptied - {Path()}, reverse=True):
                (self.path / folder).rmdir()
            self._files = []
            self.claim(names)
        except OSError as error:
            raise DemoError(f"{self.path}: cannot be written to ({error.strerror})") from None

    def claim(self, names: Iterable[str]) -> None:
        """Lists names, relative to the folder, as ours: before they are written.

        Raises:
          OSError: the manifest cannot be written.
        """
        self._files += names
        text = json.dumps({"made_by": _MAKER, "files": self._files}, indent=1) + "\n"
        (self.path / _PARTIAL).write_text(text, encoding="utf-8")
        os.replace(self.path / _PARTIAL, self.path / MANIFEST)


def _listed(path: Path) -> list[str]:
    """The manifest and the names in it; none where there is no manifest of ours."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(manifest, dict) or manifest.get("made_by") != _MAKER:
        return []
    files = manifest.get("files")
    return [MANIFEST, *files] if isinstance(files, list) else []


def _files_below(path: Path) -> Iterator[str]:
    """Everything that is no real folder, links to folders included, relative to the folder."""
    for parent, folders, files in os.walk(path, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*files, *links):
            yield Path(parent, name).relative_to(path).as_posix()


def _raise(error: OSError) -> None:
    # An absent folder is one that will be made.
    if not isinstance(error, FileNotFoundError):
        raise error
