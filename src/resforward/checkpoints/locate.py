"""Which file of a folder is meant: by a prefix, by one file of several, by a `checkpoint` file, or as the only one."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath

from resforward.checkpoints import (
    foreign,
    keras_h5,
    keras_zip,
    npz,
    tf_bundle,
    tf_table,
    torch_stream,
    torch_tar,
    torch_zip,
)
from resforward.checkpoints.files import Folder
from resforward.errors import CheckpointError

STATE_FILE = "checkpoint"  # what tf.train.Saver keeps beside its files: the name of the latest
_MAX_STATE = 1 << 20
_SHARD = re.compile(r"-(?:\d{5}|\?{5})-of-(?:\d{5}|\?{5})\Z")
_TOLD_BY_HEAD = (keras_h5, keras_zip, torch_zip, torch_stream, torch_tar)
_SAVED_MODEL = "variables/variables.index"
_PATH_FIELD = re.compile(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)")
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}


def resolve(folder: Folder, name: str) -> str:
    """Return the file that a name stands for; the name itself when it stands for nothing that is there.

    >>> resolve(DiskFolder(Path("models")), "model.ckpt.data-00000-of-00001")  # doctest: +SKIP
    'model.ckpt.index'

    Raises:
        CheckpointError: a data file without its index, or a prefix that two sets of shards share.
    """
    data_file = tf_bundle.DATA_FILE.fullmatch(name)
    if data_file:
        index = f"{data_file['prefix']}.index"
        if not folder.has(index):
            raise CheckpointError(
                f"`{name}` is the data file of a TensorFlow checkpoint, and its index is missing",
                found=[f"there is no `{index}` in `{folder.name}`; a data file alone does not say what its bytes are"],
                help=f"copy or download `{index}` too, then pass either file or `{data_file['prefix']}`",
            )
        return index
    if folder.has(name):
        return name
    if folder.has(f"{name}.index"):
        return f"{name}.index"
    stem = _SHARD.sub("", name)
    shards = [each for each in folder.names() if _SHARD.search(each) and _SHARD.sub("", each) == stem]
    if len({each[-5:] for each in shards}) > 1:
        raise CheckpointError(
            f"`{stem}` has more than one set of files in `{folder.name}`", found=shards, help="pass one of them"
        )
    return shards[0] if shards else name


def latest(folder: Folder, state_file: str) -> str | None:
    """Return the file that a `checkpoint` file names, or None when it is not such a file.

    Only a file of the same folder is ever named: of an absolute path, which is the writer's, the last part is taken.

    Raises:
        CheckpointError: the path leaves the folder.
    """
    file = folder.open(state_file)
    field = _PATH_FIELD.search(bytes(file.data[:_MAX_STATE]))
    if not field:
        return None
    path = _ESCAPE.sub(_unescape, field[1]).decode("utf-8", "surrogateescape")
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute():
        path = PureWindowsPath(path).name  # splits at both kinds of slash
    if not path or "\0" in path or ".." in PureWindowsPath(path).parts:
        raise CheckpointError(
            f"`{file.name}` names a file outside its folder", found=[f"`{path}`"], help="pass the checkpoint itself"
        )
    return resolve(folder, str(PurePosixPath(state_file).parent / path))


def only(folder: Folder) -> str:
    """Return the one checkpoint of a folder: what its `checkpoint` file names, or the only one there is.

    >>> only(DiskFolder(Path("models")))  # doctest: +SKIP
    'model.ckpt-20000.index'

    Raises:
        CheckpointError: there is none, or more than one.
    """
    names = [name for name in folder.names() if folder.has(name)]
    states = sorted(
        (name for name in names if PurePosixPath(name).name == STATE_FILE), key=lambda name: name.count("/")
    )
    for state in states:
        named = latest(folder, state) if any(folder.ends(state)) else None
        if named:
            return named
    found: dict[str, str] = {}
    known = set(names)
    for name in names:
        if _is_checkpoint(folder, name, known):
            found.setdefault(_SHARD.sub("", name), name)
    # Arrays of other things lie in such archives, too: one beside a checkpoint is not meant.
    found = found or {name: name for name in names if npz.begins(folder.ends(name)[0])}
    if not found and folder.has(_SAVED_MODEL):
        return _SAVED_MODEL
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise CheckpointError(
            f"{len(found)} checkpoints in `{folder.name}`",
            found=[f"`{name}`" for name in found.values()],
            help="pass one of them",
        )
    kinds = ((name, foreign.describe(folder.ends(name)[0])) for name in names)
    raise CheckpointError(
        f"no checkpoint in `{folder.name}`",
        found=[f"`{name}` is {kind.what if kind else 'of no known kind'}" for name, kind in kinds] or ["it is empty"],
        help="pass a TensorFlow, PyTorch, Keras, .safetensors or .npz file",
    )


def _is_checkpoint(folder: Folder, name: str, names: set[str]) -> bool:
    head, tail = folder.ends(name)
    if tail == tf_table.MAGIC or head[8:9] == b"{" or any(each.begins(head) for each in _TOLD_BY_HEAD):
        return True
    # An index that was cut short is named rather than passed over.
    return name.endswith(".index") and any(other.startswith(f"{name.removesuffix('.index')}.data-") for other in names)


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    if code[:1].isdigit() and code[:1] < b"8":
        return bytes([int(code, 8) & 0xFF])
    return _LETTERS.get(code, code)
