"""The shortest way from an .onnx file of a slim resnet_v2 to the label of one photograph, with onnxruntime.

    python first_answer_onnxruntime.py MODEL.onnx LABELS.txt IMAGE

Written to be quick: nothing is imported that is not needed, Pillow crops and resizes in one step.
"""

import sys

import numpy as np
import onnxruntime as ort
from PIL import Image

SIDE, CROP = 299, 0.875  # slim's inception preprocessing: the central part, resized, in [-1, 1]

model, labels, photograph = sys.argv[1:]
image = Image.open(photograph).convert("RGB")
left, top = (int((side - side * CROP) / 2) for side in image.size)
x_step, y_step = (image.width - 2 * left) / SIDE, (image.height - 2 * top) / SIDE
# TensorFlow's bilinear samples at left + x * step; Pillow at (x + 0.5) * step + offset - 0.5
affine = (x_step, 0, left + 0.5 - x_step / 2, 0, y_step, top + 0.5 - y_step / 2)
image = image.transform((SIDE, SIDE), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1

session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
(logits,) = session.run(["logits"], {"images": pixels})
with open(labels, encoding="utf-8") as file:
    print(file.read().splitlines()[int(logits[0].argmax())])
