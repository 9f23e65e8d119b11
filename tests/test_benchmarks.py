"""The benchmarks' own programs: which runs there are, how results are kept, what is made of them."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import xml.etree.ElementTree
from pathlib import Path

import environments
import measure
import pytest
import report
import run

from resforward.peers import ENGINES


def speed(median, ratio=None):
    spread = {"median": median, "q1": 0.9 * median, "q3": 1.1 * median}
    return {
        "engine": "",
        "version": "1.2",
        "speed": spread,
        "ratio": ratio and {"median": ratio, "q1": ratio, "q3": ratio},
        "difference": ratio and 1.5e-6,
    }


CONDITIONS = {
    "date": "2026-11-24T06:50:26+00:00",
    "cpu": "A & B",
    "cores": 2,
    "isa": "avx512",
    "load_average": 1.25,
    "settings": {"rounds": 9},
}
MACHINE = {"fma_gflops": {"median": 443.4}, "read_gb_per_second": {"median": 25.0}}
RESULTS = {
    "resnet_v2_50/batch8": CONDITIONS
    | {
        "machine": MACHINE,
        "engines": {"resforward": speed(60.04), "ncnn": speed(30.0, 2.0), "torch": speed(40.0, 1.5)},
    },
    "resnet_v2_152/batch8": CONDITIONS
    | {"machine": MACHINE, "engines": {"resforward": speed(20.0), "tensorflow-slim": speed(10.0, 2.0)}},
    "resnet_v2_50/avx512/batch8": CONDITIONS
    | {
        "isa": "avx512",
        "machine": MACHINE,
        "engines": {"resforward": speed(45.0), "onnxruntime": speed(30.0, 1.5)},
    },
    "resnet_v2_50/growth/batch4": CONDITIONS
    | {
        "machine": MACHINE,
        "engines": {"resforward on 2": speed(60.0), "resforward on 1": speed(30.0, 2.0)},
        "rounds": [{"resforward on 2": 0.5, "resforward on 1": 0.9}] * 3,
    },
    "resnet_v2_50/first_answer": CONDITIONS
    | {
        "load_average": 2.71,
        "settings": {"rounds": 5},
        "summary": {
            "resforward predict": {"seconds": {"median": 0.333}, "peak_mib": {"median": 400.0}},
            "onnxruntime script": {"seconds": {"median": 0.5}, "peak_mib": {"median": 300.4}},
        },
        "rounds": [
            {
                "resforward predict": {"seconds": 0.333, "peak_mib": 400.0},
                "onnxruntime script": {"seconds": 0.5, "peak_mib": 300.4},
            }
        ],
    },
}

TABLES = """\
| images/s | ResNet-50, batch 8 | ResNet-152, batch 8 |
|---|---|---|
| resforward 1.2 | **60.0** | **20.0** |
| ncnn 1.2 | 30.0 (2.00) |  |
| torch 1.2, eager | 40.0 (1.50) |  |
| TensorFlow 1.2 |  | 10.0 (2.00) |

| | resforward | other | ours / other |
|---|---|---|---|
| ResNet-50, time of a process that labels one photograph | 0.33 s | 0.50 s (onnxruntime) | 0.67 |
| ResNet-50, peak memory of a process that labels one photograph | 400 MiB | 300 MiB (onnxruntime) | 1.33 |
| ResNet-50, batch 8, without AMX | 45.0 images/s | 30.0 images/s (onnxruntime) | 1.50 |

2026-11-24; A & B, avx512, two threads on 2 cores, fp32, 224 x 224; medians of 5 to 9 rounds. The load average was up\
 to 2.7 when a run began, which the runs before it are part of. In the same rounds the machine did 443 GFLOP/s of\
 multiply-adds alone and read 25 GB/s from memory. Largest difference of any engine's logits from ours: 1.5e-06 of the\
 largest.
"""


def test_the_readme_and_the_picture_are_what_was_measured():
    report.main(["--check"])


def test_tables():
    assert report.tables(RESULTS) == TABLES
    assert report.tables({}) == ""
    alone = CONDITIONS | {"machine": MACHINE, "engines": {"resforward": speed(60.04)}}
    assert "OpenVINO" not in report.tables({"resnet_v2_50/avx2/batch8": alone})


def test_the_table_goes_between_its_marks():
    before = f"a\n{report.BEGIN}old\n{report.END}b\n"
    after = report.with_tables(before, "new\n")
    assert after == f"a\n{report.BEGIN}\nnew\n\n{report.END}b\n"
    assert report.with_tables(after, "new\n") == after
    with pytest.raises(SystemExit, match="no place"):
        report.with_tables("a\nb\n", "new\n")


def test_the_picture_shows_every_engine_by_speed():
    root = xml.etree.ElementTree.fromstring(report.picture(RESULTS))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:7] == ["ResNet-50, batch 8", "resforward", "60.0", "torch, eager", "40.0", "ncnn", "30.0"]
    bars = [element.get("class") for element in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars == ["ours", "bar", "bar", "ours", "bar"]


def test_targets():
    lines = report.targets(RESULTS)
    assert "holds    2.00  >= 1.20  resnet_v2_50/batch8, ours / ncnn" in lines
    assert "MISSED   1.50  >= 1.85  resnet_v2_50/batch8, ours / torch" in lines
    assert "MISSED   1.80  >= 1.85  resnet_v2_50/growth/batch4, two threads / one" in lines
    assert "holds    0.67  <= 1.00  resnet_v2_50/first_answer, time, ours / onnxruntime" in lines
    assert "MISSED   1.33  <= 1.30  resnet_v2_50/first_answer, memory, ours / onnxruntime" in lines
    assert "not measured   >= 1.40  resnet_v2_50/batch8, ours / openvino" in lines
    assert "not measured   >= 1.85  resnet_v2_50/growth/batch8, two threads / one" in lines
    assert "not measured   <= 1.30  resnet_v2_152/first_answer, memory, ours / onnxruntime" in lines
    assert [line[13:] for line in report.targets({})] == [line[13:] for line in lines]


def test_every_target_is_of_a_run():
    for name, bounds in report.TARGETS.items():
        assert bounds.keys() <= set(run.RUNS[name].engines)
    assert set(report.GROWTH) == {name for name in run.RUNS if "/growth/" in name}
    assert {f"{network}/first_answer" for network in report.SLIM} <= run.RUNS.keys()
    assert report.TITLES.keys() == {"resforward", *ENGINES}


def test_runs_are_chosen_by_pattern_and_made_smaller():
    assert list(run.selected([], [], None)) == list(run.RUNS)
    chosen = run.selected(["resnet_v2_50/batch*", "*/first_answer"], ["ncnn", "onnxruntime"], 2)
    assert set(chosen) == {
        "resnet_v2_50/batch8",
        "resnet_v2_50/batch1",
        "resnet_v2_50/first_answer",
        "resnet_v2_152/first_answer",
    }
    assert chosen["resnet_v2_50/batch8"].engines == ("onnxruntime", "ncnn")
    assert {row.rounds for row in chosen.values()} == {2}
    with pytest.raises(SystemExit, match="no run is called resnet50"):
        run.selected(["resnet50"], [], None)


def test_a_run_that_would_have_no_engine_is_left_out():
    assert set(run.selected([], ["ncnn"], None)) == {
        f"{network}/batch{batch}" for network in report.SLIM for batch in (1, 8)
    }
    with pytest.raises(SystemExit, match="none of these runs has ncnn or torch"):
        run.selected(["*/avx2/*", "*/first_answer"], ["ncnn", "torch"], None)


def test_only_a_run_of_all_its_engines_is_kept_among_the_results(tmp_path, monkeypatch):
    for name in ("RESULTS", "IN_PART"):
        monkeypatch.setattr(run, name, tmp_path / f"{name}.json")
    monkeypatch.setattr(run, "measure", lambda row, say: {})

    def written(*arguments):
        monkeypatch.setattr(sys, "argv", ["run.py", "resnet_v2_50/batch8", "resnet_v2_50/growth/batch4", *arguments])
        run.main()
        found = {path.name: list(json.loads(path.read_text())) for path in tmp_path.iterdir()}
        for path in tmp_path.iterdir():
            path.unlink()
        return found

    both = ["resnet_v2_50/batch8", "resnet_v2_50/growth/batch4"]
    assert written() == written("--rounds", "1") == {"RESULTS.json": both}
    assert written("--engines", "onnxruntime") == {"IN_PART.json": both[:1], "RESULTS.json": both[1:]}
    assert written("--engines", "ncnn", "--json", str(tmp_path / "mine.json")) == {"mine.json": both[:1]}


def test_a_result_replaces_the_one_of_its_name(tmp_path):
    path = tmp_path / "results" / "engines.json"
    for name, value in (("b", 1), ("a", 2), ("b", 3)):
        run.keep(path, name, {"value": value})
    assert list(json.loads(path.read_text()).items()) == [("a", {"value": 2}), ("b", {"value": 3})]


def test_results_stay_whole_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "engines.json"
    run.keep(path, "a", {"value": 1})
    before = path.read_text()

    def full(self, text):
        self.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        run.keep(path, "b", {"value": 2})
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_conditions_name_a_release_and_not_somebody_s_build_of_it():
    assert re.fullmatch(r"Linux \d+\.\d+", measure.conditions([])["system"])


def test_versions_in_an_environment():
    found = environments.versions(Path(sys.executable), ["numpy", "Pillow"])
    assert found == measure.conditions(["numpy", "Pillow"])["versions"]
    assert found["numpy"] == importlib.metadata.version("numpy")


def test_every_engine_has_an_environment(tmp_path, monkeypatch):
    assert {name.removesuffix("-compiled") for name in ENGINES} == set(environments.ENVIRONMENTS)
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match=r"environments\.py torch$"):
        environments.python("torch-compiled")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "complete").touch()
    assert environments.python("torch-compiled") == tmp_path / "torch" / "bin" / "python"
