"""Write the golden PyTorch files: what torch itself saves, in its three containers, and the values as NumPy has them.

    python tests/golden/make_torch_files.py        # torch 2.13.0

torch no longer writes the tar container. That one is put together here from torch's description of it, its loader
(torch/serialization.py, `legacy_load`), and read back by that loader before it is kept.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import pathlib
import pickle
import platform
import shutil
import struct
import tarfile

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent / "torch"
VALUES: dict[str, np.ndarray] = {}
NUMPY = [torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
NUMPY += [torch.bool, torch.uint16, torch.uint32, torch.uint64]


def save(name: str, value: object, weights: dict[str, torch.Tensor] | None = None, **options) -> None:
    """Save a value, and the arrays of the weights that are to be found in it."""
    torch.save(value, HERE / f"{name}.pth", **options)
    keep(name, weights or {})


def keep(name: str, weights: dict[str, torch.Tensor]) -> None:
    for key, tensor in weights.items():
        array = tensor.detach().clone().contiguous()
        VALUES[f"{name}|{key}"] = (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def network() -> torch.nn.Module:
    """A convolution, a batch norm with statistics, and a classifier, after one step of training."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    )


def dtypes() -> dict[str, torch.Tensor]:
    """One matrix of every dtype that is read, and shapes in need of care."""
    torch.manual_seed(1)
    found = {}
    for dtype in [*NUMPY, torch.bfloat16]:
        values = torch.randn(2, 3) * 100
        found[str(dtype)] = (values.abs() if "uint" in str(dtype) else values).to(dtype)
    found |= {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3), "nothing": torch.zeros(2, 0, 3)}
    return found


def layouts() -> dict[str, torch.Tensor]:
    """Tensors that share storages, and strides that are not those of a new tensor."""
    base = torch.arange(24.0)
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    return {
        "whole": base,
        "tail": base[20:],
        "matrix": base.view(4, 6),
        "transposed": base.view(4, 6).t(),
        "columns": base.view(4, 6)[:, 1:5:2],
        "row": base.view(4, 6)[2],
        "repeated": base[3:4].expand(5),
        "window": base.unfold(0, 3, 1),
        "channels last": images,
        "permuted": torch.arange(60, dtype=torch.int16).view(3, 4, 5).permute(2, 0, 1),
        "one column": torch.arange(12).view(4, 3)[:, :1],
        "flags": torch.tensor([[True, False], [False, False]]).t(),
    }


def unread() -> dict[str, torch.Tensor]:
    """Tensors that have no like in NumPy, beside one that has."""
    return {
        "weight": torch.ones(2),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "per channel": torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.qint8),
        "sparse": torch.eye(2).to_sparse(),
        "rows": torch.eye(2).to_sparse_csr(),
        "complex": torch.ones(2, dtype=torch.complex64),
        "conjugated": torch.ones(2, dtype=torch.complex64).conj(),
        "negated": torch.ones(2, dtype=torch.complex64).conj().imag,
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "meta": torch.ones(2, device="meta"),
    }


def training(net: torch.nn.Module) -> dict[str, object]:
    """What scripts keep to go on with, as far as it is data."""
    optimizer = torch.optim.Adam(net.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60])
    net(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    scheduler.step()
    average = {name: value * 0 for name, value in net.state_dict().items()}
    return {
        "epoch": 7,
        "arch": "resnet50",
        "best_acc1": torch.tensor(76.1),
        "args": argparse.Namespace(
            lr=0.1,
            device=torch.device("cpu"),
            sizes={1, 2},
            raw=b"\xff\0",
        ),
        "input": torch.Size([3, 4, 4]),
        "history": [(1, 0.5), (2, float("nan")), (1 << 80, None)],
        "best": np.float64(76.1),
        "curve": np.arange(3),
        "seeds": collections.defaultdict(list, a=[1]),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "state_dict_ema": average,
        "state_dict": net.state_dict(),
    }


def save_tar(name: str, weights: dict[str, torch.Tensor]) -> None:
    """Write the container that torch 0.1 wrote; a storage that is part of another is a view of it."""
    tensors, storages, views = io.BytesIO(), io.BytesIO(), []
    roots: dict[int, torch.UntypedStorage] = {}
    pickle.dump(len(weights), tensors, 2)
    for i, tensor in enumerate(weights.values()):
        storage = tensor.untyped_storage()
        key = storage._cdata
        roots[key] = storage
        if i == 0:  # one of them through a view, with its own offset counted from there
            views.append((7, key, 2, len(storage) // tensor.element_size() - 2))
        pickle.dump((1000 + i, 7 if i == 0 else key, getattr(torch, tensor.type().split(".")[1])), tensors, 2)
        offset = tensor.storage_offset() - (2 if i == 0 else 0)
        tensors.write(struct.pack("<ii", tensor.dim(), 12345))
        tensors.write(struct.pack(f"<{2 * tensor.dim() + 1}q", *tensor.shape, *tensor.stride(), offset))
    kinds = {tensor.untyped_storage()._cdata: tensor for tensor in weights.values()}
    pickle.dump(len(roots), storages, 2)
    for key, storage in roots.items():
        kind = getattr(torch, kinds[key].type().split(".")[1].replace("Tensor", "Storage"))
        pickle.dump((key, "cpu", kind), storages, 2)
        storages.write(struct.pack("<q", len(storage) // kinds[key].element_size()) + bytes(storage))
    pickle.dump(views, storages, 2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> str | None:
            return str(1000 + list(weights).index(value.name)) if isinstance(value, Named) else None

    body = io.BytesIO()
    Pickler(body, 2).dump(collections.OrderedDict((name, Named(name)) for name in weights))
    info = pickle.dumps({"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2}}, 2)
    with tarfile.open(HERE / f"{name}.pth", "w", format=tarfile.PAX_FORMAT) as archive:
        members = {"sys_info": info, "pickle": body.getvalue(), "tensors": tensors.getvalue()}
        for member, data in (members | {"storages": storages.getvalue()}).items():
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    again = torch.load(HERE / f"{name}.pth", weights_only=False)
    assert list(again) == list(weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    keep(name, weights)


class Named:
    """Stands for a tensor while it is pickled as an id."""

    def __init__(self, name: str) -> None:
        self.name = name


if __name__ == "__main__":
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    net = network()
    for suffix, options in {"": {}, "_stream": {"_use_new_zipfile_serialization": False}}.items():
        save(f"network{suffix}", net.state_dict(), net.state_dict(), **options)
        save(f"parameters{suffix}", dict(net.named_parameters()), dict(net.named_parameters()), **options)
        save(f"dtypes{suffix}", dtypes(), dtypes(), **options)
        tensors = layouts()
        save(f"layouts{suffix}", tensors, tensors, **options)
        everything = training(net)
        save(f"training{suffix}", everything, net.state_dict(), **options)
    save("unread", unread(), {"weight": torch.ones(2)})
    save("protocol_5", {"model": net.state_dict()}, net.state_dict(), pickle_protocol=5)
    save(
        "protocol_4_stream",
        {"model": net.state_dict()},
        net.state_dict(),
        pickle_protocol=4,
        _use_new_zipfile_serialization=False,
    )
    tagged = torch.nn.Parameter(torch.arange(3.0))
    tagged.note = "an attribute"
    save("attributes", {"w": tagged}, {"w": tagged})
    torch.serialization.set_crc32_options(False)
    save("no_checksums", net.state_dict(), net.state_dict())
    torch.serialization.set_crc32_options(True)
    torch.jit.script(torch.nn.ReLU()).save(str(HERE / "script.pt"))
    torch.save(torch.nn.ReLU(), HERE / "module.pth")
    old = {name: tensor for name, tensor in layouts().items() if name not in ("whole", "window")}
    save_tar("tar", {"tail": old.pop("tail"), **old})
    np.savez_compressed(HERE / "values.npz", **VALUES)
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
