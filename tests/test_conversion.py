"""`convert`, in Python and on the command line: what is in the file, and that it is whole or not there."""

from __future__ import annotations

import builtins
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

import resforward as rf
from resforward import conversion, onnx_file
from resforward.cli import main
from resforward.preprocess import FASHION_28, Preprocess

SAMPLES = Path(__file__).parent.parent / "examples" / "samples"


@pytest.fixture(scope="module")
def model() -> rf.Model:
    return rf.load("fashion")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, arguments)], prog_name="resforward")


def process(code: str) -> subprocess.CompletedProcess[bytes]:
    """A program that converts, in a process of its own, which may come to any end."""
    environment = os.environ | {"PYTHONPATH": str(Path(rf.__file__).parent.parent)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120)


def metadata(path: str) -> dict[str, str]:
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}


# What is in the file


def test_onnxruntime_labels_a_picture_as_we_do(model: rf.Model) -> None:
    rf.convert(model, "fashion.onnx", end_points=["predictions"])
    told = metadata("fashion.onnx")
    session = ort.InferenceSession("fashion.onnx", providers=["CPUExecutionProvider"])
    preprocess = Preprocess.from_dict(json.loads(told["preprocess"]))
    assert preprocess == FASHION_28
    images = preprocess.batch([SAMPLES / "coat.png", SAMPLES / "bag.png"]).transpose(0, 3, 1, 2)
    found = session.run(["predictions"], {"images": np.ascontiguousarray(images)})[0]
    labels = json.loads(told["labels"])
    assert [labels[row.argmax()] for row in found] == ["Coat", "Bag"]
    for row, (best,) in zip(found, model.predict([SAMPLES / "coat.png", SAMPLES / "bag.png"], top=1), strict=True):
        assert abs(row.max() - best.probability) <= 1e-5


def test_the_result_and_the_metadata_say_what_was_written(model: rf.Model) -> None:
    written = rf.convert(model, Path("fashion.onnx"), end_points=["fashion/block2", "logits"], size=(28, 30))
    assert written.path == "fashion.onnx"
    assert written.format == "onnx"
    assert written.bytes == os.path.getsize("fashion.onnx")
    assert written.outputs == ("logits", "block2")
    assert written.metadata == metadata("fashion.onnx")
    assert written.metadata["input"] == "images (N, 1, 28, 30) float32, grey"
    assert written.metadata["network"] == "fashion"
    assert written.metadata["source"] == "fashion.safetensors"
    assert written.metadata["pictures"] == FASHION_28.describe()


def test_what_is_not_known_is_not_in_the_metadata() -> None:
    network = rf.resnet_v2([rf.Block("block1", rf.bottleneck, [(8, 4, 1)])], input_channels=5)
    written = rf.convert(rf.build(network), "small.ONNX")
    assert written.metadata == metadata("small.ONNX")
    assert written.metadata == {
        "writer": "resforward",
        "network": "resnet_v2",
        "source": "seed 0",
        "input": "images (N, 5, H, W) float32",
    }


def test_a_name_that_is_no_unicode_is_escaped(model: rf.Model) -> None:
    source = os.fsdecode(b"f\xff.safetensors")
    save_file({f"fashion/{name}": array for name, array in model.weights.items()}, source)
    assert rf.convert(rf.load(source), "f.onnx").metadata["source"] == "f\\udcff.safetensors"


def test_the_same_model_gives_the_same_bytes(model: rf.Model) -> None:
    rf.convert(model, "a.onnx")
    rf.convert(model, "b.onnx")
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


# What is refused, before anything is written


def test_an_ending_of_no_format_is_refused(model: rf.Model) -> None:
    for path in ("fashion.pb", "fashion", ".onnx"):
        with pytest.raises(rf.TargetError, match=r"no format.*\n(?s:.*)the endings are .onnx"):
            rf.convert(model, path)
    with pytest.raises(rf.TargetError, match=r"the nearest is `\.onnx`"):
        rf.convert(model, "fashion.onx")
    assert not os.listdir()


def test_a_file_that_is_there_is_kept_unless_told(model: rf.Model) -> None:
    Path("fashion.onnx").write_text("mine")
    with pytest.raises(rf.TargetError, match=r"there already\nhelp: overwrite=True replaces it$"):
        rf.convert(model, "fashion.onnx")
    assert run("fashion", "fashion.onnx").stderr == (
        "error: fashion.onnx is there already\nhelp: --force replaces it\n"
    )
    assert Path("fashion.onnx").read_text() == "mine"
    rf.convert(model, "fashion.onnx", overwrite=True)
    assert metadata("fashion.onnx")["network"] == "fashion"
    assert os.listdir() == ["fashion.onnx"]


def test_a_folder_is_not_replaced(model: rf.Model) -> None:
    os.mkdir("fashion.onnx")
    with pytest.raises(rf.TargetError, match="is a folder"):
        rf.convert(model, "fashion.onnx", overwrite=True)


def test_a_link_stays_a_link(model: rf.Model) -> None:
    os.mkdir("there")
    os.symlink("there/fashion.onnx", "here.onnx")
    with pytest.raises(rf.TargetError, match="there already"):
        rf.convert(model, "here.onnx")
    rf.convert(model, "here.onnx", overwrite=True)
    assert os.path.islink("here.onnx")
    assert os.listdir("there") == ["fashion.onnx"]


def test_end_points_and_sizes_are_checked(model: rf.Model) -> None:
    with pytest.raises(rf.EndPointError, match="`blok1`; the nearest are `block1`"):
        rf.convert(model, "fashion.onnx", end_points=["blok1"])
    with pytest.raises(rf.NetworkError, match="nothing to compute"):
        rf.convert(model, "fashion.onnx", size=(0, 28))
    assert not os.listdir()
    assert rf.convert(model, "fashion.onnx", end_points="block1").outputs == ("logits", "block1")


def test_without_the_onnx_package_the_way_to_it_is_told(model: rf.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_onnx(name: str, *rest: Any) -> Any:
        if name == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    monkeypatch.delitem(sys.modules, "resforward.onnx_file", raising=False)
    monkeypatch.delattr(rf, "onnx_file", raising=False)
    with pytest.raises(rf.ResforwardError) as caught:
        rf.convert(model, "fashion.onnx")
    assert caught.value.found == ("No module named 'onnx'",)
    assert caught.value.help == "pip install 'resforward[onnx]'"
    assert not os.listdir()


# Whole or not there


@pytest.mark.parametrize(("step", "nameless"), [("fsync", True), ("fsync", False), ("link", True)])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_no_file(
    model: rf.Model, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], step: str, nameless: bool
) -> None:
    if not nameless:
        _without_nameless_files(monkeypatch)
    _fail(monkeypatch, step, error)
    with pytest.raises(rf.ResforwardError if error is OSError else error):
        rf.convert(model, "fashion.onnx")
    assert not os.listdir()


@pytest.mark.parametrize(
    ("step", "nameless"), [("fsync", True), ("fsync", False), ("link", True), ("replace", True), ("replace", False)]
)
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_an_older_file_as_it_was(
    model: rf.Model, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], step: str, nameless: bool
) -> None:
    if not nameless:
        _without_nameless_files(monkeypatch)
    _fail(monkeypatch, step, error)
    Path("fashion.onnx").write_text("mine")
    with pytest.raises(rf.ResforwardError if error is OSError else error):
        rf.convert(model, "fashion.onnx", overwrite=True)
    assert os.listdir() == ["fashion.onnx"]
    assert Path("fashion.onnx").read_text() == "mine"


@pytest.mark.parametrize(("nameless", "links"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("link", [True, False])
def test_a_file_that_comes_in_the_meantime_is_kept(
    model: rf.Model, monkeypatch: pytest.MonkeyPatch, nameless: bool, links: bool, link: bool
) -> None:
    original = os.fsync

    def fsync(file: int) -> None:
        original(file)
        if link:
            os.symlink("nowhere", "fashion.onnx")
        else:
            Path("fashion.onnx").write_text("mine")

    monkeypatch.setattr(conversion.os, "fsync", fsync)
    if not nameless:
        _without_nameless_files(monkeypatch)
    if not links:
        _fail(monkeypatch, "link", PermissionError)
    with pytest.raises(rf.TargetError, match="there already"):
        rf.convert(model, "fashion.onnx")
    assert os.listdir() == ["fashion.onnx"]
    assert os.path.islink("fashion.onnx") if link else Path("fashion.onnx").read_text() == "mine"


def test_a_file_system_without_links_will_do(model: rf.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_nameless_files(monkeypatch)
    _fail(monkeypatch, "link", PermissionError)
    rf.convert(model, "fashion.onnx")
    assert metadata("fashion.onnx")["network"] == "fashion"
    assert os.listdir() == ["fashion.onnx"]
    _fail(monkeypatch, "replace", OSError)
    with pytest.raises(rf.ResforwardError, match="no space left"):
        rf.convert(model, "other.onnx")
    assert os.listdir() == ["fashion.onnx"]


def _fail(monkeypatch: pytest.MonkeyPatch, step: str, error: type[BaseException]) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error(28, "No space left on device")

    monkeypatch.setattr(conversion.os, step, fail)


def _without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.open

    def refuse(path: str, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return original(path, flags, *rest, **more)

    monkeypatch.setattr(conversion.os, "open", refuse)


def test_a_file_system_without_nameless_files_will_do(model: rf.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rf.convert(model, "a.onnx")
    _without_nameless_files(monkeypatch)
    rf.convert(model, "b.onnx")
    assert sorted(os.listdir()) == ["a.onnx", "b.onnx"]
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    assert os.stat("a.onnx").st_mode == os.stat("b.onnx").st_mode


def test_the_file_has_the_rights_that_any_new_file_has(model: rf.Model) -> None:
    Path("any").touch()
    rf.convert(model, "fashion.onnx")
    assert os.stat("fashion.onnx").st_mode == os.stat("any").st_mode


def test_a_file_that_grows_too_large_leaves_nothing() -> None:
    code = (
        "import resource, resforward as rf\n"
        "model = rf.load('fashion')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: rf.convert(model, 'fashion.onnx')\n"
        "except rf.ResforwardError as error: print(error)\n"
    )
    assert process(code).stdout == b"cannot write fashion.onnx: file too large\n"
    assert not os.listdir()


def test_a_kill_leaves_nothing() -> None:
    code = (
        "import os, resforward as rf\n"
        "from resforward import conversion\n"
        "conversion.os.fsync = lambda file: os.kill(os.getpid(), 9)\n"
        "rf.convert(rf.load('fashion'), 'fashion.onnx')\n"
    )
    assert process(code).returncode == -signal.SIGKILL
    assert not os.listdir()


# On the command line


def test_the_command_writes_and_says_what() -> None:
    result = run("fashion", "fashion.onnx", "--size", "28x30", "--end-point", "block1", "--end-point", "predictions")
    assert result.exit_code == 0
    assert not result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"written   fashion.onnx: onnx, {os.path.getsize('fashion.onnx') / 1e6:.2f} MB"
    assert lines[1:] == [
        "input     images (N, 1, 28, 30) float32, grey",
        f"pictures  {FASHION_28.describe()}",
        "outputs   logits, block1, predictions",
    ]


def test_json_is_what_python_returns(model: rf.Model) -> None:
    told = json.loads(run("fashion", "fashion.onnx", "--json").stdout)
    written = rf.convert(model, "fashion.onnx", overwrite=True)
    assert told == json.loads(json.dumps(vars(written)))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fashion", "fashion.pb"], 2, "the endings are .onnx"),
        (["fashion"], 2, "OUT"),
        (["fashion", "fashion.onnx", "--end-point", "blok1"], 2, "`block1`"),
        (["fashion", "fashion.onnx", "--size", "0"], 2, "no size"),
        (["resnet_v2_50", "r.onnx"], 2, "a network without weights"),
        (["resnet_v2_5", "r.onnx"], 2, "`resnet_v2_50`"),
        (["broken.ckpt", "b.onnx"], 4, "broken.ckpt"),
        (["fashion", "there.onnx"], 2, "--force"),
        (["fashion", "folder.onnx", "--force"], 2, "is a folder"),
        (["fashion", "nowhere/fashion.onnx"], 1, "cannot write nowhere/fashion.onnx: no such file or directory"),
    ],
)
def test_errors(arguments: list[str], code: int, words: str) -> None:
    Path("broken.ckpt").write_text("broken")
    Path("there.onnx").write_text("mine")
    os.mkdir("folder.onnx")
    result = run(*arguments)
    assert result.exit_code == code
    assert not result.stdout
    assert words in result.stderr
    assert sorted(os.listdir()) == ["broken.ckpt", "folder.onnx", "there.onnx"]


def test_a_target_is_refused_before_the_checkpoint_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resforward.cli.target.load", lambda *_, **__: pytest.fail("was read"))
    assert run("fashion", "fashion.pb").exit_code == 2


def test_force_replaces() -> None:
    Path("fashion.onnx").write_text("mine")
    assert run("fashion", "fashion.onnx", "--force").exit_code == 0
    assert metadata("fashion.onnx")["network"] == "fashion"


def test_weights_beyond_the_format_s_limit_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 1000)
    result = run("fashion", "fashion.onnx")
    assert result.exit_code == 1
    assert "less than 2 GiB" in result.stderr
    assert not os.listdir()
