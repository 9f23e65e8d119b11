"""Files that are no checkpoint of ours, named for what they are."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """What a file is, and what helps."""

    what: str
    help: str


_DOWNLOAD = "download the file itself; a browser shows which page this is"
_CONVERT = "pass a TensorFlow, PyTorch, Keras, .safetensors or .npz file"
_UNPACK = "unpack it and pass the folder"

_MAGIC: list[tuple[int, bytes, Kind]] = [
    (0, b"version https://git-lfs.github.com/spec/", Kind("a Git LFS pointer, not the file", "run `git lfs pull`")),
    (0, b"PK\x03\x04", Kind("a zip file, but of no format that is known here", _CONVERT)),
    (0, b"\x93NUMPY", Kind("a NumPy array", _CONVERT)),
    (0, b"\x80\x02", Kind("a Python pickle, but no PyTorch file; it can run code and is never opened", _CONVERT)),
    (0, b"\x80\x03", Kind("a Python pickle, but no PyTorch file; it can run code and is never opened", _CONVERT)),
    (0, b"\x80\x04", Kind("a Python pickle, but no PyTorch file; it can run code and is never opened", _CONVERT)),
    (0, b"\x80\x05", Kind("a Python pickle, but no PyTorch file; it can run code and is never opened", _CONVERT)),
    (0, b"GGUF", Kind("a GGUF file", _CONVERT)),
    (4, b"TFL3", Kind("a TensorFlow Lite model", _CONVERT)),
    (0, b"BZh", Kind("a bzip2 file", _UNPACK)),
    (0, b"\xfd7zXZ\0", Kind("an xz file", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("a zstd file", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z file", _UNPACK)),
    (0, b"\xff\xd8\xff", Kind("a JPEG picture", "pass the checkpoint first, pictures after it")),
    (0, b"\x89PNG\r\n", Kind("a PNG picture", "pass the checkpoint first, pictures after it")),
]


def describe(head: bytes) -> Kind | None:
    """Name a file from its first bytes, or None.

    >>> describe(b"<!DOCTYPE html><html>").what
    'a web page'
    """
    for offset, magic, kind in _MAGIC:
        if head[offset:].startswith(magic):
            return kind
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return Kind("a web page", _DOWNLOAD)
    if start.startswith((b"<?xml", b"<")):
        return Kind("an XML file, as stores answer when a download is refused", _DOWNLOAD)
    if start.startswith((b"{", b"[")):
        return Kind("a JSON file", _CONVERT)
    if head[:1] == b"\x08" and head[2:3] == b"\x12":  # SavedModel: its version, then a graph; ModelProto: a producer
        return Kind("a TensorFlow SavedModel, or an ONNX file cut short", _CONVERT)
    if head and not any(head):
        return Kind("a file of zeros, as a download that was broken off leaves", "download it again")
    return None
