"""ResNet inference without TensorFlow, Keras or PyTorch."""

from .network import NETWORKS, Block, Network, bottleneck, resnet_v1, resnet_v2, with_output_stride

__all__ = ["NETWORKS", "Block", "Network", "bottleneck", "resnet_v1", "resnet_v2", "with_output_stride"]
