"""ResNet forward: build ResNet-152 from its table of Blocks, run it on a batch, and time it.

    python examples/resnet_forward.py                        # 32 images, 100 steps
    python examples/resnet_forward.py --batch 4 --steps 10   # for the impatient

The last line is the answer: `Forward across 100 steps, 1.720 +/- 0.020 sec / batch`, or what your machine takes.
"""

import argparse

import numpy as np

from resforward import Block, bottleneck, build, resnet_v2
from resforward.bench import time_forward_run


def resnet_v2_152(num_classes):
    """Four Blocks. A Block is a list of residual units, and a unit is (depth, depth_bottleneck, stride).

    All units of a Block have one depth. The last unit of a Block halves height and width, by its stride of 2; the
    first unit of the next one finds another depth at its input, and so its shortcut is a 1x1 convolution.
    """
    blocks = [
        Block("block1", bottleneck, [(256, 64, 1)] * 2 + [(256, 64, 2)]),
        Block("block2", bottleneck, [(512, 128, 1)] * 7 + [(512, 128, 2)]),
        Block("block3", bottleneck, [(1024, 256, 1)] * 35 + [(1024, 256, 2)]),
        Block("block4", bottleneck, [(2048, 512, 1)] * 3),
    ]
    return resnet_v2(blocks, num_classes, name="resnet_v2_152")


def main():
    parser = argparse.ArgumentParser(description="Time ResNet-152's forward pass.")
    parser.add_argument("--batch", type=int, default=32, help="images at once (default 32)")
    parser.add_argument("--steps", type=int, default=100, help="timed runs (default 100)")
    arguments = parser.parse_args()

    height, width = 224, 224
    inputs = np.random.default_rng(0).uniform(-1, 1, (arguments.batch, height, width, 3)).astype(np.float32)

    network = resnet_v2_152(num_classes=1000)
    net = build(network, seed=0)  # random weights; `load` takes a checkpoint

    # Every tensor on the way has a name. These are the ends of the four Blocks, and what comes after them.
    names = [*network.blocks, "global_pool", "predictions"]
    for name, tensor in net.forward(inputs[:1], end_points=names).items():
        print(f"{name:12}", tensor.shape)

    time_forward_run(lambda: net(inputs), "Forward", steps=arguments.steps)


if __name__ == "__main__":
    main()
