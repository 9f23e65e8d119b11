"""Mutated checkpoints for every reader: a file for each format's mutations, one table of them, and what runs them."""

from fuzzing import archives, hdf5_files, npz_files, onnx_files, safetensors_files, tables, torch_files
from fuzzing.seeds import Format

FORMATS: dict[str, Format] = {
    "v1": tables.V1,
    "v2": tables.V2,
    "tar": archives.TAR,
    "safetensors": safetensors_files.SAFETENSORS,
    "own": safetensors_files.OWN,
    "timm": safetensors_files.TIMM_CONFIG,
    "torch_zip": torch_files.ZIP,
    "torch_stream": torch_files.STREAM,
    "torch_tar": torch_files.TAR,
    "h5": hdf5_files.HDF5,
    "keras": hdf5_files.KERAS,
    "npz": npz_files.NPZ,
    "onnx": onnx_files.ONNX,
}
