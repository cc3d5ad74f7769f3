"Files written whole or not at all; files and folders that others made are left alone."
import hashlib
import json
import os
from pathlib import Path

MARK = ".written.json"  # in a folder that a script here has filled: the digests of its files, by name


def write_whole(path: Path, content: str | bytes) -> None:
    "The old file or the new one, whatever happens."
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(as_bytes(content))
        os.replace(partial, path)
    finally: partial.unlink(missing_ok=True)


def as_bytes(content: str | bytes) -> bytes: return content.encode() if isinstance(content, str) else content


def digest(content: str | bytes) -> str: return hashlib.sha256(as_bytes(content)).hexdigest()


def write_files(folder: Path, contents: dict[str, str | bytes]) -> None:
    """Texts and bytes by name into a folder. FileExistsError names a file there that is not as it was last written from
    here; nothing is written then."""
    mark = folder / MARK
    written = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else {}
    new = {name: digest(content) for name, content in contents.items()}
    for name in contents:
        if (folder / name).exists() and digest((folder / name).read_bytes()) not in (written.get(name), new[name]):
            raise FileExistsError(f"{folder / name} is not as it was written from here: "
                                  "move it away, or give another folder")
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, content)
    write_whole(mark, json.dumps(written | new, indent=1) + "\n")


def check_folder(folder: Path) -> None:
    "FileExistsError unless the folder is absent, empty, or one that a script here has marked as its own."
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).exists() or not any(folder.iterdir()))):
        raise FileExistsError(f"{folder} was not made here: remove it yourself, or give another --out")
