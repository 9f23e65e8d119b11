"""`hf://owner/name`: a checkpoint of the Hugging Face Hub, as a file of its library's cache.

What lies in the cache is used where the hub cannot be reached. Only what one checkpoint needs is downloaded, and
nothing of it is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from .errors import CheckpointError, ResforwardError, nearest

FORM = "hf://owner/name[@revision][/path/in/repository]"

# A revision may itself hold a slash: the hub's own of pull requests, and any with %2F in its place.
_ADDRESS = re.compile(
    r"hf:/{1,2}(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/@]+))?(?:/(?P<path>.*))?"
)
_BEGINNING = re.compile(r"hf:/")  # of one slash, where a Path has been made of it

PREFERRED = ("model.safetensors", "pytorch_model.bin")  # timm's loader has the same order
ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".h5", ".keras", ".onnx", ".ckpt", ".index", ".tar", ".tar.gz")
_ARRAYS = ".npz"  # of other things, too: one beside a checkpoint is not meant
_CONFIG = "config.json"  # says the preprocessing, in timm's repositories
_BUNDLE = re.compile(r"(?P<prefix>.*)\.(?:index|data-\d{5}-of-\d{5})", re.DOTALL)


class Address(NamedTuple):
    """What a path names: a repository, its revision or None for the newest, and a file or a folder, "" for the root."""

    repository: str
    revision: str | None
    path: str

    def __str__(self) -> str:
        return f"`{self.repository}`" + (f" at `{self.revision}`" if self.revision else "")


def is_address(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is one of the hub; a folder called `hf:` is `./hf:`.

    >>> is_address("hf://timm/resnet50.a1_in1k"), is_address("resnet50.pth")
    (True, False)
    """
    return bool(_BEGINNING.match(os.fsdecode(path)))


def parse(path: str | os.PathLike[str]) -> Address:
    """Take an address apart.

    >>> parse("hf://timm/resnet50.a1_in1k@main/model.safetensors")
    Address(repository='timm/resnet50.a1_in1k', revision='main', path='model.safetensors')

    Raises:
        CheckpointError: it is not of the form.
    """
    found = _ADDRESS.fullmatch(os.fsdecode(path))
    if not found:
        raise CheckpointError(f"`{os.fsdecode(path)}` names no repository", help=f"the form is {FORM}")
    revision = found["revision"]
    return Address(found["repository"], revision and unquote(revision), (found["path"] or "").strip("/"))


def local_path(path: str | os.PathLike[str], *, offline: bool = False) -> str | os.PathLike[str]:
    """Return the file that a path of the hub stands for, downloaded if need be; any other path as it is.

    >>> local_path("resnet50.pth")
    'resnet50.pth'
    >>> local_path("hf://timm/resnet50.a1_in1k")  # doctest: +SKIP
    PosixPath('/home/ada/.cache/huggingface/hub/models--timm--resnet50.a1_in1k/snapshots/767268…/model.safetensors')

    Without a file in the path, it is the `model.safetensors` or the `pytorch_model.bin`, else the only checkpoint there
    is; `config.json` beside it comes along, for the preprocessing that timm writes there.

    Args:
        path: of a file, or an address: hf://owner/name[@revision][/path/in/repository].
        offline: look into the cache only, as HF_HUB_OFFLINE=1 does.

    Raises:
        CheckpointError: there is no such repository, revision or file, it is gated, or it is not in the cache and
            cannot be downloaded.
        ResforwardError: huggingface_hub is not installed.
    """
    if not is_address(path):
        return path
    address = parse(path)
    hub = _library()
    names, offline = _names(hub, address, offline)
    name = _choose(names, address)
    with _refusals(hub, address):
        file = Path(hub.hf_hub_download(address.repository, name, revision=address.revision, local_files_only=offline))
        commit = file.parents[name.count("/")].name  # of the cache's snapshots/<commit>/<name>
        for companion in _companions(names, name):  # of the same commit, though the revision may have moved on
            hub.hf_hub_download(address.repository, companion, revision=commit, local_files_only=offline)
    return file


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ResforwardError(
            "the package that reads hf:// cannot be imported", found=[str(error)], help="pip install 'resforward[hub]'"
        ) from error
    return huggingface_hub


def _names(hub: Any, address: Address, offline: bool) -> tuple[list[str], bool]:
    """The files of a repository: as the hub lists them, or what of them is in the cache; and whether it is the cache.

    Whatever goes wrong with the hub, the cache is asked before it is said, as the library itself does.
    """
    refused: CheckpointError | None = None
    if not offline:
        try:
            with _refusals(hub, address):
                info = hub.HfApi().model_info(address.repository, revision=address.revision)
        except CheckpointError as error:
            if isinstance(error.__cause__, hub.errors.RevisionNotFoundError | hub.errors.HFValidationError):
                raise
            refused = error
        else:
            return _inside(sorted(file.rfilename for file in info.siblings or ()), address), False
    try:
        with _refusals(hub, address):
            folder = Path(hub.snapshot_download(address.repository, revision=address.revision, local_files_only=True))
    except CheckpointError as error:
        raise refused or error from error
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()), True


def _inside(names: list[str], address: Address) -> list[str]:
    """The names, none of which leaves the folder that it will lie in; not every version of the library looks."""
    for name in names:
        path = PureWindowsPath(name)  # splits at both kinds of slash
        if path.anchor or ".." in path.parts:
            raise CheckpointError(f"refused {address}: it lists a file outside itself", found=[f"`{name}`"])
    return names


def _choose(names: Sequence[str], address: Address) -> str:
    """The file that an address means."""
    path = address.path
    if path in names:
        bundle = _BUNDLE.fullmatch(path)
        index = f"{bundle['prefix']}.index" if bundle else path
        return index if index in names else path
    if f"{path}.index" in names:
        return f"{path}.index"
    folder = f"{path}/" if path else ""
    inside = [name.removeprefix(folder) for name in names if name.startswith(folder)]
    if path and not inside:
        close = nearest(path, names)
        raise CheckpointError(
            f"no `{path}` in {address}",
            found=[close] if close else [f"it holds `{name}`" for name in names] or ["it is empty"],
            help=f"leave the file out to have it found: hf://{address.repository}",
        )
    for preferred in PREFERRED:
        if preferred in inside:
            return folder + preferred
    checkpoints = [name for name in inside if name.lower().endswith(ENDINGS)]
    checkpoints = checkpoints or [name for name in inside if name.lower().endswith(_ARRAYS)]
    candidates = [name for name in checkpoints if "/" not in name] or checkpoints
    if len(candidates) == 1:
        return folder + candidates[0]
    where = f"`{path}` of {address}" if path else str(address)
    if candidates:
        raise CheckpointError(
            f"{len(candidates)} checkpoints in {where}",
            found=[f"`{folder}{name}`" for name in candidates],
            help=f"name one of them: {_spelt(address, folder + candidates[0])}",
        )
    raise CheckpointError(
        f"no checkpoint in {where}",
        found=[f"it holds `{name}`" for name in inside] or ["it is empty"],
        help=f"they are told by {', '.join((*ENDINGS, _ARRAYS))}; name a file of another ending itself",
    )


def _companions(names: Sequence[str], name: str) -> list[str]:
    """What a checkpoint needs beside itself: a bundle or an ONNX file its data, any its config.json."""
    bundle = _BUNDLE.fullmatch(name)
    data = [each for each in names if bundle and each.startswith(f"{bundle['prefix']}.data-")]
    if name.endswith(".onnx"):  # model.onnx.data of torch's exporter, model.onnx_data of others
        data += [each for each in names if each in (f"{name}.data", f"{name}_data")]
    config = name.rpartition("/")[0] + f"/{_CONFIG}" if "/" in name else _CONFIG
    return [*data, *([config] if config in names else [])]


def _spelt(address: Address, path: str) -> str:
    revision = f"@{address.revision.replace('/', '%2F')}" if address.revision else ""
    return f"hf://{address.repository}{revision}/{path}"


@contextmanager
def _refusals(hub: Any, address: Address) -> Iterator[None]:
    """Say what the library says in our words.

    It raises errors of its own, of the system, and of an HTTP library that is another one in each of its generations:
    so all are taken, around nothing but its calls.
    """
    errors, site = hub.errors, hub.constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{address} is gated: its owner gives it to whom he has agreed to",
            help=f"ask for it at {site}/{address.repository}, then `hf auth login`, or set HF_TOKEN",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"no repository `{address.repository}` at {site}",
            help="compare its spelling; if it is private, `hf auth login`, or set HF_TOKEN",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"no revision `{address.revision}` in `{address.repository}`",
            help=f"a branch, a tag or a commit is meant; hf://{address.repository} is its newest",
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"`{address.repository}` can be no repository", found=[_first_line(error)], help=f"the form is {FORM}"
        ) from error
    except Exception as error:
        reason = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        unset = "unset HF_HUB_OFFLINE" if hub.constants.HF_HUB_OFFLINE else "look at the connection and try again"
        raise CheckpointError(
            f"{address} cannot be downloaded, and is not in the cache",
            found=[f"{type(reason).__name__}: {_first_line(reason)}", f"the cache is {hub.constants.HF_HUB_CACHE}"],
            help=f"{unset}, or pass a file",
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
