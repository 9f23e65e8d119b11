"""Every hostile file is refused with its reason, at once and for little; nothing is run, written, or read elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from fuzzing.case import SECONDS, limit
from fuzzing.watch import watched
from hostile import TABLE, Hostile

from resforward import CheckpointError, load
from resforward.checkpoints import read_checkpoint
from resforward.own_file import own_bytes

SECRET = own_bytes({"secret": np.ones(3, np.float32)}, {}, "float32")  # what a path out would lead to


def folders(row: Hostile, tmp_path: Path) -> Path:
    """The folder of a row's files, beside one that is none of its business."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    for name, body in row.make().items():
        (inside / name).write_bytes(body)
    for name, target in row.links.items():
        (inside / name).symlink_to(target)
    return inside


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """All that is there, and when it was changed."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("name", TABLE)
def test_hostile(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = TABLE[name]
    folder = folders(row, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    started = time.process_time()
    with limit(sum(path.lstat().st_size for path in folder.iterdir())), watched(folder):
        if row.reason is None:
            assert read_checkpoint(folder / row.entry, **row.options)
        else:
            with pytest.raises(CheckpointError) as caught:
                load(folder / row.entry, **row.options)
    assert time.process_time() - started < SECONDS
    assert listing(tmp_path) == before
    if row.reason is not None:
        assert row.reason in str(caught.value)
