# mypy: disable-error-code="import-not-found"
"""Train the built-in model `fashion` on Fashion-MNIST. PyTorch is needed here and nowhere else.

    python tools/train_fashion.py --out src/resforward/builtin/fashion.safetensors

The table is the package's own, `NETWORKS["fashion"]`, and every tensor has slim's name from the first step on, so
there is nothing to convert at the end. The schedule is a table too: the first epochs see the pictures at 20 x 20
pixels, which costs half as much, the rest see them as they are. A run that was stopped goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F  # noqa: N812
from safetensors.numpy import save

from resforward.labels import FASHION_10
from resforward.network import Conv, Network
from resforward.published import NETWORKS

MEAN, STD = 0.2860, 0.3530  # of the 60,000 training pictures, after / 255


class Phase(NamedTuple):
    """Some epochs of training: pictures of `pixels` a side, `batch` of them to a worker, a rate that changes evenly."""

    epochs: int
    pixels: int
    batch: int
    rate_from: float
    rate_to: float


SCHEDULE = (
    Phase(epochs=1, pixels=20, batch=128, rate_from=0.0, rate_to=0.15),
    Phase(epochs=3, pixels=20, batch=128, rate_from=0.15, rate_to=0.15),
    Phase(epochs=2, pixels=20, batch=64, rate_from=0.1, rate_to=0.1),
    Phase(epochs=3, pixels=28, batch=64, rate_from=0.1, rate_to=0.0),
    Phase(epochs=9, pixels=28, batch=64, rate_from=0.1, rate_to=0.0),
)
WORKERS = 2  # processes of one thread each, which share the pictures and average their weights now and then
AVERAGE_EVERY = 39  # steps
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4  # of convolutions; biases and batch norms have none
LABEL_SMOOTHING = 0.1
ERASE = 0.25  # the share of training pictures that lose a square of 2/7 of their width


class Pictures(NamedTuple):
    """Grey pictures (N, height, width) uint8 and their classes (N,) int64."""

    pixels: torch.Tensor
    classes: torch.Tensor


def read_pictures(folder: Path, part: str) -> Pictures:
    """Read one part of Fashion-MNIST.

    >>> read_pictures(Path("/usr/share/datasets/fashion-mnist"), "t10k").pixels.shape
    torch.Size([10000, 28, 28])

    Args:
        folder: where the four idx .gz files are.
        part: "train" (60,000) or "t10k" (10,000).
    """
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    classes = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return Pictures(
        torch.from_numpy(np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28).copy()),
        torch.from_numpy(np.frombuffer(classes, np.uint8, offset=8).astype(np.int64)),
    )


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Scale pictures (N, height, width) uint8 to `size` x `size`, smoothly.

    >>> resize(torch.zeros(3, 28, 28, dtype=torch.uint8), 20).shape
    torch.Size([3, 20, 20])
    """
    scaled = F.interpolate(pixels[:, None].float(), size=(size, size), mode="bilinear", antialias=True)
    return scaled[:, 0].round().clamp(0, 255).byte()


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Turn pictures (N, height, width) uint8 into network input (N, 1, height, width) float32.

    >>> normalise(torch.zeros(1, 28, 28, dtype=torch.uint8)).shape
    torch.Size([1, 1, 28, 28])
    """
    return ((pixels.float() / 255 - MEAN) / STD)[:, None]


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the pictures, shift each by up to 2 pixels, and black out a square in some.

    >>> augment(torch.zeros(3, 28, 28, dtype=torch.uint8), torch.Generator()).shape
    torch.Size([3, 28, 28])

    Args:
        pixels: (N, size, size) uint8.
        generator: where every choice comes from.
    """
    count, size, _ = pixels.shape
    mirrored = torch.rand(count, generator=generator) < 0.5
    pixels = torch.where(mirrored[:, None, None], pixels.flip(2), pixels)

    windows = F.pad(pixels, (2, 2, 2, 2)).unfold(1, size, 1).unfold(2, size, 1)  # (N, 5, 5, size, size), a view
    down, right = torch.randint(0, 5, (2, count), generator=generator)
    pixels = windows[torch.arange(count), down, right]

    side = 2 * size // 7
    top, left = torch.randint(1 - side, size, (2, count, 1), generator=generator)
    erased = torch.rand(count, generator=generator) < ERASE
    rows, columns = ((torch.arange(size) - start) for start in (top, left))  # (N, size) each
    inside_rows, inside_columns = ((d >= 0) & (d < side) for d in (rows, columns))
    hole = inside_rows[:, :, None] & inside_columns[:, None, :] & erased[:, None, None]
    return pixels.masked_fill(hole, 0)


def initial_weights(network: Network, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw He-normal kernels, plain batch norms and zero biases under slim's names; kernels are (out, in, h, w) here.

    >>> initial_weights(NETWORKS["fashion"], torch.Generator())["logits/biases"].shape
    torch.Size([10])

    Args:
        network: the table.
        generator: where the kernels come from.
    """
    weights = {}
    for name, shape in network.variables.items():
        if name.endswith("weights"):
            height, width, depth_in, depth = shape
            kernel = torch.randn(depth, depth_in, height, width, generator=generator)
            weights[name] = (kernel * math.sqrt(2 / (height * width * depth_in))).to(memory_format=torch.channels_last)
        else:
            weights[name] = torch.ones(shape) if name.endswith(("gamma", "moving_variance")) else torch.zeros(shape)
    return weights


def forward(
    network: Network, weights: dict[str, torch.Tensor], images: torch.Tensor, training: bool = False
) -> torch.Tensor:
    """Return logits (N, classes) of images (N, channels, height, width).

    >>> network = NETWORKS["fashion"]
    >>> forward(network, initial_weights(network, torch.Generator()), torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])

    Args:
        network: a pre-activation network whose root block has no pool.
        weights: under slim's names, kernels (out, in, h, w); training moves the moving averages in place.
        images: normalised.
        training: use the batch's own mean and variance.
    """

    def norm_relu(name: str, x: torch.Tensor) -> torch.Tensor:
        gamma, beta, mean, variance = (
            weights[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return F.relu(F.batch_norm(x, mean, variance, gamma, beta, training, 0.1, network.epsilon), inplace=True)

    def convolve(conv: Conv, x: torch.Tensor) -> torch.Tensor:
        bias = weights.get(f"{conv.name}/biases")
        y = F.conv2d(x, weights[f"{conv.name}/weights"], bias, conv.stride, conv.kernel // 2)
        return norm_relu(f"{conv.name}/BatchNorm", y) if conv.norm else y

    x = images
    for conv in network.stem_convs:
        x = convolve(conv, x)
    for unit in network.units:
        residual = preact = norm_relu(f"{unit.name}/preact", x)
        if unit.projection:
            shortcut = convolve(unit.projection, preact)
        else:
            shortcut = F.max_pool2d(x, 1, unit.stride) if unit.stride > 1 else x  # slim's subsample
        for conv in unit.convs:
            residual = convolve(conv, residual)
        x = shortcut + residual
    pooled = norm_relu("postnorm", x).mean((2, 3), keepdim=True)
    assert network.logits
    return convolve(network.logits, pooled)[:, :, 0, 0]


def predict(network: Network, weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """Return the likeliest class (N,) of pictures (N, height, width) uint8: one plain forward pass each.

    >>> network = NETWORKS["fashion"]
    >>> predict(network, initial_weights(network, torch.Generator()), torch.zeros(3, 28, 28, dtype=torch.uint8)).shape
    torch.Size([3])
    """
    with torch.inference_mode():
        return torch.cat([forward(network, weights, normalise(batch)).argmax(1) for batch in pixels.split(500)])


def report(predicted: torch.Tensor, classes: torch.Tensor) -> str:
    """Say in text how often each class was recognised, and what it was most often taken for.

    >>> print(report(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])).splitlines()[0])
    top-1 0.6667 on 3 pictures

    Args:
        predicted, classes: (N,) int64.
    """
    lines = [f"top-1 {(predicted == classes).double().mean().item():.4f} on {len(classes)} pictures"]
    for index, name in enumerate(FASHION_10):
        taken_for = torch.bincount(predicted[classes == index], minlength=len(FASHION_10))
        right, total = int(taken_for[index]), int(taken_for.sum())
        taken_for[index] = 0
        others = ", ".join(f"{FASHION_10[i]} {int(taken_for[i])}" for i in taken_for.argsort(descending=True)[:2])
        lines.append(f"{name:12} {right}/{total}  taken for {others}")
    return "\n".join(lines)


def phase_of(epoch: int) -> tuple[Phase, int]:
    """Return the phase that an epoch is in, and how many of the phase's epochs came before it.

    >>> phase_of(0)[0].pixels
    20
    """
    for phase in SCHEDULE:
        if epoch < phase.epochs:
            return phase, epoch
        epoch -= phase.epochs
    raise IndexError("the schedule is over")


def average(tensors: list[torch.Tensor]) -> None:
    """Set each tensor to its mean over the workers.

    >>> average([weights["logits/biases"]])  # doctest: +SKIP
    """
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= WORKERS


def train(worker: int, network: Network, pictures: Pictures, epochs: int, seed: int, folder: Path) -> None:
    """Be one worker of a training run, and go on from the checkpoint in `folder` if it is there.

    >>> arguments = (NETWORKS["fashion"], read_pictures(Path("data"), "train"), 18, 0, Path("run"))  # doctest: +SKIP
    >>> torch.multiprocessing.spawn(train, arguments, WORKERS)  # doctest: +SKIP

    Args:
        worker: 0 writes the checkpoint, `fashion.checkpoint`, after each epoch.
        network: the table.
        pictures: to train on.
        epochs: to stop after.
        seed: of the first weights, the order and the augmentation.
        folder: for the checkpoint.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=worker, world_size=WORKERS)
    checkpoint = folder / "fashion.checkpoint"
    weights = initial_weights(network, torch.Generator().manual_seed(seed))
    learned = {name: w.requires_grad_() for name, w in weights.items() if "moving_" not in name}
    kernels = [w for name, w in learned.items() if name.endswith("weights")]
    others = [w for name, w in learned.items() if not name.endswith("weights")]
    optimiser = torch.optim.SGD(
        [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others}],
        momentum=MOMENTUM,
        nesterov=True,
    )
    done = 0
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        done = state["epochs"]
        optimiser.load_state_dict(state["optimiser"])
        with torch.no_grad():
            for name, w in weights.items():
                w.copy_(state["weights"][name])

    sizes = {size: resize(pictures.pixels, size) for size in {phase.pixels for phase in SCHEDULE}}
    for epoch in range(done, epochs):
        started, loss_sum, right = time.monotonic(), 0.0, 0
        generator = torch.Generator().manual_seed(1000 * seed + epoch)  # the same order for every worker
        phase, before = phase_of(epoch)
        pixels, steps = sizes[phase.pixels], len(pictures.classes) // (phase.batch * WORKERS)
        order = torch.randperm(len(pixels), generator=generator)[worker::WORKERS]
        generator.manual_seed(1000 * seed + epoch + 1_000_000 * (worker + 1))  # but other crops
        for step in range(steps):
            progress = (before + (step + 1) / steps) / phase.epochs
            for group in optimiser.param_groups:
                group["lr"] = phase.rate_from + progress * (phase.rate_to - phase.rate_from)
            picked = order[step * phase.batch : (step + 1) * phase.batch]
            images, classes = normalise(augment(pixels[picked], generator)), pictures.classes[picked]
            logits = forward(network, weights, images, training=True)
            loss = F.cross_entropy(logits, classes, label_smoothing=LABEL_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss_sum += loss.item()
            right += int((logits.argmax(1) == classes).sum())
            if (step + 1) % AVERAGE_EVERY == 0 or step + 1 == steps:
                with torch.no_grad():
                    average(list(weights.values()))
                    average([state["momentum_buffer"] for state in optimiser.state.values()])
        if worker:
            continue
        print(
            f"epoch {epoch + 1}/{epochs}  {phase.pixels} pixels  loss {loss_sum / steps:.4f}  "
            f"training {right / steps / phase.batch:.4f}  {time.monotonic() - started:.0f} s",
            flush=True,
        )
        detached = {name: w.detach() for name, w in weights.items()}
        state = {"epochs": epoch + 1, "weights": detached, "optimiser": optimiser.state_dict()}
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)


def write(weights: dict[str, torch.Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write weights as safetensors, kernels HWIO; the same weights give the same bytes.

    >>> write(weights, {"network": "fashion"}, Path("fashion.safetensors"))  # doctest: +SKIP

    Args:
        weights: under slim's names, kernels (out, in, h, w).
        metadata: what the file says about itself.
        path: of the file.
    """
    arrays = {
        name: np.ascontiguousarray(w.permute(2, 3, 1, 0).numpy() if w.ndim == 4 else w.numpy())
        for name, w in weights.items()
    }
    content = save(arrays, metadata)
    # 8 bytes of length, the header in JSON, the tensors. The library leaves the order of the metadata to chance.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def main() -> None:
    """Train, measure on the test pictures once, write."""
    parser = argparse.ArgumentParser(description="Train the built-in model on Fashion-MNIST.")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"), metavar="DIR")
    parser.add_argument(
        "--epochs", type=int, default=sum(phase.epochs for phase in SCHEDULE), help="stop after this many"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hold-out", type=int, default=0, metavar="N", help="measure on the last N training pictures")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "train_fashion"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("fashion.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(WORKERS)

    network = NETWORKS["fashion"]
    pictures = read_pictures(options.data, "train")
    if options.hold_out:
        pictures, measured = (
            Pictures(*(t[s] for t in pictures)) for s in (slice(-options.hold_out), slice(-options.hold_out, None))
        )
    else:
        measured = read_pictures(options.data, "t10k")
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "meet").unlink(missing_ok=True)  # left by a run that was stopped
    torch.multiprocessing.spawn(train, (network, pictures, options.epochs, options.seed, options.work), WORKERS)
    weights = torch.load(options.work / "fashion.checkpoint", weights_only=True)["weights"]
    predicted = predict(network, weights, measured.pixels)
    print(report(predicted, measured.classes))
    top1 = (predicted == measured.classes).double().mean().item()
    recipe = f"torch {torch.__version__.split('+')[0]}, {options.epochs} epochs, seed {options.seed}"
    write(weights, {"network": "fashion", "top1": f"{top1:.4f}", "trained_with": recipe}, options.out)


if __name__ == "__main__":
    main()
