"""Other engines: the files written for them, the processes that run them, and the figures of taking turns."""

from __future__ import annotations

import importlib.util
import json
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from plain_networks import CASES, random_images, random_weights

from resforward import Model, ResforwardError, build
from resforward.cli import main
from resforward.graph import plain_graph
from resforward.peers import ENGINES, OURS, Engine, check_installed, compare, engine_names
from resforward.peers.compare import RESFORWARD, Spread, Worker, logits_differences, rest, rows, turns, workers
from resforward.peers.files import WRITERS, ncnn_files

FAKE_ADAPTER = """
    import os, threading, time

    def version():
        return "1.2"

    def load(folder, images, threads, factor, idle="sleeps", fails=""):
        print("what an engine says")
        if fails == "silently":
            os.closerange(3, 256)
            time.sleep(60)
        if fails:
            raise ValueError("no such network")
        if idle == "spins":
            threading.Thread(target=spin, daemon=True).start()
        calls = []

        def run():
            calls.append(1)
            return images[:, 0, 0] * int(factor) * threads + len(calls)

        return run

    def spin():
        while True:
            pass
"""


@pytest.fixture
def fake(tmp_path):
    """Starts a worker with an engine that multiplies one pixel, counts its calls, and can misbehave."""
    (tmp_path / "fake.py").write_text(textwrap.dedent(FAKE_ADAPTER))
    np.save(tmp_path / "images.npy", np.ones((2, 1, 1, 3), np.float32))
    started = []

    def start(name="fake", threads=3, **options):
        engine = Engine("fake", "none", {}, options={"factor": "2", **options})
        started.append(Worker(name, engine, tmp_path, threads, environment={"PYTHONPATH": str(tmp_path)}))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def test_a_worker_answers(fake):
    worker = fake()
    assert worker.version == "1.2"
    assert worker.load_seconds >= 0
    durations = worker.turn(4)
    assert len(durations) == 4
    assert all(duration >= 0 for duration in durations)
    # 2 * 3 threads, and the sixth call: one before the turn's four was not timed
    np.testing.assert_array_equal(worker.logits(), np.full((2, 3), 6 + 6, np.float32))


def test_a_worker_that_fails_says_why(fake):
    with pytest.raises(ResforwardError, match="fake ended with 1") as caught:
        fake(fails="yes")
    assert caught.value.found[-1] == "ValueError: no such network"


def test_a_worker_that_has_ended_says_so(fake):
    worker = fake()
    worker._process.kill()
    for ask in (lambda: worker.turn(1), worker.logits, worker.cpu_seconds):
        with pytest.raises(ResforwardError, match="fake ended with -9"):
            ask()


def test_a_worker_that_only_closes_its_output_is_ended(fake, monkeypatch):
    monkeypatch.setattr(compare, "PARTING", 0.2)
    with pytest.raises(ResforwardError, match="fake runs on, but answers no more") as caught:
        fake(fails="silently")
    assert caught.value.found == ("what an engine says",)


def test_an_interpreter_that_is_not_there(tmp_path):
    with pytest.raises(ResforwardError, match=r"fake cannot be started: .*no-python"):
        Worker("fake", Engine("fake", "none", {}), tmp_path, 1, python=tmp_path / "no-python")


def test_nothing_is_left_of_a_worker_that_was_interrupted_while_it_started(fake, monkeypatch):
    left = []

    def interrupted(self):
        left.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fake()
    assert left[0]._process.returncode is not None
    assert left[0]._errors.closed


def test_a_worker_ends_with_its_input(fake):
    worker = fake()
    worker.close()
    assert worker._process.returncode == 0


def test_rest_waits_for_threads_and_not_for_ever(fake, monkeypatch):
    rest([fake(), fake()])
    monkeypatch.setattr(compare, "PATIENCE", 0.3)
    with pytest.raises(ResforwardError, match="threads of awake never sleep"):
        rest([fake(), fake("awake", idle="spins")])


def test_who_computes_out_of_turn_is_found_out(fake, monkeypatch):
    engines = {"a": fake("a"), "b": fake("b", idle="spins")}
    monkeypatch.setattr(compare, "rest", lambda engines: None)
    monkeypatch.setattr(engines["a"], "turn", lambda calls: time.sleep(0.3) or [0.1])
    with pytest.raises(ResforwardError, match="b used the processor while a computed"):
        turns(engines, 1)


def test_a_round_is_the_mean_of_every_engine_s_calls(fake, monkeypatch):
    engines = {"a": fake("a"), "b": fake("b")}
    monkeypatch.setattr(engines["a"], "turn", lambda calls: [1.0, 2.0][:calls])
    monkeypatch.setattr(engines["b"], "turn", lambda calls: [5.0, 1.0][:calls])
    assert turns(engines, 2) == {"a": 1.5, "b": 3.0}


def test_other_logits_are_no_comparison(fake):
    engines = {"ours": fake("ours"), "same": fake("same"), "other": fake("other", factor="3")}
    with pytest.raises(ResforwardError, match="logits differ from ours") as caught:
        logits_differences(engines)
    assert caught.value.found == ("other: 4.3e-01",)  # 10 instead of 7
    del engines["other"]
    for worker in engines.values():
        worker.turn(1)
    assert logits_differences(engines) == {"same": 0.0}


class _Version:
    version = "1"


def test_figures_are_medians_of_rounds_and_ratios_are_taken_within_them():
    rounds = [{"ours": 1.0, "b": 2.0}, {"ours": 2.0, "b": 3.0}, {"ours": 10.0, "b": 10.0}]
    ours, other = rows({"ours": _Version, "b": _Version}, rounds, 8, {"b": 1e-6})
    assert (ours.speed, ours.ratio, ours.difference) == (Spread(4.0, 2.4, 6.0), None, None)
    assert other.speed.median == pytest.approx(8 / 3)
    assert other.ratio == Spread(1.5, 1.25, 1.75)  # of 2, 1.5 and 1, and not 3 / 2
    assert other.as_dict() == {
        "engine": "b",
        "version": "1",
        "speed": {"median": 8 / 3, "q1": pytest.approx(1.7333333), "q3": pytest.approx(3.3333333)},
        "ratio": {"median": 1.5, "q1": 1.25, "q3": 1.75},
        "difference": 1e-6,
    }
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)


def test_names_of_engines():
    assert engine_names(" ncnn, onnxruntime,ncnn") == ["ncnn", "onnxruntime"]
    with pytest.raises(ResforwardError) as caught:
        engine_names("onnxruntme,openvino,xyz")
    assert caught.value.found == ("onnxruntme; the nearest is `onnxruntime`", "xyz")
    with pytest.raises(ResforwardError, match="nothing to compare with"):
        engine_names(",")


def test_what_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ResforwardError) as caught:
        check_installed(["openvino", "torch"])
    assert caught.value.found == ("openvino needs openvino, onnx", "torch needs torch")
    assert caught.value.help == "pip install openvino onnx torch; a build of torch for CPUs is enough"
    check_installed([])


def test_every_engine_has_an_adapter_and_a_format():
    adapters = Path(compare.__file__).parent / "adapters"
    for engine in (OURS, *ENGINES.values()):
        assert (adapters / f"{engine.adapter}.py").is_file()
        assert engine.format in WRITERS


@pytest.mark.parametrize(
    "engine", ["onnxruntime", "ncnn", *(pytest.param(name, marks=pytest.mark.oracle) for name in ("openvino", "torch"))]
)
def test_engines_compute_what_this_one_computes(engine):
    try:
        check_installed([engine])
    except ResforwardError as error:
        pytest.skip(str(error))
    for network in CASES.values():
        model = Model(network, random_weights(network), threads=1)
        images = random_images(network, (33, 47), 2)
        with workers(model, images, {RESFORWARD: OURS, engine: ENGINES[engine]}) as engines:
            assert list(logits_differences(engines)) == [engine]


def test_ncnn_s_file_is_fused_and_split():
    text, weights = ncnn_files(plain_graph(CASES["v2"], random_weights(CASES["v2"]), size=(32, 32)))
    magic, counts, *lines = text.splitlines()
    assert magic == "7767517"
    types = [line.split()[0] for line in lines]
    # Norms before convolutions stay, each with its ReLU; those after one are in it, as activations.
    assert types.count("BatchNorm") == types.count("ReLU") == 7 + 1
    assert sum(" 9=1" in line for line in lines) == 14
    read = [name for line in lines for name in line.split()[4 : 4 + int(line.split()[2])]]
    assert len(read) == len(set(read))  # whatever several read is split
    assert counts == f"{len(lines)} {sum(int(line.split()[3]) for line in lines)}"
    assert lines[-1].split()[:4] == ["InnerProduct", f"layer{len(lines) - 1}", "1", "1"]
    assert len(weights) % 4 == 0


def test_bench_against(monkeypatch):
    monkeypatch.setenv("RESFORWARD_ISA", build("fashion").isa)
    result = CliRunner().invoke(
        main, ["bench", "fashion", "--batch", "2", "--steps", "4", "--threads", "1", "--against", "onnxruntime"]
    )
    assert result.exit_code == 0, result.output
    head, ours, other, empty, network, runs, measured = result.stdout.splitlines()
    assert head.split() == ["engine", "version", "images/s", "ours", "/", "theirs", "logits", "differ", "by"]
    assert ours.split()[0] == "resforward"
    assert other.split()[0] == "onnxruntime"
    assert empty == ""
    assert network == "network   fashion, fashion.safetensors; batch 2 of 28x28"
    assert runs.startswith(f"runs on   {build('fashion').isa}, 1 thread, ")
    assert measured == "measured  2 rounds of 3 runs each, medians; in brackets quartiles"


def test_bench_against_as_json():
    result = CliRunner().invoke(
        main, ["bench", "fashion", "--batch", "1", "--steps", "3", "--against", "onnxruntime", "--json"]
    )
    told = json.loads(result.stdout)
    assert [row["engine"] for row in told["engines"]] == ["resforward", "onnxruntime"]
    assert told["engines"][1]["difference"] < 1e-5
    usage = " ".join(CliRunner().invoke(main, ["bench", "-h"]).stdout.split())
    keys = usage.partition("with --against: ")[2].partition(". ")[0]
    assert keys.replace(" (of each: engine, version, speed, ratio, difference)", "").split(", ") == list(told)


def test_bench_against_nobody(monkeypatch):
    result = CliRunner().invoke(main, ["bench", "--against", "opnvino,\x1b[2J"])
    assert result.exit_code == 2
    assert "Invalid value for '--against': no such engine\n  - opnvino; the nearest is `openvino`\n" in result.stderr
    assert "help: the engines are onnxruntime, openvino," in result.stderr
    assert "  - \\x1b[2J\n" in result.stderr
    result = CliRunner().invoke(main, ["bench", "--against", "ncnn", "--warmup", "3"])
    assert result.exit_code == 2
    assert "--warmup does not go with --against" in result.stderr
