"""Change the structure of ONNX files and load them: what is accepted must compute what onnxruntime computes.

    python tests/fuzz_onnx.py --count 10000 --seed 0 [--only torch] [--files EXPORT.onnx ...]

Each case takes a small valid graph, one of our own exports, of the golden exports or of `--files`, and changes it as
the onnx library sees it: attributes, what reads what, operators, constants, outputs, sizes, versions. Then there are
four ends: refused with an error of ours; not run by onnxruntime; not finite; or both compute, and every output that is
no further one must be our logits or predictions. The bytes of a file are changed by `fuzz_checkpoints.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from plain_networks import CASES, random_weights

from resforward import ResforwardError, load
from resforward.graph import plain_graph
from resforward.onnx_file import onnx_bytes

GOLDEN = Path(__file__).parent / "golden" / "onnx"
FREE_SIZES = ((37, 46), (34, 31))  # odd and even, each way at the pool, and not the same
FIXED_SIZE = (33, 47)
BATCH = 2  # where it is free: what mixes images up shows
TOLERANCE = 1e-4  # of the largest value: rounding of weights that were folded, far below any change of structure
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23)


class MisreadError(AssertionError):
    """A mutant that is accepted and computes something else."""


@dataclass(frozen=True)
class Seed:
    """A valid file and how its images lie."""

    label: str
    data: bytes
    channels_last: bool


# --- seeds -----------------------------------------------------------------------------------------------------------


def seeds(files: Sequence[Path] = ()) -> list[Seed]:
    """Our own exports, with sizes free and fixed, with and without probabilities; golden exports; files."""
    found = []
    for case, network in CASES.items():
        weights = random_weights(network)
        last = ["predictions"] if network.num_classes else []
        found.append(Seed(f"{case}, any size", onnx_bytes(plain_graph(network, weights, last)), False))
        found.append(Seed(f"{case}, fixed", onnx_bytes(plain_graph(network, weights, size=FIXED_SIZE)), False))
    for path in (*sorted(GOLDEN.glob("*.onnx")), *files):
        model = onnx.load(path)  # with the tensors beside it
        for tensor in model.graph.initializer:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
        found.append(
            Seed(path.name, model.SerializeToString(), images(model).type.tensor_type.shape.dim[1].dim_value > 4)
        )
    return found


def images(model: ModelProto) -> onnx.ValueInfoProto:
    """The input that is no constant."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return next(value for value in model.graph.input if value.name not in constants)


# --- mutations -------------------------------------------------------------------------------------------------------

_WINDOW: dict[str, list[Any]] = {
    "strides": [[1, 1], [2, 2], [3, 3], [4, 4], [1, 2], [2, 1]],
    "pads": [[0] * 4, [1] * 4, [2] * 4, [3] * 4, [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 2, 2], [1, 1, 2, 2]],
    "dilations": [[1, 1], [2, 2], [3, 3], [1, 2]],
    "auto_pad": ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"],
}
ATTRIBUTES: dict[str, dict[str, list[Any]]] = {
    "Conv": _WINDOW | {"group": [1, 2, 4], "kernel_shape": [[1, 1], [3, 3]]},
    "MaxPool": _WINDOW | {"ceil_mode": [0, 1], "kernel_shape": [[k, k] for k in range(1, 6)], "storage_order": [0, 1]},
    "AveragePool": _WINDOW
    | {"ceil_mode": [0, 1], "count_include_pad": [0, 1], "kernel_shape": [[k, k] for k in range(1, 6)]},
    "BatchNormalization": {"epsilon": [0.0, 1e-5, 1e-3, 0.5, 2.0, -0.1], "momentum": [0.5], "training_mode": [0, 1]}
    | {"spatial": [0, 1], "is_test": [0, 1]},
    "InstanceNormalization": {"epsilon": [0.0, 1e-5, 0.5]},
    "GroupNormalization": {"epsilon": [0.0, 1e-5, 0.5], "num_groups": [1, 2, 16, 32, 64]},
    "Gemm": {"alpha": [0.5, 1.0, 2.0], "beta": [0.5, 1.0, 0.0], "transA": [0, 1], "transB": [0, 1]},
    "Flatten": {"axis": [-3, -2, -1, 0, 1, 2, 3, 4]},
    "Softmax": {"axis": [-3, -2, -1, 0, 1, 2, 3]},
    "ReduceMean": {"axes": [[2, 3], [-1, -2], [1, 2], [2], [0, 1], [1, 2, 3]], "keepdims": [0, 1]}
    | {"noop_with_empty_axes": [0, 1]},
    "Squeeze": {"axes": [[2, 3], [-1, -2], [1, 2], [2], [3], [0]]},
    "Unsqueeze": {"axes": [[2, 3], [0], [1, 2]]},
    "Transpose": {"perm": [[0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2], [0, 3, 2, 1], [1, 0, 2, 3], [1, 0]]},
    "Pad": {"mode": ["constant", "reflect", "edge"], "pads": [[0] * 8, [0, 0, 1, 1] * 2], "value": [0.0, 1.0]},
    "Concat": {"axis": [0, 1, -1]},
    "Gather": {"axis": [0, 1]},
    "Reshape": {"allowzero": [0, 1]},
    "Clip": {"min": [0.0, -1.0], "max": [6.0, 3e38]},
    "Dropout": {"ratio": [0.5], "is_test": [0, 1]},
    "Cast": {"to": [1, 6, 7, 11]},  # halves are computed in single precision here
    "LeakyRelu": {"alpha": [0.0, 0.1]},
    "Shape": {"start": [0, 1, 2], "end": [1, 2, 4]},
}
ODD: list[Any] = ["text", 1.5, -1, 1 << 40, [1.5, 2.5], [1 << 40] * 4, [-1] * 8, numpy_helper.from_array(np.ones(2))]
SWAPS = (
    ("Relu", "Sigmoid", "LeakyRelu", "Elu", "Identity", "Neg", "Abs", "HardSwish", "Clip", "Sqrt"),
    ("Add", "Mul", "Sub", "Div", "Sum", "Max", "Pow", "Mean"),
    ("MaxPool", "AveragePool", "LpPool"),
    ("GlobalAveragePool", "GlobalMaxPool", "Identity", "ReduceMean"),
    ("ReduceMean", "ReduceSum", "ReduceMax"),
    ("Softmax", "LogSoftmax", "Hardmax", "Identity"),
    ("Gemm", "MatMul"),
    ("Flatten", "Squeeze", "Identity"),
    ("BatchNormalization", "Identity"),
    ("Conv", "ConvTranspose"),
)
INSERTED: dict[str, dict[str, Any]] = {
    "Relu": {},
    "Identity": {},
    "Dropout": {},
    "Sigmoid": {},
    "Neg": {},
    "Softmax": {"axis": 1},
    "Flatten": {"axis": 1},
    "Transpose": {"perm": [0, 1, 3, 2]},
    "MaxPool": {"kernel_shape": [1, 1], "strides": [2, 2]},
    "AveragePool": {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    "GlobalAveragePool": {},
    "InstanceNormalization": {},
    "Cast": {"to": 1},
    "Squeeze": {},
}
WITH_CONSTANT = ("Add", "Mul", "Sub", "Div", "Pad", "Reshape", "MatMul", "BatchNormalization", "Sum")


def mutate_attribute(model: ModelProto, rng: random.Random) -> None:
    """Another value of an attribute, or none."""
    node = rng.choice([node for node in model.graph.node if node.op_type in ATTRIBUTES])
    name = rng.choice(list(ATTRIBUTES[node.op_type]))
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    if name == "auto_pad" and rng.random() < 0.7:
        kept = [attribute for attribute in kept if attribute.name != "pads"]
    del node.attribute[:]
    node.attribute.extend(kept)
    if rng.random() < 0.85:
        values = ATTRIBUTES[node.op_type][name] if rng.random() < 0.9 else ODD
        node.attribute.append(helper.make_attribute(name, rng.choice(values)))


def mutate_constant(model: ModelProto, rng: random.Random) -> None:
    """A constant of another shape or of other values."""
    tensor = rng.choice(constants(model))
    array = numpy_helper.to_array(tensor).copy()
    kind = rng.randrange(8)
    if kind == 0 and array.ndim:
        array = np.swapaxes(array, 0, rng.randrange(array.ndim))
    elif kind == 1:
        array = array.reshape(array.shape + (1,) * rng.randint(1, 3))
    elif kind == 2:
        array = array.ravel()[: max(array.size // 2, 1)]
    elif kind == 3 and array.size:
        array.ravel()[rng.randrange(array.size)] = rng.choice([0, 1, 2, -1, 3, 32])
    elif kind == 4:
        array = array[np.newaxis]
    elif kind == 5:
        array = array.astype(rng.choice([np.float16, np.float64, np.int32, np.int64, np.bool_, np.uint8]))
    elif kind == 6 and array.size and array.dtype.kind in "if":
        odd = [np.nan, np.inf, -np.inf, 1e38] if array.dtype.kind == "f" else [1 << 30, -(1 << 30), 1 << 20]
        array.ravel()[rng.randrange(array.size)] = rng.choice(odd)
    else:
        array = -array if array.dtype.kind in "if" else array
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def constants(model: ModelProto) -> list[TensorProto]:
    """Initialisers, and values of Constant nodes; those that are no weights are as many as these."""
    found = list(model.graph.initializer)
    found += [a.t for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    small = [tensor for tensor in found if tensor.data_type == TensorProto.INT64]
    return found + small * (1 + len(found) // (4 * len(small))) if small else found


def mutate_wire(model: ModelProto, rng: random.Random) -> None:
    """An input that reads another tensor: near it, made before it, of another node of the kind, or a constant."""
    at = rng.randrange(len(model.graph.node))
    node = model.graph.node[at]
    if not node.input:
        return
    place = rng.randrange(len(node.input)) if rng.random() < 0.3 else 0
    made = [images(model).name, *(name for before in model.graph.node[:at] for name in before.output)]
    same_place = [
        other.input[place] for other in model.graph.node if other.op_type == node.op_type and place < len(other.input)
    ]
    node.input[place] = rng.choice([rng.choice(made), rng.choice(made[-8:]), rng.choice(same_place)])


def mutate_order(model: ModelProto, rng: random.Random) -> None:
    """Inputs of one node exchanged, one left out, or one more."""
    node = rng.choice([node for node in model.graph.node if node.input])
    inputs = list(node.input)
    kind = rng.randrange(3)
    if kind == 0:
        rng.shuffle(inputs)
    elif kind == 1:
        del inputs[rng.randrange(len(inputs))]
    else:
        inputs.append(rng.choice(inputs))
    del node.input[:]
    node.input.extend(inputs)


def mutate_removal(model: ModelProto, rng: random.Random) -> None:
    """A node gone: who read it reads what it read."""
    at = rng.randrange(len(model.graph.node))
    node = model.graph.node[at]
    if node.input:
        read = node.input[rng.randrange(min(len(node.input), 2))] if node.op_type == "Add" else node.input[0]
        rename(model, node.output[0], read)
    del model.graph.node[at]


def rename(model: ModelProto, old: str, new: str) -> None:
    """Whoever reads one tensor reads another, the graph's outputs included."""
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
    for value in model.graph.output:
        if value.name == old:
            value.name = new


def mutate_operator(model: ModelProto, rng: random.Random) -> None:
    """Another operator with the same inputs."""
    row = rng.choice([row for row in SWAPS if any(node.op_type in row for node in model.graph.node)])
    node = rng.choice([node for node in model.graph.node if node.op_type in row])
    node.op_type = rng.choice(row)
    if node.op_type in ("Identity", "Relu", "Sigmoid", "GlobalAveragePool", "Clip"):
        del node.input[1:]
        del node.attribute[:]


def mutate_insertion(model: ModelProto, rng: random.Random) -> None:
    """A further node after one, or in front of one of those that read it."""
    at = rng.randrange(len(model.graph.node))
    before = model.graph.node[at]
    new = f"inserted_{len(model.graph.node)}"
    kind = rng.choice(["twice", *INSERTED, *WITH_CONSTANT])
    more = NodeProto()
    if kind == "twice":
        more.CopyFrom(before)
        more.input[0] = before.output[0]
        more.output[0] = more.name = new
        del more.output[1:]
    else:
        inputs = [before.output[0]]
        if kind in WITH_CONSTANT:
            wide = rng.choice(constants(model)).dims
            arrays = {
                "Pad": [np.array([0, 0, 1, 1, 0, 0, 1, 1])],
                "Reshape": [np.array(rng.choice([[0, -1], [0, 32, -1], [0, -1, 1, 1], [1, -1]]))],
                "BatchNormalization": [np.full(max(wide, default=1), value, np.float32) for value in (2, 1, 0.5, 2)],
            }.get(kind, [np.full(rng.choice([(), (1,), (max(wide, default=1), 1, 1), (3, 1), (3,)]), 1.5, np.float32)])
            for place, array in enumerate(arrays):
                model.graph.initializer.append(numpy_helper.from_array(array, f"{new}_{place}"))
                inputs.append(f"{new}_{place}")
            if rng.random() < 0.2:
                inputs.reverse()
        more = helper.make_node(kind, inputs, [new], new, **INSERTED.get(kind, {}))
    if rng.random() < 0.7:
        rename(model, before.output[0], new)
    else:
        readers = [node for node in model.graph.node if before.output[0] in node.input]
        if readers:
            reader = rng.choice(readers)
            reader.input[list(reader.input).index(before.output[0])] = new
    more.input[0] = before.output[0] if kind == "twice" else more.input[0]
    model.graph.node.insert(at + 1, more)


def mutate_outputs(model: ModelProto, rng: random.Random) -> None:
    """A second output, or one from the middle instead."""
    name = rng.choice([name for node in model.graph.node for name in node.output if name])
    if rng.random() < 0.5:
        del model.graph.output[:]
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.output.insert(rng.choice([0, len(model.graph.output)]), value)


def mutate_input(model: ModelProto, rng: random.Random) -> None:
    """Sizes of the images fixed or free."""
    value = images(model)
    dims = value.type.tensor_type.shape.dim
    dim = dims[rng.randrange(len(dims))]
    was = dim.dim_value
    dim.Clear()
    if rng.random() < 0.5:
        dim.dim_param = "free"
    else:
        dim.dim_value = rng.choice([was or 32, 2, 32, 33, 64])


def mutate_version(model: ModelProto, rng: random.Random) -> None:
    """Another version of the operators, with the same spelling."""
    model.opset_import[0].version = rng.choice(OPSETS)


def mutate_name(model: ModelProto, rng: random.Random) -> None:
    """Tensors called as something else is called."""
    node = rng.choice(model.graph.node)
    new = rng.choice(
        ["images", "", rng.choice(list(model.graph.node)).output[0], "logits", node.input[0] if node.input else "x"]
    )
    old = node.output[0]
    node.output[0] = new
    rename(model, old, new)


def mutate_place(model: ModelProto, rng: random.Random) -> None:
    """Two nodes exchange their places in the list."""
    one, other = (rng.randrange(len(model.graph.node)) for _ in range(2))
    kept = NodeProto()
    kept.CopyFrom(model.graph.node[one])
    model.graph.node[one].CopyFrom(model.graph.node[other])
    model.graph.node[other].CopyFrom(kept)


Mutation = Callable[[ModelProto, random.Random], None]
MUTATIONS: list[Mutation] = [
    *(mutate_attribute,) * 4,
    *(mutate_operator,) * 2,
    *(mutate_insertion,) * 3,
    *(mutate_removal,) * 2,
    *(mutate_wire,) * 2,
    mutate_constant,
    mutate_order,
    mutate_outputs,
    mutate_input,
    mutate_version,
    mutate_name,
    mutate_place,
]


# --- running ---------------------------------------------------------------------------------------------------------


def run_one(label: str, data: bytes, channels_last: bool) -> str:
    """Load a file and run it in onnxruntime; return what came of it, or raise MisreadError."""
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(data)
        file.flush()
        try:
            model = load(file.name, threads=1)
        except ResforwardError:
            return "refused"
    last = ["predictions"] if model.network.num_classes else []
    for size in FREE_SIZES:
        theirs = in_onnxruntime(data, channels_last, size)
        if isinstance(theirs, str):
            return theirs
        pictures, outputs = theirs
        try:
            found = [model(pictures), *model.forward(pictures, last).values()] if last else [model(pictures)]
        except ResforwardError as error:
            raise MisreadError(f"{label}: accepted, and not computed: {error}") from error
        least = min(difference(ours, output) for ours in found for output in outputs)
        if least > TOLERANCE:
            raise MisreadError(f"{label}: differs by {least:.1e}; {model!r}")
    return "agrees"


def in_onnxruntime(
    data: bytes, channels_last: bool, size: tuple[int, int]
) -> tuple[np.ndarray, list[np.ndarray]] | str:
    """Images (N, H, W, C) and what comes out of the last nodes for them; or why not. A fixed size is the file's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # what the file says, node by node
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (value,) = session.get_inputs()
        order = "NHWC" if channels_last else "NCHW"
        free = {"N": BATCH, "H": size[0], "W": size[1], "C": 3}
        sides = {
            letter: side if isinstance(side, int) else free[letter]
            for letter, side in zip(order, value.shape or order, strict=True)
        }
        batch = np.random.default_rng(1).standard_normal([sides[letter] for letter in "NHWC"], np.float32)
        fed = batch if channels_last else np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        outputs = session.run(None, {value.name: fed})
    except Exception as error:  # its errors have no class in common
        return f"not run: {type(error).__name__}"
    read = {name for node in onnx.load_from_string(data).graph.node for name in node.input}
    last = [each for each, told in zip(outputs, session.get_outputs(), strict=True) if told.name not in read]
    if not all(np.isfinite(each).all() for each in last or outputs):
        return "not finite"
    return batch, last or outputs


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest value; maps may lie either way."""
    if ours.ndim == 4 and theirs.ndim == 4 and ours.shape != theirs.shape:
        ours = ours.transpose(0, 3, 1, 2)
    if ours.ndim == 4 and theirs.ndim == 2 and ours.shape[1:3] == (1, 1):
        ours = ours[:, 0, 0]
    if ours.ndim == 2 and theirs.ndim == 4 and theirs.size == ours.size:
        theirs = theirs.reshape(ours.shape)
    if ours.shape != theirs.shape:
        return np.inf
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


@cache
def parsed(data: bytes) -> ModelProto:
    return onnx.load_from_string(data)


def mutant(seed: Seed, rng: random.Random) -> tuple[str, bytes]:
    """What was done, and the file."""
    model = ModelProto()
    model.CopyFrom(parsed(seed.data))
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        mutation = rng.choice(MUTATIONS)
        with contextlib.suppress(IndexError, KeyError, ValueError):  # there is nothing to change in that way
            mutation(model, rng)
            done.append(mutation.__name__.removeprefix("mutate_"))
    return "+".join(done), model.SerializeToString()


def cases(chosen: Sequence[Seed], count: int, seed: int) -> Iterator[tuple[str, str, bytes, bool]]:
    """Labels of what was done and the mutants."""
    for case in range(count):
        rng = random.Random(f"onnx/{seed}/{case}")
        victim = rng.choice(chosen)
        done, data = mutant(victim, rng)
        yield f"case {case} of seed {seed}: {victim.label}", done, data, victim.channels_last


def fuzz(chosen: Sequence[Seed], count: int, seed: int, keep: Path | None = None) -> Counter[str]:
    """Run `count` mutants; return the ends. The first that is misread is raised; with `keep`, all are kept there."""
    ends: Counter[str] = Counter()
    for label, done, data, channels_last in cases(chosen, count, seed):
        try:
            ends[run_one(label, data, channels_last)] += 1
        except Exception as error:
            if not keep:
                error.add_note(f"{label}: {done}")
                raise
            ends["WRONG"] += 1
            print(f"{type(error).__name__}: {label}: {done}: {error}"[:300], flush=True)
            (keep / f"{seed}_{label.split()[1]}.onnx").write_bytes(data)
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="seeds whose name has this in it")
    parser.add_argument("--files", type=Path, nargs="*", default=(), help="further valid files to change")
    parser.add_argument("--keep", type=Path, help="a folder for mutants that go wrong; go on after them")
    args = parser.parse_args()
    chosen = [seed for seed in seeds(args.files) if args.only in seed.label]
    for seed in chosen:
        if (end := run_one(seed.label, seed.data, seed.channels_last)) != "agrees":
            print(f"{seed.label}: {end}")
    started = time.perf_counter()
    ends = fuzz(chosen, args.count, args.seed, args.keep)
    for end, number in sorted(ends.items()):
        print(f"{number:7d}  {end}")
    print(f"{args.count} mutants of {len(chosen)} files in {time.perf_counter() - started:.0f} s")
    return 1 if ends["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
