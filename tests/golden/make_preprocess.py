"""Write preprocess.npz: what TensorFlow itself makes of test pictures, so that the tests need no TensorFlow.

Run in an environment with tensorflow-cpu: `python tests/golden/make_preprocess.py`. The slim functions are written here
with the TensorFlow operations that slim calls, in its order (tensorflow/models: inception_preprocessing 417e1f5,
vgg_preprocessing d318246). Of a large result the SHA-256 of its float32 bytes is kept, and a sparse grid that shows
where a difference lies.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("preprocess.npz")
STEP = 19  # of the sparse grid

# (height, width, channels) -> (height, width)
RESIZES = [
    ((1, 1, 3), (5, 7)),
    ((1, 9, 3), (4, 4)),
    ((9, 1, 1), (3, 5)),
    ((2, 3, 4), (7, 5)),
    ((16, 12, 1), (28, 28)),
    ((20, 20, 3), (20, 20)),
    ((37, 53, 3), (20, 11)),
    ((37, 53, 3), (299, 299)),
    ((256, 300, 3), (256, 100)),
    ((300, 299, 3), (299, 299)),
    ((500, 375, 3), (341, 256)),
    ((1000, 7, 3), (3, 1000)),
]
CROPS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 37, 53, 224, 299, 375, 500, 1023, 4000]
FRACTIONS = [0.5, 0.7, 0.875, 0.9, 1.0]
PICTURES = [
    (1, 1),
    (1, 40),
    (37, 53),
    (224, 224),
    (256, 256),
    (299, 299),
    (333, 500),
    (375, 500),
    (500, 375),
    (601, 417),
]

ROUNDING = (405, 384)  # at a shorter side of 320 the longer one is 337.5, which float32 arithmetic does not quite see


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture of uint8 with flat, smooth and noisy parts, from whole numbers only: the same everywhere."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    noise = (y * 1009 + x * 9176 + c * 331) * 40503 >> 7
    return np.where((y // 16 + x // 16) % 2, noise, y * 3 + x * 2 + c * 60).astype(np.uint8)


def digest(array: np.ndarray) -> str:
    assert array.dtype == np.float32
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def sparse(array: np.ndarray) -> np.ndarray:
    return array[::STEP, ::STEP]


def key(*parts: object) -> str:
    return "_".join(str(part).replace(" ", "").strip("()") for part in parts)


def main() -> None:
    import tensorflow as tf

    resize = tf.compat.v1.image.resize_bilinear
    out: dict[str, np.ndarray] = {
        "versions": np.array([f"tensorflow {tf.__version__}", f"numpy {np.__version__}"]),
    }

    def keep(name: str, array: np.ndarray) -> None:
        out[f"{name}_sha256"] = np.array(digest(array))
        out[name] = sparse(array)

    def inception(image: np.ndarray, size: int) -> np.ndarray:
        x = tf.image.convert_image_dtype(image, tf.float32)
        x = tf.image.central_crop(x, 0.875)
        x = resize(x[None], [size, size], align_corners=False)[0]
        return tf.multiply(tf.subtract(x, 0.5), 2.0).numpy()

    def vgg(image: np.ndarray, size: int) -> np.ndarray:
        height, width = (tf.cast(side, tf.float32) for side in image.shape[:2])
        scale = size / 0.875 / (width if height > width else height)
        resized = [tf.cast(tf.math.rint(side * scale), tf.int32) for side in (height, width)]
        x = resize(image[None], resized, align_corners=False)[0]
        top, left = (tf.cast((side - size) / 2, tf.int32) for side in resized)
        x = tf.slice(x, [top, left, 0], [size, size, 3])
        channels = tf.split(x, 3, axis=2)
        return tf.concat([c - mean for c, mean in zip(channels, (123.68, 116.78, 103.94), strict=True)], 2).numpy()

    for shape, size in RESIZES:
        keep(key("resize_u8", shape, size), resize(picture(*shape)[None], size).numpy()[0])
        unit = tf.image.convert_image_dtype(picture(*shape), tf.float32)
        keep(key("resize_f32", shape, size), resize(unit[None], size).numpy()[0])
    for fraction in FRACTIONS:
        bounds = []
        for side in CROPS:
            kept = tf.image.central_crop(tf.range(side, dtype=tf.float32)[:, None, None], fraction)[:, 0, 0].numpy()
            bounds.append((int(kept[0]), len(kept)))
        out[key("crop", fraction)] = np.array(bounds)
    for height, width in PICTURES:
        keep(key("inception", height, width), inception(picture(height, width), 299))
        keep(key("vgg", height, width), vgg(picture(height, width), 224))
    keep(key("vgg", *ROUNDING, 280), vgg(picture(*ROUNDING), 280))
    np.savez_compressed(FILE, **out)


if __name__ == "__main__":
    main()
