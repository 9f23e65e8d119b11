"""`hf://`: the library itself, against a server of this machine; each case is a process, as its settings are read once.

What is refused, what is downloaded and what is not, and what still loads when the server is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden.networks import checkpoint
from hub_server import Hub, Repository, serve
from plain_networks import CASES, random_weights
from test_dialects import HELD, stored
from test_timm_config import PUBLISHED

import resforward as rf
from resforward.hub import Address, _choose, is_address, local_path, parse
from resforward.own_file import own_bytes

WEIGHTS = own_bytes(stored(HELD["torch"][0], random_weights(CASES["torch"])), {}, "float32")
CONFIG = json.dumps({"architecture": "resnet", "pretrained_cfg": PUBLISHED["resnetv2_50.a1h_in1k"][0]}).encode()
BUNDLE = {
    f"model.ckpt{ending}": Path(f"{checkpoint('slim_v2')}{ending}").read_bytes()
    for ending in (".index", ".data-00000-of-00001")
}
EXPORT = {
    name: Path(checkpoint("slim_v2")).with_name("onnx").joinpath(name).read_bytes()
    for name in ("torchvision_bottleneck.dynamo.onnx", "torchvision_bottleneck.dynamo.onnx.data")
}
REPOSITORIES = {
    "timm/resnet50.a1_in1k": Repository(
        {
            "main": {"README.md": b"#", "config.json": CONFIG, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"?"},
            "v1": {"model.safetensors": WEIGHTS},
            "refs/pr/3": {"new.safetensors": WEIGHTS},
            "team/next": {"next.safetensors": WEIGHTS},
        }
    ),
    "ada/one": Repository({"main": {"README.md": b"#", "run.py": b"exit(1)", "best.safetensors": WEIGHTS}}),
    "ada/bin": Repository({"main": {"pytorch_model.bin": WEIGHTS, "optimizer.bin": b"?"}}),
    "ada/two": Repository({"main": {"a.pth": b"?", "b.h5": b"?", "deep/model.safetensors": WEIGHTS}}),
    "ada/deep": Repository({"main": {"README": b"#", "deep/er/a.safetensors": WEIGHTS, "deep/er/config.json": CONFIG}}),
    "ada/none": Repository({"main": {"README.md": b"#"}}),
    "ada/empty": Repository({"main": {}}),
    "ada/gated": Repository({"main": {"model.safetensors": WEIGHTS}}, gated=True),
    "ada/onnx": Repository({"main": {**EXPORT, "README.md": b"#"}}),
    "ada/slim": Repository({"main": {**BUNDLE, "graph.pbtxt": b"?"}}),
    "eve/out": Repository({"main": {"../../../out.safetensors": WEIGHTS}}),
}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve(REPOSITORIES) as hub:
        yield hub


@pytest.fixture(autouse=True)
def _nothing_asked(hub: Hub) -> Iterator[None]:
    hub.asked.clear()
    hub.broken = 0
    yield
    hub.broken = 0


def python(arguments: list[str], url: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    env = {
        **kept,
        "PYTHONPATH": str(Path(rf.__file__).parents[1]),
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "NO_PROXY": "*",
        **more,
    }
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=120)


def command(hub: Hub | str, home: Path, *arguments: Any, **more: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process."""
    url = hub if isinstance(hub, str) else hub.url
    return python(["-m", "resforward", *map(str, arguments)], url, home, **more)


def inspected(hub: Hub | str, home: Path, address: str, **more: str) -> dict[str, Any]:
    result = command(hub, home, "inspect", address, "--json", **more)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_an_address_is_taken_apart() -> None:
    assert parse("hf://a/b") == Address("a/b", None, "")
    assert parse("hf://a/b/") == Address("a/b", None, "")
    assert parse("hf://a/b@v1.0") == Address("a/b", "v1.0", "")
    assert parse("hf://a/b.c/d/e.pth") == Address("a/b.c", None, "d/e.pth")
    assert parse("hf://a/b@refs/pr/3/d/e@f.pth") == Address("a/b", "refs/pr/3", "d/e@f.pth")
    assert parse("hf://a/b@team%2Fnext/e.pth") == Address("a/b", "team/next", "e.pth")
    assert parse(Path("hf://a/b@v1/c")) == Address("a/b", "v1", "c")  # a Path keeps one slash of two


@pytest.mark.parametrize("path", ["hf://", "hf://a", "hf:///a/b", "hf://a/", "hf://a/b@", "hf://a/b@/c", "hf://@a/b"])
def test_what_names_no_repository_is_refused(path: str) -> None:
    with pytest.raises(rf.CheckpointError, match=r"names no repository\nhelp: the form is hf://owner/name"):
        rf.load(path)


def test_other_paths_are_left_as_they_are() -> None:
    for path in ("a.pth", "./hf:/a/b", "hf", "", "models/hf://a/b", Path("a.pth")):
        assert not is_address(path)
        assert local_path(path) is path


def test_the_weights_are_found_and_their_preprocessing_beside_them(hub: Hub, tmp_path: Path) -> None:
    told = inspected(hub, tmp_path, "hf://timm/resnet50.a1_in1k")
    commit = REPOSITORIES["timm/resnet50.a1_in1k"].commit("main")
    evidence = told["checkpoint"].pop("evidence")
    assert told["checkpoint"] == {
        "path": "hf://timm/resnet50.a1_in1k",
        "format": "safetensors",
        "bytes": len(WEIGHTS),
        "unused": [],
    }
    assert told["preprocess"] == PUBLISHED["resnetv2_50.a1h_in1k"][1].__dict__ | {"size": [224, 224]} | {
        name: list(value)
        for name, value in PUBLISHED["resnetv2_50.a1h_in1k"][1].__dict__.items()
        if isinstance(value, tuple)
    }
    assert any(line.startswith("file ") and f"/snapshots/{commit}/model.safetensors" in line for line in evidence)
    assert "preprocessing: config.json beside it" in evidence
    assert sorted(hub.downloaded()) == ["config.json", "model.safetensors"]
    hub.asked.clear()
    inspected(hub, tmp_path, "hf://timm/resnet50.a1_in1k")
    assert hub.downloaded() == []


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("hf://ada/one", "best.safetensors"),
        ("hf://ada/bin", "pytorch_model.bin"),
        ("hf://ada/two/deep", "deep/model.safetensors"),
        ("hf://ada/two/deep/model.safetensors", "deep/model.safetensors"),
        ("hf://timm/resnet50.a1_in1k@v1", "model.safetensors"),
        ("hf://timm/resnet50.a1_in1k@refs/pr/3/new.safetensors", "new.safetensors"),
        ("hf://timm/resnet50.a1_in1k@team%2Fnext", "next.safetensors"),
    ],
)
def test_one_file_is_downloaded(hub: Hub, tmp_path: Path, address: str, name: str) -> None:
    found = python(["-c", f"import resforward as rf; print(rf.read_checkpoint({address!r}).path)"], hub.url, tmp_path)
    assert found.stderr == ""
    assert found.stdout.endswith(f"/{name}\n")
    assert [line.removeprefix("pr/3/").removeprefix("next/") for line in hub.downloaded()] == [name]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["README.md", "BiT-M-R50x1.npz"], "BiT-M-R50x1.npz"),
        (["best.h5", "statistics.npz"], "best.h5"),
        (["model_best.pth.tar"], "model_best.pth.tar"),
    ],
)
def test_which_file_is_meant(names: list[str], chosen: str) -> None:
    assert _choose(names, parse("hf://ada/any")) == chosen


def test_a_file_in_a_folder_has_its_config_there(hub: Hub, tmp_path: Path) -> None:
    assert "preprocessing: config.json beside it" in inspected(hub, tmp_path, "hf://ada/deep")["checkpoint"]["evidence"]


@pytest.mark.parametrize("path", ["", "/model.ckpt", "/model.ckpt.index", "/model.ckpt.data-00000-of-00001"])
def test_a_bundle_comes_with_its_data(hub: Hub, tmp_path: Path, path: str) -> None:
    told = inspected(hub, tmp_path, f"hf://ada/slim{path}")
    assert told["checkpoint"]["bytes"] == sum(map(len, BUNDLE.values()))
    assert sorted(hub.downloaded()) == sorted(BUNDLE)


def test_an_onnx_file_comes_with_its_data(hub: Hub, tmp_path: Path) -> None:
    result = command(hub, tmp_path, "inspect", "hf://ada/onnx", "--external-data")
    assert result.returncode == 0, result.stderr
    assert "torch v1.5" in result.stdout
    assert sorted(hub.downloaded()) == sorted(EXPORT)


def test_a_model_keeps_the_repository_s_name(hub: Hub, tmp_path: Path) -> None:
    code = "import resforward as rf; print(rf.load('hf://timm/resnet50.a1_in1k').source)"
    assert python(["-c", code], hub.url, tmp_path).stdout == "resnet50.a1_in1k\n"


@pytest.mark.parametrize("more", [("inspect", "--check-tensors"), ("bench", "--steps", "1", "--batch", "1")])
def test_other_commands_take_an_address(hub: Hub, tmp_path: Path, more: tuple[str, ...]) -> None:
    result = command(hub, tmp_path, more[0], "hf://ada/one", *more[1:])
    assert result.returncode == 0, result.stderr


def test_predict_and_convert_take_an_address(hub: Hub, tmp_path: Path) -> None:
    picture = Path(__file__).parent.parent / "examples" / "samples" / "coat.png"
    result = command(hub, tmp_path, "predict", "-m", "hf://timm/resnet50.a1_in1k", picture)
    assert result.returncode == 0, result.stderr
    assert "from resnet50.a1_in1k" in result.stderr
    target = tmp_path / "out.safetensors"
    assert command(hub, tmp_path, "convert", "hf://timm/resnet50.a1_in1k", target).returncode == 0
    assert rf.load(target).preprocess == PUBLISHED["resnetv2_50.a1h_in1k"][1]


REFUSED = {
    "hf://no/such": ("no repository `no/such` at http", "`hf auth login`"),
    "hf://timm/resnet50.a1_in1k@v9": (
        "no revision `v9` in `timm/resnet50.a1_in1k`",
        "hf://timm/resnet50.a1_in1k is its newest",
    ),
    "hf://timm/resnet50.a1_in1k/model.safetensor": (
        "no `model.safetensor` in `timm/resnet50.a1_in1k`",
        "the nearest is `model.safetensors`",
    ),
    "hf://timm/resnet50.a1_in1k@v1/weights.h5": (
        "no `weights.h5` in `timm/resnet50.a1_in1k` at `v1`",
        "it holds `model.safetensors`",
    ),
    "hf://ada/gated": ("`ada/gated` is gated", "/ada/gated, then `hf auth login`"),
    "hf://ada/two": ("2 checkpoints in `ada/two`", "- `a.pth`\n  - `b.h5`\nhelp: name one of them: hf://ada/two/a.pth"),
    "hf://ada/none": ("no checkpoint in `ada/none`", "it holds `README.md`"),
    "hf://ada/empty": ("no checkpoint in `ada/empty`", "it is empty"),
    "hf://ada/one/README.md": ("README.md` is no checkpoint of a known format", "help: "),
    "hf://a..b/c--d": ("`a..b/c--d` can be no repository", "the form is hf://owner/name"),
    "hf://eve/out": ("refused `eve/out`: it lists a file outside itself", "`../../../out.safetensors`"),
}


@pytest.mark.parametrize("address", REFUSED)
def test_what_cannot_be_had_is_said(hub: Hub, tmp_path: Path, address: str) -> None:
    result = command(hub, tmp_path / "home", "inspect", address)
    assert result.returncode == 4
    assert result.stderr.startswith("error: ")
    for words in REFUSED[address]:
        assert words in result.stderr
    assert not list(tmp_path.rglob("out.safetensors"))


@pytest.mark.parametrize("offline", [{"HF_HUB_OFFLINE": "1"}, {}])
def test_the_cache_is_enough(tmp_path: Path, offline: dict[str, str]) -> None:
    addresses = ["hf://timm/resnet50.a1_in1k", "hf://ada/one/best.safetensors", "hf://ada/slim"]
    with serve(REPOSITORIES) as hub:
        before = [inspected(hub, tmp_path, address) for address in addresses]
    assert [inspected(hub.url, tmp_path, address, **offline) for address in addresses] == before
    result = command(hub.url, tmp_path, "inspect", "hf://ada/bin", **offline)
    assert result.returncode == 4
    assert result.stderr.startswith("error: `ada/bin` cannot be downloaded, and is not in the cache\n")
    assert str(tmp_path) in result.stderr
    assert ("help: unset HF_HUB_OFFLINE" if offline else "help: look at the connection") in result.stderr
    result = command(hub.url, tmp_path, "inspect", "hf://timm/resnet50.a1_in1k/pytorch_model.bin", **offline)
    assert result.returncode == 4


def test_a_hub_that_is_down_leaves_the_cache(hub: Hub, tmp_path: Path) -> None:
    before = inspected(hub, tmp_path, "hf://ada/one")
    hub.broken = 503
    assert inspected(hub, tmp_path, "hf://ada/one") == before
    result = command(hub, tmp_path, "inspect", "hf://ada/bin")
    assert result.returncode == 4
    assert "503" in result.stderr


def test_a_newer_revision_is_taken_and_the_older_can_be_named(tmp_path: Path) -> None:
    one = Repository({"main": {"model.safetensors": WEIGHTS}})
    with serve({"a/b": one}) as hub:
        inspected(hub, tmp_path, "hf://a/b")
        old = one.commit("main")
        one.revisions["main"] = {"model.safetensors": b"?"}
        assert command(hub, tmp_path, "inspect", "hf://a/b").returncode == 4
    assert inspected(hub.url, tmp_path, f"hf://a/b@{old}")["checkpoint"]["bytes"] == len(WEIGHTS)


def test_without_the_package_it_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('it is not here')")
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(rf.__file__).parents[1]}"}
    result = command("http://127.0.0.1:9", tmp_path, "inspect", "hf://a/b", **env)
    assert result.returncode == 1
    assert result.stderr == (
        "error: the package that reads hf:// cannot be imported\n  - it is not here\n"
        "help: pip install 'resforward[hub]'\n"
    )


def test_the_package_is_imported_only_for_an_address() -> None:
    code = "import resforward as rf, sys; rf.load('fashion'); assert 'huggingface_hub' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(Path(rf.__file__).parents[1])}, check=True
    )
