"""Write small ONNX files as the real exporters write them, and what their libraries compute: tests/golden/onnx/.

    KERAS_BACKEND=torch python tests/golden/make_onnx.py torch keras zoo
        # torch 2.13.0, onnxscript 0.7.2, torchvision 0.28.0, timm 1.0.31, Keras 3.15.1, onnx 1.23.2, onnxruntime 1.32.0
    python tests/golden/make_onnx.py tensorflow
        # tensorflow-cpu 2.15.1, Keras 2.15.0, tf-slim 1.1.0, tf_keras 2.15.1, tf2onnx 1.17.0, onnx 1.16.2

Real units, root blocks and heads of the libraries, with few and narrow ones of them. NETWORK.EXPORT.onnx is one export;
NETWORK.npz has, for the images of images.npz, the library's logits and its feature pyramid by stride, (N, H, W, C).
Nobody runs MXNet or Caffe2 any more: the graphs of the ONNX zoo are written by hand after its files, and computed by
onnxruntime. What exporters note of themselves about each node, paths of their own among it, is taken out.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
from onnx import helper, numpy_helper

FOLDER = Path(__file__).parent / "onnx"
SIZE = (36, 46)  # the pool reads one even side and one odd
IMAGES = np.random.default_rng(1).standard_normal((2, *SIZE, 3), np.float32)
NCHW = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))


def tidy(path: Path) -> None:
    """Take out notes about nodes; external data stays where it is."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.ClearField("metadata_props")
    del model.graph.metadata_props[:], model.graph.value_info[:]
    path.write_bytes(model.SerializeToString())


def write(network: str, logits: np.ndarray, pyramid: Mapping[int, np.ndarray]) -> None:
    """Logits of all images, maps of the first."""
    np.savez_compressed(FOLDER / f"{network}.npz", logits=logits, **{f"{s}": maps[:1] for s, maps in pyramid.items()})


# --- torchvision and timm --------------------------------------------------------------------------------------------


def torchvision_net(unit: str) -> Any:
    """Torchvision's network from its own parts; its constructor has no say in the widths."""
    import torch
    from oracles.torchvision_on_cpu import torchvision

    resnet = torchvision().models.resnet
    made, widths = getattr(resnet, unit), (4, 6, 8, 8)
    net = resnet.ResNet(made, [1, 1, 1, 1], num_classes=5)
    net.inplanes = widths[0]
    net.conv1 = torch.nn.Conv2d(3, widths[0], kernel_size=7, stride=2, padding=3, bias=False)
    net.bn1 = torch.nn.BatchNorm2d(widths[0])
    for index, (width, units) in enumerate(zip(widths, (2, 1, 1, 1), strict=True), start=1):
        setattr(net, f"layer{index}", net._make_layer(made, width, units, stride=1 if index == 1 else 2))
    net.fc = torch.nn.Linear(widths[-1] * made.expansion, 5)
    return net


def timm_v1d() -> Any:
    from timm.models import resnet

    options = {"stem_width": 4, "stem_type": "deep", "avg_down": True, "channels": (4, 8, 8, 12)}
    return resnet.ResNet(resnet.Bottleneck, [2, 1, 1, 1], num_classes=5, **options)


def timm_v2(layers: tuple[int, ...] = (2, 1, 1, 1), **options: Any) -> Any:
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models import resnetv2

    usual = {"channels": (16, 16, 32, 32), "num_classes": 5, "conv_layer": create_conv2d, "norm_layer": BatchNormAct2d}
    return resnetv2.ResNetV2(list(layers), **{**usual, **options})


def bit() -> Any:
    from timm.layers import GroupNormAct, StdConv2d

    layers = {"conv_layer": partial(StdConv2d, eps=1e-8), "norm_layer": partial(GroupNormAct, num_groups=32)}
    return timm_v2((1, 1), channels=(128, 128), stem_chs=32, stem_type="fixed", **layers)


def by_tracing(as_it_is: bool = False, any_size: bool = False, **options: Any) -> Callable[[Any, Path], None]:
    """The exporter that folds norms unless told not to."""

    def export(net: Any, path: Path) -> None:
        import torch

        if as_it_is:
            options.update(training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
        if any_size:
            axes = {"images": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch"}}
            options.update(input_names=["images"], output_names=["logits"], dynamic_axes=axes)
        torch.onnx.export(net, (torch.from_numpy(NCHW),), str(path), dynamo=False, **options)

    return export


def by_dynamo(**options: Any) -> Callable[[Any, Path], None]:
    def export(net: Any, path: Path) -> None:
        import torch

        torch.onnx.export(net, (torch.from_numpy(NCHW),), str(path), dynamo=True, verbose=False, **options)

    return export


def by_onnxruntime(net: Any, path: Path) -> None:
    """What onnxruntime makes of an export at its basic level, for any processor."""
    import onnxruntime as ort

    unfolded = path.with_suffix(".tmp")
    by_tracing(as_it_is=True, opset_version=17)(net, unfolded)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(unfolded), options, providers=["CPUExecutionProvider"])
    unfolded.unlink()


TORCH: Mapping[str, tuple[Callable[[], Any], Mapping[str, Callable[[Any, Path], None]]]] = {
    "torchvision_bottleneck": (
        lambda: torchvision_net("Bottleneck"),
        {
            "opset17": by_tracing(opset_version=17),
            "as_it_is_opset11_any_size": by_tracing(as_it_is=True, any_size=True, opset_version=11),
            "dynamo": by_dynamo(),  # its tensors are in a file beside it
            "dynamo_unoptimised": by_dynamo(optimize=False, external_data=False),
        },
    ),
    "torchvision_basic": (
        lambda: torchvision_net("BasicBlock"),
        {
            "opset9": by_tracing(opset_version=9),
            "opset13_any_size": by_tracing(any_size=True, opset_version=13),
            "as_it_is": by_tracing(as_it_is=True, keep_initializers_as_inputs=True),
            "onnxruntime": by_onnxruntime,
        },
    ),
    "timm_v1d": (
        timm_v1d,
        {
            "any_size": by_tracing(any_size=True),
            "as_it_is": by_tracing(as_it_is=True),
            "dynamo": by_dynamo(external_data=False),
        },
    ),
    "timm_v2": (
        partial(timm_v2, stem_chs=8),
        {"opset17": by_tracing(opset_version=17), "dynamo_unoptimised": by_dynamo(optimize=False, external_data=False)},
    ),
    "timm_v2_basic": (
        partial(timm_v2, stem_chs=16, basic=True, channels=(16, 16, 24, 24)),
        {"any_size": by_tracing(any_size=True)},
    ),
    "bit": (
        bit,
        {"as_it_is": by_tracing(as_it_is=True), "dynamo_unoptimised": by_dynamo(optimize=False, external_data=False)},
    ),
}


def computed(net: Any, stages: Iterable[Any]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits, and what each stage makes."""
    import torch

    maps: list[np.ndarray] = []
    hooks = [
        stage.register_forward_hook(lambda _, inputs, output: maps.append(output.numpy().copy())) for stage in stages
    ]
    with torch.inference_mode():
        logits = net(torch.from_numpy(NCHW)).numpy()
    for hook in hooks:
        hook.remove()
    return logits, maps


def torch_networks() -> None:
    import torch

    for network, (make, exports) in TORCH.items():
        torch.manual_seed(0)
        net = make().eval()
        rng = np.random.default_rng(0)
        for key, tensor in net.state_dict().items():  # norms with statistics that are not trivial
            if key.endswith("running_var") or (tensor.ndim == 1 and key.endswith(".weight")):
                tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape)))
            elif key.endswith(("running_mean", ".bias")):
                tensor.copy_(torch.from_numpy(rng.normal(0, 0.1, tensor.shape)))
        stages = getattr(net, "stages", None) or [net.layer1, net.layer2, net.layer3, net.layer4]
        logits, maps = computed(net, stages)
        write(network, logits, {4 << place: each.transpose(0, 2, 3, 1) for place, each in enumerate(maps)})
        for name, export in exports.items():
            path = FOLDER / f"{network}.{name}.onnx"
            export(net, path)
            tidy(path)


# --- Keras -----------------------------------------------------------------------------------------------------------


def keras_net(version: int, **options: Any) -> Any:
    """Keras' own `ResNet` around its own stacks; only the root block's 64 channels cannot be fewer."""
    from keras.src.applications import resnet

    newer = {1: "stack_residual_blocks_v1", 2: "stack_residual_blocks_v2"}[version]
    stack = getattr(resnet, newer, None) or getattr(resnet, f"stack{version}")  # since Keras 3, and before it
    strides = {1: (1, 2, 2), 2: (2, 2, 1)}[version]  # as in ResNet50 and in ResNet50V2, of fewer stacks

    def stacks(x: Any) -> Any:
        for place, (units, stride) in enumerate(zip((2, 2, 2), strides, strict=True)):
            x = stack(x, 4 + 2 * place, units, stride1=stride, name=f"conv{place + 2}")
        return x

    told = {"weights": None, "input_shape": (*SIZE, 3), "classes": 5, **options}
    net = resnet.ResNet(stacks, version == 2, True, **told)
    rng = np.random.default_rng(0)
    net.set_weights(
        [
            rng.normal(0, np.sqrt((2 if w.ndim > 2 else 0.02) / np.prod(w.shape[:-1])), w.shape) if w.ndim > 1
            else rng.uniform(0.5, 1.5, w.shape) if "gamma" in v.name or "variance" in v.name
            else rng.normal(0, 0.1, w.shape)
            for v, w in zip(net.weights, net.get_weights(), strict=True)
        ]
    )  # fmt: skip
    return net


def keras_pyramid(net: Any, version: int) -> dict[int, np.ndarray]:
    """The last unit of each stride."""
    import keras

    names = {4: "conv2_block2_out", 8: "conv3_block2_out", 16: "conv4_block2_out"}
    if version == 2:  # the last unit of a stack has its stride
        names = {4: "conv2_block1_out", 8: "conv3_block1_out", 16: "conv4_block2_out"}
    found = keras.Model(net.input, [net.get_layer(name).output for name in names.values()])(IMAGES)
    return {
        stride: np.asarray(maps.detach() if hasattr(maps, "detach") else maps)
        for stride, maps in zip(names, found, strict=True)
    }


def keras_networks() -> None:
    """By `Model.export`: probabilities of V2, which is the default, and logits of V1."""
    import keras

    for version, activation in ((1, None), (2, "softmax")):
        net = keras_net(version, classifier_activation=activation)
        write(f"keras_v{version}", keras.ops.convert_to_numpy(net(IMAGES)), keras_pyramid(net, version))
        path = FOLDER / f"keras_v{version}.export.onnx"
        net.export(str(path), format="onnx", verbose=False)
        tidy(path)


# --- TensorFlow ------------------------------------------------------------------------------------------------------


def tensorflow_networks() -> None:
    """By tf2onnx, with images in either order: Keras' networks, and slim's, whose SAME wants a size."""
    import tensorflow as tf
    import tf2onnx

    for version in (1, 2):
        net = keras_net(version, classifier_activation=None)
        write(f"keras_2_v{version}", net(IMAGES).numpy(), keras_pyramid(net, version))
        signature = [tf.TensorSpec((None, *SIZE, 3), tf.float32, name="images")]
        for name, options in {"tf2onnx": {}, "tf2onnx_nchw": {"inputs_as_nchw": ["images"]}}.items():
            path = FOLDER / f"keras_2_v{version}.{name}.onnx"
            tf2onnx.convert.from_keras(net, signature, opset=17, output_path=str(path), **options)
            tidy(path)
    for version in (1, 2):
        slim_network(version)


def slim_network(version: int) -> None:
    """Slim's own function, frozen."""
    moved = "tf_keras.src.legacy_tf_layers"  # as in oracles/slim_reference.py
    for module in ("", ".base", ".convolutional", ".core", ".normalization", ".pooling"):
        sys.modules[f"tf_keras.legacy_tf_layers{module}"] = importlib.import_module(moved + module)
    import tensorflow as tf
    import tf2onnx
    import tf_slim as slim
    from tf_slim.nets import resnet_utils, resnet_v1, resnet_v2

    nets, family = ((resnet_v1, resnet_v1.resnet_v1), (resnet_v2, resnet_v2.resnet_v2))[version - 1]
    blocks = [
        resnet_utils.Block(
            f"block{place}",
            nets.bottleneck,
            [{"depth": 4 * d, "depth_bottleneck": d, "stride": s} for s in (1, stride)],
        )
        for place, (d, stride) in enumerate(((4, 2), (6, 2), (8, 1)), start=1)
    ]
    ends = {4: "block1/unit_1", 8: "block2/unit_1", 16: "block3/unit_2"}
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        images = tf.compat.v1.placeholder(tf.float32, [None, *SIZE, 3], name="images")
        with slim.arg_scope(resnet_utils.resnet_arg_scope()):
            net, end_points = family(images, blocks, 5, is_training=False, scope=f"resnet_v{version}")
        net = tf.identity(tf.squeeze(net, [1, 2]), name="logits")
        rng = np.random.default_rng(0)
        for variable in tf.compat.v1.global_variables():
            shape, name = variable.shape.as_list(), variable.op.name
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1, shape)
            if name.endswith(("moving_variance", "gamma")):
                value = rng.uniform(0.5, 1.5, shape)
            session.run(variable.initializer, {variable.initializer.inputs[1]: value.astype(np.float32)})
        maps = [end_points[f"resnet_v{version}/{end}/bottleneck_v{version}"] for end in ends.values()]
        logits, *found = session.run([net, *maps], {images: IMAGES})
        write(f"slim_v{version}", logits, dict(zip(ends, found, strict=True)))
        frozen = tf.compat.v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["logits"])
    for name, options in {"tf2onnx": {}, "tf2onnx_nchw": {"inputs_as_nchw": ["images:0"]}}.items():
        path = FOLDER / f"slim_v{version}.{name}.onnx"
        given = {"input_names": ["images:0"], "output_names": ["logits:0"], "opset": 13, "output_path": str(path)}
        tf2onnx.convert.from_graph_def(frozen, **given, **options)
        tidy(path)


# --- the ONNX zoo ----------------------------------------------------------------------------------------------------


class Zoo:
    """A graph as MXNet's exporter wrote it: opset 7, every initialiser an input, `spatial`."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.rng = np.random.default_rng(0)

    def weight(self, name: str, *shape: int, low: float = 0.0) -> str:
        value = self.rng.uniform(low, 1.5, shape) if low else self.rng.normal(0, 0.1, shape)
        if len(shape) > 1:
            value = self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        self.tensors.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def add(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def conv(self, net: str, name: str, depth_in: int, depth: int, kernel: int, stride: int, bias: bool = False) -> str:
        inputs = [self.weight(f"{name}_weight", depth, depth_in, kernel, kernel)]
        inputs += [self.weight(f"{name}_bias", depth)] if bias else []
        window = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        return self.add("Conv", f"{name}_fwd", net, *inputs, dilations=[1, 1], group=1, **window)

    def norm(self, net: str, name: str, depth: int) -> str:
        parts = [("gamma", 0.5), ("beta", 0.0), ("running_mean", 0.0), ("running_var", 0.5)]
        inputs = [self.weight(f"{name}_{part}", depth, low=low) for part, low in parts]
        return self.add("BatchNormalization", f"{name}_fwd", net, *inputs, epsilon=1e-5, momentum=0.9, spatial=1)

    def relu(self, net: str, name: str) -> str:
        return self.add("Relu", f"{name}_fwd", net)

    def pool(self, net: str, name: str) -> str:
        return self.add("MaxPool", f"{name}_fwd", net, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])

    def save(self, network: str, output: str, pyramid: Mapping[int, str]) -> None:
        import onnxruntime as ort

        def value(name: str, shape: Any = None, kind: int = onnx.TensorProto.FLOAT) -> Any:
            return helper.make_tensor_value_info(name, kind, shape)

        inputs = [value("data", ("N", 3, *SIZE)), *(value(t.name, t.dims, t.data_type) for t in self.tensors)]
        made = []
        for outputs in ([output], [output, *pyramid.values()]):
            graph = helper.make_graph(self.nodes, network, inputs, list(map(value, outputs)), self.tensors)
            made.append(helper.make_model(graph, ir_version=3, opset_imports=[helper.make_opsetid("", 7)]))
        session = ort.InferenceSession(made[1].SerializeToString(), providers=["CPUExecutionProvider"])
        logits, *maps = session.run(None, {"data": NCHW})
        write(network, logits, {s: each.transpose(0, 2, 3, 1) for s, each in zip(pyramid, maps, strict=True)})
        (FOLDER / f"{network}.by_hand.onnx").write_bytes(made[0].SerializeToString())


def zoo_v1() -> None:
    """resnet50-v1: strides in the first 1x1 convolutions, which have biases."""
    zoo = Zoo()
    net = zoo.relu(zoo.norm(zoo.conv("data", "conv0", 3, 8, 7, 2), "batchnorm0", 8), "relu0")
    net, depth_in, pyramid = zoo.pool(net, "pool0"), 8, {}
    for stage, depth in enumerate((16, 24, 32), start=1):
        for unit in range(2):
            name, stride, bottleneck = f"stage{stage}_{unit}", 2 if stage > 1 and not unit else 1, depth // 4
            path = zoo.norm(
                zoo.conv(net, f"{name}_conv0", depth_in, bottleneck, 1, stride, bias=True), f"{name}_bn0", bottleneck
            )
            path = zoo.conv(zoo.relu(path, f"{name}_relu0"), f"{name}_conv1", bottleneck, bottleneck, 3, 1)
            path = zoo.relu(zoo.norm(path, f"{name}_bn1", bottleneck), f"{name}_relu1")
            path = zoo.norm(zoo.conv(path, f"{name}_conv2", bottleneck, depth, 1, 1, bias=True), f"{name}_bn2", depth)
            if not unit:
                net = zoo.norm(zoo.conv(net, f"{name}_conv3", depth_in, depth, 1, stride), f"{name}_bn3", depth)
            net, depth_in = zoo.relu(zoo.add("Add", f"{name}_plus0", path, net), f"{name}_activation0"), depth
        pyramid[2 << stage] = net
    net = zoo.add("Flatten", "flatten0", zoo.add("GlobalAveragePool", "pool1_fwd", net))
    net = zoo.add(
        "Gemm",
        "dense0_fwd",
        net,
        zoo.weight("dense0_weight", 5, depth_in),
        zoo.weight("dense0_bias", 5),
        transB=1,
        alpha=1.0,
        beta=1.0,
    )
    zoo.save("zoo_v1", net, pyramid)


def zoo_v2() -> None:
    """resnet50-v2: a norm on the images, and one with ReLU before each unit, which also the projections read."""
    zoo = Zoo()
    net = zoo.norm("data", "batchnorm0", 3)
    net = zoo.relu(zoo.norm(zoo.conv(net, "conv0", 3, 8, 7, 2), "batchnorm1", 8), "relu0")
    net, depth_in, pyramid = zoo.pool(net, "pool0"), 8, {}
    for stage, depth in enumerate((16, 24, 32), start=1):
        for unit in range(2):
            name, stride, bottleneck = f"stage{stage}_{unit}", 2 if stage > 1 and not unit else 1, depth // 4
            pre = zoo.relu(zoo.norm(net, f"{name}_bn0", depth_in), f"{name}_activation0")
            path = zoo.norm(zoo.conv(pre, f"{name}_conv0", depth_in, bottleneck, 1, 1), f"{name}_bn1", bottleneck)
            path = zoo.conv(zoo.relu(path, f"{name}_activation1"), f"{name}_conv1", bottleneck, bottleneck, 3, stride)
            path = zoo.relu(zoo.norm(path, f"{name}_bn2", bottleneck), f"{name}_activation2")
            path = zoo.conv(path, f"{name}_conv2", bottleneck, depth, 1, 1)
            shortcut = net if unit else zoo.conv(pre, f"{name}_conv3", depth_in, depth, 1, stride)
            net, depth_in = zoo.add("Add", f"{name}_plus0", path, shortcut), depth
        pyramid[2 << stage] = net
    net = zoo.relu(zoo.norm(net, "batchnorm2", depth_in), "relu1")
    net = zoo.add("Flatten", "flatten0", zoo.add("GlobalAveragePool", "pool1_fwd", net))
    net = zoo.add(
        "Gemm",
        "dense0_fwd",
        net,
        zoo.weight("dense0_weight", 5, depth_in),
        zoo.weight("dense0_bias", 5),
        transB=1,
        alpha=1.0,
        beta=1.0,
    )
    zoo.save("zoo_v2", net, pyramid)


def caffe2() -> None:
    """resnet50-caffe2-v1: sums by Sum, the mean of the whole map by its size, a Reshape, probabilities."""
    zoo = Zoo()
    net = zoo.relu(zoo.norm(zoo.conv("data", "conv1", 3, 8, 7, 2), "res_conv1_bn", 8), "conv1_relu")
    net, depth_in, pyramid = zoo.pool(net, "pool1"), 8, {}
    for stage, depth in enumerate((16, 24), start=2):
        name, stride, bottleneck = f"res{stage}_0", stage - 1, depth // 4
        path = zoo.norm(
            zoo.conv(net, f"{name}_branch2a", depth_in, bottleneck, 1, 1), f"{name}_branch2a_bn", bottleneck
        )
        path = zoo.conv(zoo.relu(path, f"{name}_2a"), f"{name}_branch2b", bottleneck, bottleneck, 3, stride)
        path = zoo.relu(zoo.norm(path, f"{name}_branch2b_bn", bottleneck), f"{name}_2b")
        path = zoo.norm(zoo.conv(path, f"{name}_branch2c", bottleneck, depth, 1, 1), f"{name}_branch2c_bn", depth)
        net = zoo.norm(zoo.conv(net, f"{name}_branch1", depth_in, depth, 1, stride), f"{name}_branch1_bn", depth)
        net, depth_in = zoo.relu(zoo.add("Sum", f"{name}_sum", path, net), f"{name}_relu"), depth
        pyramid[2 << (stage - 1)] = net
    net = zoo.add("AveragePool", "pool5", net, kernel_shape=[5, 6], strides=[1, 1], pads=[0] * 4)
    zoo.tensors.append(numpy_helper.from_array(np.array([-1, depth_in]), "shape"))
    net = zoo.add("Reshape", "flat", net, "shape")
    net = zoo.add("Gemm", "pred", net, zoo.weight("pred_w", 5, depth_in), zoo.weight("pred_b", 5), transB=1)
    zoo.save("zoo_caffe2", zoo.add("Softmax", "softmax", net), pyramid)


def zoo_networks() -> None:
    zoo_v1()
    zoo_v2()
    caffe2()


GROUPS = {"torch": torch_networks, "keras": keras_networks, "tensorflow": tensorflow_networks, "zoo": zoo_networks}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / "images.npz", images=IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs: of exporters that are older, and of functions within
        for group in sys.argv[1:] or GROUPS:
            GROUPS[group]()
