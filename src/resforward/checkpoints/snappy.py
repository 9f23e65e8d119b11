"""A small bounded decoder of Snappy's raw format (google/snappy: format_description.txt)."""

from __future__ import annotations

from resforward.checkpoints.files import File
from resforward.checkpoints.protobuf import varint


def unpack(data: memoryview, file: File, where: str) -> memoryview:
    """Decompress one block.

    >>> from resforward.checkpoints.files import Budget
    >>> data = memoryview(bytes([10, 0 << 2]) + b"a" + bytes([(9 - 1) << 2 | 2, 1, 0]))
    >>> bytes(unpack(data, File("x.ckpt", data, Budget()), "block 0"))
    b'aaaaaaaaaa'

    Raises:
        CheckpointError: the block is damaged, or would unpack to more memory than the budget.
    """
    size, at = varint(data, 0, file, where)
    file.budget.take_bytes(size, f"`{file.name}`: {where}")
    out = bytearray(size)
    done, end = 0, len(data)
    while at < end:
        file.budget.take_steps(1, f"`{file.name}`")
        tag = data[at]
        kind, number = tag & 3, tag >> 2
        # The tag, then: literal 0-4 bytes of length; copy 1, 2 or 4 bytes of offset.
        extra = (max(0, number - 59), 1, 2, 4)[kind]
        if extra > end - at - 1:
            raise file.damaged(f"{where}: Snappy data is cut off at byte {at}")
        operand = int.from_bytes(data[at + 1 : at + 1 + extra], "little")
        at += 1 + extra
        length = (operand if extra else number) + 1 if kind == 0 else 4 + (number & 7) if kind == 1 else number + 1
        if length > size - done or (kind == 0 and length > end - at):
            raise file.damaged(f"{where}: Snappy data claims {length} bytes at byte {at}, which do not fit")
        if kind == 0:
            out[done : done + length] = data[at : at + length]
            at += length
        else:
            offset = (number >> 3) << 8 | operand if kind == 1 else operand
            if not 0 < offset <= done:
                raise file.damaged(f"{where}: Snappy copies from {offset} bytes back when {done} are known")
            pattern = out[done - offset : done - offset + min(offset, length)]  # an overlapping copy repeats itself
            out[done : done + length] = (pattern * (length // len(pattern) + 1))[:length]
        done += length
    if done != size:
        raise file.damaged(f"{where}: Snappy data ends after {done} of {size} bytes")
    return memoryview(out).toreadonly()
