"""Hostile files by their names: each is refused with its reason, and nothing of it is run, followed or written.

A file for each format; a row says what the error must say and how the bytes are made.
"""

from hostile.archives import TAR
from hostile.keras_files import HDF5, KERAS
from hostile.npz_files import NPZ
from hostile.onnx_files import ONNX
from hostile.rows import Hostile
from hostile.safetensors_files import OWN, SAFETENSORS
from hostile.tensorflow_files import TENSORFLOW
from hostile.torch_files import TORCH

TABLE: dict[str, Hostile] = TORCH | TAR | TENSORFLOW | SAFETENSORS | OWN | HDF5 | KERAS | NPZ | ONNX
