"""The command line: what is printed where, and what it exits with."""

import errno
import importlib
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import termios
import tomllib

import click
import numpy as np
import pytest
from click.testing import CliRunner
from golden.networks import checkpoint
from PIL import Image
from safetensors.numpy import save_file

import resforward as rf
from resforward.cli import COMMANDS, main
from resforward.cli.console import count, printable
from resforward.preprocess import Preprocess

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = pathlib.Path(rf.__file__).parent.parent
ESCAPE = "\x1b["


def run(*arguments, **options):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="resforward", **options)


def environment(**changes):
    """The environment with changes; a variable that is None is unset."""
    changed = {**os.environ, "PYTHONPATH": str(SOURCES), **changes}
    return {name: value for name, value in changed.items() if value is not None}


def process(*arguments, env=None, **options):
    """Run the command line as a process of its own."""
    options = {"capture_output": True, "timeout": 120, "env": environment(**(env or {})), **options}
    return subprocess.run([sys.executable, "-m", "resforward", *arguments], **options)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with a model that answers something, and pictures of every kind of health."""
    folder = tmp_path_factory.mktemp("cli")
    weights = rf.build(rf.NETWORKS["fashion"], seed=3).weights
    save_file({f"fashion/{name}": np.ascontiguousarray(array) for name, array in weights.items()}, folder / "m.st")
    rng = np.random.default_rng(0)
    pictures = folder / "pictures"
    pictures.mkdir()
    for name in ("a.png", "b.png", "c.JPG"):
        Image.fromarray(rng.integers(0, 256, (40, 28, 3), np.uint8)).save(pictures / name)
    (pictures / "readme.txt").write_text("not a picture")
    data = (pictures / "c.JPG").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("hello")
    (folder / "labels.txt").write_text("zéro\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    return folder


@pytest.fixture
def model(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RESFORWARD_DEBUG", raising=False)
    return "m.st"


# The group


def test_help_lists_every_command_without_importing_it():
    result = run("--help")
    assert result.exit_code == 0
    for name, what in COMMANDS.items():
        assert f"  {name.ljust(max(map(len, COMMANDS)))}  {what}" in result.stdout
    assert run("-h").stdout == result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_one_module_and_begins_with_what_the_list_says(name):
    command = importlib.import_module(f"resforward.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.help.partition("\n")[0] == COMMANDS[name]
    assert run(name, "-h").exit_code == 0


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from resforward.cli import main\ntry: main(['-h'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=True)
    imported = {name.partition(".")[0] for name in result.stderr.decode().split()}
    assert not imported & {"numpy", "PIL", "h5py", "onnx", "tqdm", "safetensors"}


def test_help_is_fast():
    def cpu_seconds(*arguments):
        best = float("inf")
        for _ in range(5):
            child = subprocess.Popen(
                [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
            )
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            assert child.returncode == 0
            best = min(best, usage.ru_utime + usage.ru_stime)
        return best

    # processor time, which does not grow when others are at work; 0.15 s in all is what is promised on an idle machine
    assert cpu_seconds("-m", "resforward", "--help") - cpu_seconds("-c", "") < 0.15


def test_version_is_the_project_s():
    project = ROOT / "pyproject.toml"
    assert rf.__version__ == tomllib.loads(project.read_text())["project"]["version"]
    assert run("--version").stdout == f"resforward {rf.__version__}\n"


def test_names_of_the_package_come_when_they_are_asked_for():
    assert set(rf._HOMES) == set(rf.__all__)
    assert set(rf.__all__) <= set(dir(rf))
    for name in rf.__all__:
        assert getattr(rf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        rf.lode  # noqa: B018
    code = "import resforward, sys; assert 'numpy' not in sys.modules; from resforward import load"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


def test_an_unknown_command_gets_the_nearest():
    result = run("predct")
    assert result.exit_code == 2
    assert "there is no command 'predct'; the nearest are `predict`" in result.stderr


def test_completion_completes():
    env = {"_RESFORWARD_COMPLETE": "bash_complete", "COMP_WORDS": "resforward in", "COMP_CWORD": "1"}
    assert process(env=env).stdout == b"plain,inspect\n"


# predict


def test_predict_shows_a_picture_s_classes(model):
    result = run("predict", "-m", model, "pictures/a.png", "--top", 3, "--threads", 1)
    assert result.exit_code == 0
    name, *rows = result.stdout.splitlines()
    assert name == "pictures/a.png"
    answers = rf.load(model).predict("pictures/a.png", top=3)
    assert rows == [f"  {100 * a.probability:6.2f}%  {a.class_index}  {a.label}" for a in answers]
    assert result.stderr == (
        f"fashion from m.st: 10 classes, {rf.load(model).isa}, 1 thread; pictures: grey, whole"
        " picture, pil_bicubic to 28x28 (aspect not kept), (x / 255 - 0.286) / 0.353\n"
    )


def test_predict_top_1_is_a_line_a_picture(model):
    result = run("predict", "-q", "-m", model, "pictures/a.png", "pictures/c.JPG", "--top", 1)
    assert result.stderr == ""
    first, second = result.stdout.splitlines()
    assert re.fullmatch(r"pictures/a\.png  +\d+\.\d\d%  \d  \S.*", first)
    assert first.index("%") == second.index("%")


def test_predict_json_is_a_line_a_picture(model):
    result = run("predict", "-q", "-m", model, "--json", "--top", 2, "pictures/a.png", "cut.jpg", "pictures/b.png")
    assert result.exit_code == 3
    first, wrong, last = map(json.loads, result.stdout.splitlines())
    expected = rf.load(model).predict("pictures/a.png", top=2)
    assert first["path"] == "pictures/a.png"
    assert [tuple(row.values()) for row in first["predictions"]] == [
        (a.class_index, a.label, a.probability) for a in expected
    ]
    assert list(first["predictions"][0]) == ["index", "label", "probability"]
    assert wrong.keys() == {"path", "error"}
    assert "cut short" in wrong["error"]
    assert last["path"] == "pictures/b.png"
    assert result.stderr == "1 of 3 images failed\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.png", "error: `empty.png` is empty\n"),
        ("text.png", "error: `text.png` is not a picture: it starts with the bytes 68 65 6c 6c 6f\n"),
        ("cut.jpg", "error: `cut.jpg` is damaged or cut short: "),
        ("pictures/d.png", "error: no file `pictures/d.png`\nhelp: the nearest are "),
        ("pictures/readme.txt", "error: pictures/readme.txt: `readme.txt` is not a picture: "),
    ],
)
def test_a_bad_picture_is_said_and_the_others_are_answered(model, name, message):
    result = run("predict", "-q", "-m", model, name, "pictures/a.png", "--top", 1)
    assert result.exit_code == 3
    assert result.stdout.startswith("pictures/a.png")
    assert result.stderr.startswith(message)
    assert result.stderr.endswith("\n1 of 2 images failed\n")
    assert "Traceback" not in result.stderr


def test_a_folder_stands_for_its_pictures(model):
    result = run("predict", "-q", "-m", model, "pictures", "--top", 1)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        f"pictures/{n}" for n in ("a.png", "b.png", "c.JPG")
    ]


def test_a_folder_without_pictures_is_an_error(model, tmp_path):
    result = run("predict", "-q", "-m", model, tmp_path, "pictures/a.png")
    assert result.exit_code == 3
    assert "holds no pictures" in result.stderr
    assert "help: " in result.stderr


def test_more_pictures_than_a_batch_come_in_their_order(model):
    names = ["pictures/a.png", "pictures/b.png", "text.png"] * 23
    result = run("predict", "-q", "-m", model, "--json", "--top", 1, *names)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["path"] for row in rows] == names
    assert [set(row) for row in rows] == [{"path", "predictions"}, {"path", "predictions"}, {"path", "error"}] * 23
    assert rows[0]["predictions"] == rows[66]["predictions"]


def test_a_picture_from_stdin(model):
    data = pathlib.Path("pictures/a.png").read_bytes()
    result = process("predict", "-q", "-m", model, "-", "--json", input=data)
    (named,) = run("predict", "-q", "-m", model, "pictures/a.png", "--json").stdout.splitlines()
    assert json.loads(result.stdout) == {**json.loads(named), "path": "-"}


def test_stdin_holds_one_picture(model):
    assert run("predict", "-m", model, "-", "-").exit_code == 2
    result = process("predict", "-q", "-m", model, "-", input=b"")
    assert result.returncode == 3
    assert b"is empty" in result.stderr
    command = f"{sys.executable} -m resforward predict -q -m m.st - <&-"
    result = subprocess.run(["sh", "-c", command], capture_output=True, env=environment())
    assert result.returncode == 3
    assert result.stderr == b"error: -: stdin is closed, and a picture was to come from there\n"


def test_stdin_without_end(model, monkeypatch):
    from resforward.cli import predict

    monkeypatch.setattr(predict, "_MAX_STDIN", 1000)
    result = run("predict", "-q", "-m", model, "-", input=b"0" * 1001)
    assert result.exit_code == 3
    assert "error: -: stdin holds more than" in result.stderr


def test_odd_paths_survive(model):
    name = b"od\xff\n\x1b[31md.png"
    path = os.path.join(os.fsencode(os.getcwd()), name)
    os.link(b"pictures/a.png", path)
    try:
        shown = process("predict", "-q", "-m", model, name, name, "--top", "1")
        told = process("predict", "-q", "-m", model, name, "--json")
    finally:
        os.unlink(path)
    lines = shown.stdout.decode().splitlines()
    assert len(lines) == 2
    assert all(line.startswith(r"od\udcff\n\x1b[31md.png") for line in lines)
    assert os.fsencode(json.loads(told.stdout)["path"]) == name


def test_labels_of_one_s_own(model):
    result = run("predict", "-q", "-m", model, "pictures/a.png", "--labels", "labels.txt", "--top", 10)
    assert "zéro" in result.stdout
    pathlib.Path("short.txt").write_text("one\n")
    result = run("predict", "-q", "-m", model, "pictures/a.png", "--labels", "short.txt")
    assert result.exit_code == 2
    assert result.stderr == "error: 10 classes in the network, 1 names in `short.txt`\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1251"])
def test_any_encoding_of_stdout(model, encoding):
    result = process(
        *("predict", "-q", "-m", model, "pictures/a.png", "--labels", "labels.txt", "--top", "10"),
        env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C"},
    )
    assert result.returncode == 0
    assert b"ro\n" in result.stdout


def test_a_network_that_cannot_label(model):
    result = run("predict", "-m", checkpoint("slim_v1_no_classifier"), "pictures/a.png")
    assert result.exit_code == 2
    assert result.stderr.endswith("has no classifier with global pool, so it cannot label pictures\n")
    result = run("predict", "-q", "-m", checkpoint("slim_v1_one_unit"), "pictures/a.png")
    assert result.exit_code == 2
    assert "has no known preprocessing" in result.stderr


# Errors and exit codes


def test_a_refused_checkpoint(model):
    result = run("predict", "-m", "text.png", "pictures/a.png")
    assert result.exit_code == 4
    assert result.stdout == ""
    assert result.stderr.startswith("error: `text.png` is no checkpoint of a known format\n  - 5 bytes; ")
    assert "\nhelp: " in result.stderr


@pytest.mark.parametrize("command", ["bench", "inspect"])
def test_an_unknown_network_gets_the_nearest(model, command):
    result = run(command, "resnet_v2_51")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no network and no checkpoint is called resnet_v2_51\n  - the nearest ")
    assert "`resnet_v2_50`" in result.stderr
    result = run(command, "no/such/resnet_v2_50.ckpt")
    assert result.exit_code == 4


WANT_A_CHECKPOINT = {
    "predict": ("predict", "pictures/a.png", "-m"),
    "convert": ("convert", "--force", "out.onnx"),
    "inspect --check-tensors": ("inspect", "--check-tensors"),
}
TAKE_EITHER = {"inspect": ("inspect",), "bench": ("bench", "--steps", "1", "--batch", "1")}


def pointed_at(arguments, name):
    """A command with the name of a checkpoint where it takes one."""
    return run(arguments[0], name, *arguments[2:], arguments[1]) if "convert" in arguments else run(*arguments, name)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("resnet_v2_51", 2, "no network and no checkpoint is called resnet_v2_51\n  - the nearest "),
        ("nothing", 2, "no network and no checkpoint is called nothing\nhelp: a checkpoint is a file, "),
        ("keras_resnet50", 2, "help: `resforward pull keras_resnet50` downloads one\n"),
        ("nothing.ckpt", 4, "no checkpoint `nothing.ckpt`\n"),
        ("./nothing", 4, "no checkpoint `nothing`\n"),
        ("no/such/m.ckpt", 4, "there is no folder `no/such`\nhelp: "),
        ("hf://nothing", 4, "`hf://nothing` names no repository\nhelp: "),
        ("", 4, "the path is empty\nhelp: "),
    ],
)
def test_a_name_of_nothing_is_the_same_error_in_every_command(model, name, code, words):
    for arguments in (*WANT_A_CHECKPOINT.values(), *TAKE_EITHER.values()):
        result = pointed_at(arguments, name)
        assert (arguments, result.exit_code) == (arguments, code)
        assert result.stdout == ""
        assert words in result.stderr


@pytest.mark.parametrize("command", WANT_A_CHECKPOINT)
def test_a_network_is_no_checkpoint(model, command):
    result = pointed_at(WANT_A_CHECKPOINT[command], "resnet_v2_50")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: resnet_v2_50 is a network without weights; {command.removeprefix('inspect ')} wants a checkpoint\n"
        "help: `resforward pull resnet_v2_50` downloads one\n"
    )
    assert "help: pass a file or a folder\n" in pointed_at(WANT_A_CHECKPOINT[command], "resnet_v2_200").stderr


def test_an_absent_checkpoint_gets_help_and_no_hidden_files(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".hidden", ".absent.ckpt", "a.txt"):
        pathlib.Path(name).touch()
    result = run("predict", "-m", "absent.ckpt", "a.png")
    assert result.exit_code == 4
    assert result.stderr == (
        "error: no checkpoint `absent.ckpt`\n  - the folder `.` holds `a.txt`\n"
        "help: pass a checkpoint file or its folder\n"
    )


def test_debug_shows_where(model):
    for result in (
        run("inspect", "text.png", "--debug"),
        run("inspect", "text.png", env={"RESFORWARD_DEBUG": "1"}),
    ):
        assert result.exit_code == 4
        assert result.stderr.startswith("Traceback (most recent call last):\n")
        assert "\nerror: `text.png` is no checkpoint" in result.stderr
    assert "Traceback" not in run("inspect", "text.png").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict",),
        ("predict", "--top", "0", "a.png"),
        ("bench", "--size", "7xq"),
        ("bench", "--size", "0"),
        ("bench", "--size", "1x2x3"),
        ("bench", "--steps", "0"),
        ("bench", "--threads", "0"),
        ("inspect",),
        ("inspect", "resnet_v2_50", "--output-stride", "7"),
        ("inspect", "resnet_v2_50", "--check-tensors"),
        ("--nonsense",),
    ],
)
def test_usage_errors(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "error: " in result.stderr.lower()


def test_an_instruction_set_that_is_not_there():
    for command in ("doctor", "bench"):
        result = run(command, env={"RESFORWARD_ISA": "avx3"})
        assert result.exit_code == 1
        assert "error: RESFORWARD_ISA asks for avx3, which this build does not know\n" in result.stderr
        assert "help: unset RESFORWARD_ISA" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("predict", "-q", "-m", "m.st", "pictures/a.png"), ("--help",), ("inspect", "fashion")]
)
def test_a_full_disk(model, arguments):
    with open("/dev/full", "wb") as full:
        result = process(*arguments, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert result.returncode == 1
    assert result.stderr.decode() == f"error: cannot write: {os.strerror(errno.ENOSPC).lower()}\n"


def test_a_closed_stdout(model):
    result = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m resforward inspect fashion >&-"], capture_output=True, env=environment()
    )
    assert result.returncode == 1
    assert result.stderr == b"error: stdout is closed, and answers go there\n"


def test_nobody_reads_on(model):
    read, write = os.pipe()
    os.close(read)
    result = process("inspect", "resnet_v2_50", stdout=write, stderr=subprocess.PIPE, capture_output=False)
    os.close(write)
    assert result.returncode == 1
    assert result.stderr == b""


def test_ctrl_c_is_one_line():
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs ignore it, and so would a child
    command = [sys.executable, "-m", "resforward", "bench", "fashion", "--batch", "1", "--steps", "100000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as child:
        assert b"step 0, duration" in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        _, talk = child.communicate(timeout=60)
    assert child.returncode == 130
    assert talk == b"interrupted\n"


def test_without_home_and_where_nothing_can_be_written(folder):
    result = process(
        *("predict", "-q", "-m", folder / "m.st", folder / "pictures"),
        cwd="/proc",
        env={"HOME": None, "TMPDIR": "/proc"},
    )
    assert result.returncode == 0
    assert result.stderr == b""


# Colours


def test_colours_are_for_terminals_that_want_them():
    assert ESCAPE in run("inspect", "fashion", color=True).stdout
    assert ESCAPE not in run("inspect", "fashion").stdout
    for wish in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert ESCAPE not in run("inspect", "fashion", color=True, env=wish).stdout
    assert ESCAPE in run("inspect", "nothing", color=True, env={"NO_COLOR": "", "TERM": "xterm"}).stderr
    assert ESCAPE not in run("inspect", "nothing", color=True, env={"NO_COLOR": "1"}).stderr


def test_a_bar_is_for_terminals():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    arguments = ("bench", "fashion", "--batch", "1", "--steps", "3", "--warmup", "0")
    result = process(*arguments, stdout=subprocess.PIPE, stderr=theirs, capture_output=False)
    os.close(theirs)
    shown = os.read(ours, 100_000)
    os.close(ours)
    assert result.returncode == 0
    assert b"/3 [" in shown
    assert b"\r" not in result.stdout
    assert b"/3 [" not in process(*arguments).stderr


# bench


def test_bench_reports_as_the_tutorial_does():
    result = run("bench", "fashion", "--batch", 2, "--steps", 12, "--warmup", 1, "--threads", 1)
    assert result.exit_code == 0
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"
    step = rf"{stamp}: step %d, duration = \d+\.\d{{3}}\n"
    assert re.fullmatch(
        (step % 0) + (step % 10) + rf"{stamp}: Forward across 12 steps, \d+\.\d{{3}} \+/- \d+\.\d{{3}} sec / batch\n\n"
        r"network  fashion, fashion\.safetensors; batch 2 of 28x28\n"
        r"speed    \d+\.\d images/s\n"
        r"         \d+ GFLOP/s, of 89\.6 MFLOP an image: 2 x its multiply-adds\n"
        r"peak     \d+% of the \d+ GFLOP/s that multiply-adds alone reach here\n"
        r"         \(median of 4 measurements of 20 ms, between steps\)\n"
        rf"runs on  {rf.build(rf.NETWORKS['fashion']).isa}, 1 thread: asked for\n"
        rf"version  resforward {re.escape(rf.__version__)}, .*\n",
        result.stdout,
    )


def test_bench_json():
    result = run("bench", checkpoint("slim_v2"), "--batch", 1, "--size", "33x47", "--steps", 3, "--warmup", 0, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert (told["network"], told["batch"], told["height"], told["width"]) == ("slim_v2", 1, 33, 47)
    assert len(told["durations"]) == told["steps"] == 3
    keys = re.search(r"Keys of --json: (.*)\.", " ".join(run("bench", "-h").stdout.split()))
    assert keys[1].partition(". ")[0].split(", ") == list(told)


def test_bench_per_unit():
    arguments = ("bench", "fashion", "--batch", 1, "--steps", 2, "--warmup", 0, "--threads", 1, "--per-unit")
    result = run(*arguments)
    assert result.exit_code == 0
    _, figures, table, notes = result.stdout.split("\n\n")
    assert figures.startswith("network  fashion")
    head, *rows = table.splitlines()
    assert head.split() == ["ms", "share", "GFLOP/s", "of", "peak", "lost", "ms", "MB"]
    units = {
        f"block{block}": [f"unit_{unit}" for unit in range(1, last + 1)] for block, last in ((1, 2), (2, 3), (3, 4))
    }
    names = ["root", *(name for block, names in units.items() for name in (block, *names)), "head", "total"]
    assert [row.split()[0] for row in rows] == names
    assert table.count("slowest") == table.count("most lost") == 1
    assert notes.startswith("ms       medians of 2 steps; ")

    told = json.loads(run(*arguments, "--json").stdout)
    assert [unit["block"] for unit in told["units"]] == [None, *(b for b in units for _ in units[b]), None]
    assert sum(unit["macs"] for unit in told["units"]) == told["macs_per_image"]
    assert sum(unit["share"] for unit in told["units"]) == pytest.approx(1)
    keys = re.search(r"also units: (.*?)\. ", " ".join(run("bench", "-h").stdout.split()))
    assert re.sub(r" \(.*?\)", "", keys[1]).split(", ") == list(told["units"][0])


# inspect


def test_inspect_a_network():
    result = run("inspect", "resnet_v2_152")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout == (pathlib.Path(__file__).parent / "golden" / "inspect_resnet_v2_152.txt").read_text()
    *_, table = result.stdout.partition("\n\n")
    assert all(len(line) <= 80 for line in table.splitlines())


def test_inspect_dilation():
    result = run("inspect", "resnet_v2_50", "--output-stride", 8, "--size", "512x1024")
    assert result.stdout.startswith("resnet_v2_50  slim v2, 1001 classes, output stride 8\n")
    assert re.search(r"^ +unit +rate +shortcut ", result.stdout, re.MULTILINE)
    assert re.search(r"^  unit_2 \.\.\. 3 +\(2048, 512, 1\) +4 +identity +64x128x2048 ", result.stdout, re.MULTILINE)


def test_inspect_unfolds():
    folded, unfolded = (run("inspect", "resnet_v1_50", *more).stdout for more in ((), ("--all",)))
    assert "unit_2 ... 5" in folded
    assert "..." not in unfolded
    assert unfolded.count("  unit_") == 16
    # slim's v1 has no pre-activation and no final norm
    assert "postnorm" not in folded


def test_inspect_a_checkpoint():
    path = checkpoint("slim_v2_batch")
    result = run("inspect", path)
    assert result.exit_code == 0
    assert re.fullmatch(
        r"slim_v2_batch  slim v2, 7 classes\n"
        r"costs      15,122 parameters; .* multiply-adds for an image of 299x299\n"
        rf"file       {re.escape(str(path))}: TensorFlow V1 table, 0\.1 MB\n"
        r"concluded  family slim v2: its units are called bottleneck_v2\n"
        r"           bottleneck units 3, 3, 3, 2: counted in the variables' names\n"
        r"           strides: .*\n"
        r"           7 classes: the length of slim_v2_batch/logits/biases\n"
        r"pictures   rgb, central 87\.5%, .*\n",
        result.stdout.partition("\n\n")[0] + "\n",
    )


def test_inspect_json():
    told = json.loads(run("inspect", "resnet_v2_50", "--size", 224, "--json").stdout)
    network = rf.NETWORKS["resnet_v2_50"]
    points = network.end_points(224, 224)
    keys = re.search(r"Keys of --json: (.*?)\. With", " ".join(run("inspect", "-h").stdout.split()))
    assert re.sub(r" \([^)]*\)", "", keys[1]).split(", ") == list(told)
    assert told["macs"] == network.macs(224, 224)
    assert [block["name"] for block in told["blocks"]] == list(network.blocks)
    assert [unit["stride"] for block in told["blocks"] for unit in block["units"]] == [u.stride for u in network.units]
    assert {point["name"]: tuple(point["shape"]) for point in told["end_points"]} == {
        name: point.shape for name, point in points.items()
    }
    assert told["end_points"][0]["aliases"] == ["resnet_v2_50/conv1"]
    assert told["checkpoint"] is None
    told = json.loads(run("inspect", checkpoint("slim_v1"), "--json").stdout)
    assert told["checkpoint"]["format"] == "TensorFlow V1 table"
    assert told["checkpoint"]["bytes"] == checkpoint("slim_v1").stat().st_size
    assert told["preprocess"]["size"] == [224, 224]


def test_inspect_counts_the_bytes_of_an_index_and_its_data():
    path = checkpoint("slim_v2")
    told = json.loads(run("inspect", path, "--json").stdout)
    assert told["checkpoint"]["bytes"] == sum(p.stat().st_size for p in path.parent.glob("slim_v2.ckpt.*"))


def test_inspect_end_points():
    result = run("inspect", "resnet_v2_50", "--end-points", "--size", 224)
    assert re.search(r"^block1/unit_1/bottleneck_v2/preact +56x56x64 ", result.stdout, re.MULTILINE)
    count_ = len(rf.NETWORKS["resnet_v2_50"].end_points(224, 224))
    assert result.stdout.endswith(f"\n{count_} end points; each also as resnet_v2_50/NAME, which is slim's key\n")


def test_inspect_counts_the_bytes_of_one_checkpoint_alone(tmp_path):
    """A name may look like a bundle's without being one."""
    path = tmp_path / "my.data-set.safetensors"
    weights = rf.build(rf.NETWORKS["fashion"]).weights
    save_file({f"fashion/{name}": np.ascontiguousarray(array) for name, array in weights.items()}, path)
    (tmp_path / "my.data-other").write_bytes(b"something else")
    told = json.loads(run("inspect", path, "--json").stdout)
    assert told["checkpoint"]["bytes"] == path.stat().st_size


def test_check_tensors(model, tmp_path):
    result = run("inspect", model, "--check-tensors")
    assert result.exit_code == 0
    assert re.fullmatch(r"\d+ tensors, no NaN, nothing infinite, no negative variance\n", result.stdout)
    weights = {f"fashion/{name}": np.array(array) for name, array in rf.load(model).weights.items()}
    weights["fashion/conv1/weights"][0, 0, 0, :2] = np.nan
    weights["fashion/logits/biases"][1] = -np.inf
    weights["fashion/postnorm/moving_variance"][:3] = -1
    weights["fashion/postnorm/beta"][:3] = -1
    save_file(weights, tmp_path / "bad.safetensors")
    result = run("inspect", tmp_path / "bad.safetensors", "--check-tensors")
    assert result.exit_code == 4
    assert result.stdout == (
        "tensor                            NaN  infinite  negative\n"
        "fashion/conv1/weights               2         0         0\n"
        "fashion/logits/biases               0         1         0\n"
        "fashion/postnorm/moving_variance    0         0         3\n"
        f"\n3 of {len(weights)} tensors are damaged\n"
    )
    result = run("inspect", tmp_path / "bad.safetensors", "--check-tensors", "--json")
    assert result.exit_code == 4
    assert [row["name"] for row in json.loads(result.stdout)["damaged"]] == [
        "fashion/conv1/weights",
        "fashion/logits/biases",
        "fashion/postnorm/moving_variance",
    ]


def test_check_tensors_knows_variances_by_torch_s_name_too(tmp_path):
    tensors = {f"layer1.0.bn1.running_{part}": np.full(3, -1, np.float32) for part in ("mean", "var")}
    save_file(tensors, tmp_path / "bad.safetensors")
    result = run("inspect", tmp_path / "bad.safetensors", "--check-tensors", "--json")
    assert result.exit_code == 4
    damaged = {row["name"]: row["negative"] for row in json.loads(result.stdout)["damaged"]}
    assert damaged == {"layer1.0.bn1.running_var": 3}


# doctor


def test_doctor(monkeypatch):
    monkeypatch.delenv("RESFORWARD_ISA", raising=False)
    monkeypatch.delenv("RESFORWARD_THREADS", raising=False)
    result = run("doctor")
    assert result.exit_code == 0
    assert result.stdout.endswith("\nall fine\n")
    assert f"resforward    {rf.__version__}\n" in result.stdout
    told = json.loads(run("doctor", "--json").stdout)
    assert told["problems"] == []
    keys = re.search(r"Keys of --json: (.*?)\. Options", " ".join(run("doctor", "-h").stdout.split()))
    assert keys[1].split(", ") == list(told)
    assert told["instruction_set"]["chosen"] in told["instruction_set"]["present"]
    assert told["threads"]["chosen"] >= 1


def test_doctor_says_how_to_install_what_is_missing(tmp_path, monkeypatch):
    folder = tmp_path / f"resforward-{rf.__version__}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: resforward\nVersion: {rf.__version__}\n"
        "Requires-Dist: numpy\n"
        'Requires-Dist: no-such-package; extra == "first"\n'
        'Requires-Dist: numpy; extra == "first"\n'
        'Requires-Dist: click; extra == "second"\n'
        'Requires-Dist: no-such-tool; extra == "dev"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    shown = run("doctor").stdout
    assert re.search(
        r"^extras +first: no-such-package is not installed, numpy \S+; pip install 'resforward\[first\]'\n"
        r" +second: click \S+$",
        shown,
        re.MULTILINE,
    )
    assert "no-such-tool" not in shown


def test_doctor_explains(monkeypatch):
    told = json.loads(run("doctor", "--json", env={"RESFORWARD_ISA": "avx3", "RESFORWARD_THREADS": "many"}).stdout)
    assert [problem["message"] for problem in told["problems"]] == [
        "RESFORWARD_ISA asks for avx3, which this build does not know",
        "RESFORWARD_THREADS is 'many'",
    ]
    from resforward.cli import doctor

    monkeypatch.setattr(doctor, "_TOLERANCE", -1.0)
    result = run("doctor")
    if len(told["instruction_set"]["present"]) > 1:
        assert result.exit_code == 1
        assert "do not agree" in result.stderr
        assert "please report this" in result.stderr


# Words


def test_printable():
    assert printable("plain é 猫") == "plain é 猫"
    assert printable("a\tb\x1b\udcff") == r"a\tb\x1b\udcff"


def test_count():
    assert [count(n) for n in (0, 999, 999.7, 9536, 9995, 99_960, 999_600, 25_615_849, 6.5e9, 2e13)] == [
        *("0", "999", "1.00 k", "9.54 k", "10.0 k", "100 k", "1.00 M", "25.6 M", "6.50 G", "20000 G")
    ]


def test_names_from_a_file_command_no_terminal(model, tmp_path):
    weights = rf.load(model).weights
    save_file({f"a\x1b[2Jb/{name}": np.array(array) for name, array in weights.items()}, tmp_path / "odd.safetensors")
    for arguments in (("inspect",), ("inspect", "--end-points"), ("bench", "--steps", "1", "--batch", "1")):
        result = run(*arguments, tmp_path / "odd.safetensors")
        assert result.exit_code == 0
        assert r"a\x1b[2Jb" in result.stdout
        assert ESCAPE not in result.output


def test_inspect_shows_the_built_in_checkpoint():
    result = run("inspect", "fashion", "--check-tensors")
    assert result.exit_code == 0
    assert "safetensors" in run("inspect", "fashion").stdout


def test_talk_that_cannot_be_written_does_not_cost_the_answer(model):
    with open("/dev/full", "w") as full:
        done = process(
            "predict", "-m", model, "pictures/a.png", stdout=subprocess.PIPE, stderr=full, capture_output=False
        )
    assert done.returncode == 0
    assert b"%" in done.stdout


def test_labels_cannot_draw_on_the_terminal(model, tmp_path):
    (tmp_path / "labels.txt").write_text("\x1b[31mred\n" * 10)
    assert ESCAPE not in run("predict", "-m", model, "--labels", tmp_path / "labels.txt", "pictures/a.png").stdout


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_picture_without_memory_or_probabilities_is_one_error(model, monkeypatch, as_json):
    forward, preprocess = rf.Model.forward, Preprocess.__call__

    def broken_forward(self, *arguments):
        points = {name: array.copy() for name, array in forward(self, *arguments).items()}
        points["predictions"][1] = np.nan
        return points

    def hungry(self, picture, *more):
        if "c.JPG" in str(picture):
            raise MemoryError
        return preprocess(self, picture, *more)

    monkeypatch.setattr(rf.Model, "forward", broken_forward)
    monkeypatch.setattr(Preprocess, "__call__", hungry)
    names = [f"pictures/{name}" for name in ("c.JPG", "a.png", "b.png", "a.png")]
    result = run("predict", "-q", "-m", model, "--top", 1, *as_json, *names)
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    if as_json:
        assert ["error" in json.loads(line) for line in lines] == [True, False, True, False]
    else:
        assert [line.split()[0] for line in lines] == ["pictures/a.png"] * 2
        assert "error: `pictures/c.JPG` does not fit in memory\n" in result.stderr
        assert "error: `pictures/b.png` gets probabilities that are NaN or infinite\n" in result.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EIO, "Input/output error", "m.st"), "error: input/output error: m.st\n"),
        (OSError(errno.EMFILE, "Too many open files"), "error: too many open files\n"),
    ],
)
def test_only_output_cannot_be_written(model, error, said):
    code = (
        "import errno, resforward.loading as model\n"
        "from resforward.cli import main\n"
        f"def fail(*_, **__): raise OSError(*{(error.errno, error.strerror, *filter(None, [error.filename]))})\n"
        "model.load = fail\n"
        "main(['predict', 'pictures/a.png'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
    assert result.returncode == 1
    assert result.stderr.decode() == said


def test_what_pillow_warns_of_is_not_said(model, tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0"  # declares five entries and holds none
    Image.new("RGB", (40, 40)).save(tmp_path / "odd.jpg", exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(tmp_path / "odd.jpg") as image:
        image.getexif()
    result = process("predict", "-q", "-m", model, str(tmp_path / "odd.jpg"))
    assert result.returncode == 0
    assert result.stderr == b""
