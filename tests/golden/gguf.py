"""Reads a GGUF v2/v3 file and dequantises its tensors with numpy: plain, slow and written apart from the C++ reader, so that one can
catch the other's mistakes. It trusts the file; the C++ reader is the one that does not.

    model = Gguf("model.gguf")
    model.metadata["llama.block_count"]
    model.tensor("blk.0.attn_q.weight")      # float32 [rows, columns]
"""
import mmap
import struct

import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class Gguf:
    def __init__(self, path):
        with open(path, "rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0
        magic, version, tensors, keys = self._unpack("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path}: not a GGUF v2 or v3 file")
        self.metadata = {}
        for _ in range(keys):
            key = self._string()
            self.metadata[key] = self._value(*self._unpack("<I"))
        self._tensors = {}
        for _ in range(tensors):
            name = self._string()
            (dimensions,) = self._unpack("<I")
            shape = self._unpack(f"<{dimensions}Q")  # shape[0] is the row length
            self._tensors[name] = (shape, *self._unpack("<IQ"))
        alignment = self.metadata.get("general.alignment", 32)
        self._data = (self._at + alignment - 1) // alignment * alignment

    def names(self):
        return list(self._tensors)

    def tensor(self, name):
        """The tensor as float32, rows first; None if the file has none of that name."""
        if name not in self._tensors:
            return None
        shape, kind, offset = self._tensors[name]
        elements, size, decode = FORMATS[kind]
        count = int(np.prod(shape)) // elements
        raw = np.frombuffer(self._bytes, np.uint8, count * size, self._data + offset).reshape(count, size)
        return np.ascontiguousarray(decode(raw), np.float32).reshape(shape[::-1])

    def _unpack(self, layout):
        values = struct.unpack_from(layout, self._bytes, self._at)
        self._at += struct.calcsize(layout)
        return values

    def _string(self):
        (length,) = self._unpack("<Q")
        (text,) = self._unpack(f"{length}s")
        return text.decode("utf-8", "replace")

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            inner, count = self._unpack("<IQ")
            return [self._value(inner) for _ in range(count)]
        return self._unpack("<" + SCALARS[kind])[0]


# Decoders: blocks of bytes [n, block_bytes] -> float32 [n, block_elements].


def _half(blocks, at):
    return blocks[:, at:at + 2].copy().view(np.float16).astype(np.float32)  # [n, 1]


def _nibbles(packed):
    """Low nibbles are the first half of the block, high nibbles the second."""
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)


def _fifth_bits(blocks, at):
    """Bit j of a little-endian 32-bit word is worth 16 in element j."""
    return 16.0 * np.unpackbits(blocks[:, at:at + 4], axis=1, bitorder="little").astype(np.float32)


def _f32(blocks):
    return blocks.copy().view(np.float32)


def _f16(blocks):
    return blocks.copy().view(np.float16).astype(np.float32)


def _bf16(blocks):
    return (blocks.copy().view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks):
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:18]) - 8)


def _q4_1(blocks):
    return _half(blocks, 0) * _nibbles(blocks[:, 4:20]) + _half(blocks, 2)


def _q5_0(blocks):
    return _half(blocks, 0) * (_nibbles(blocks[:, 6:22]) + _fifth_bits(blocks, 2) - 16)


def _q5_1(blocks):
    return _half(blocks, 0) * (_nibbles(blocks[:, 8:24]) + _fifth_bits(blocks, 4)) + _half(blocks, 2)


def _q8_0(blocks):
    return _half(blocks, 0) * blocks[:, 2:34].view(np.int8).astype(np.float32)


def _k_scales(packed):
    """Eight 6-bit scales and eight 6-bit mins in 12 bytes: the first four whole, the last four split into 4 + 2 bits."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    mins = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=1)
    return scales.astype(np.float32), mins.astype(np.float32)  # [n, 8] each


def _k_affine(blocks, quants):
    """quants [n, 8, 32] with the super-block's two f16 factors and packed scales at the front."""
    scales, mins = _k_scales(blocks[:, 4:16])
    values = (_half(blocks, 0) * scales)[:, :, None] * quants - (_half(blocks, 2) * mins)[:, :, None]
    return values.reshape(len(blocks), 256)


def _q4_k(blocks):
    packed = blocks[:, 16:144].reshape(-1, 4, 32)  # each 32 bytes: 32 low nibbles, then 32 high ones
    quants = np.stack([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)
    return _k_affine(blocks, quants.astype(np.float32))


def _q5_k(blocks):
    high = blocks[:, 16:48]
    packed = blocks[:, 48:176].reshape(-1, 4, 32)
    quants = np.stack([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)
    fifth = np.stack([high >> bit & 1 for bit in range(8)], axis=1)  # [n, 8, 32]
    return _k_affine(blocks, (quants + 16 * fifth).astype(np.float32))


def _q6_k(blocks):
    low, high = blocks[:, 0:128].reshape(-1, 2, 64), blocks[:, 128:192].reshape(-1, 2, 32)
    quants = np.concatenate([
        (low[:, :, 0:32] & 15) | (high & 3) << 4,
        (low[:, :, 32:64] & 15) | (high >> 2 & 3) << 4,
        (low[:, :, 0:32] >> 4) | (high >> 4 & 3) << 4,
        (low[:, :, 32:64] >> 4) | (high >> 6) << 4,
    ], axis=2).reshape(-1, 16, 16).astype(np.float32) - 32
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return ((_half(blocks, 208) * scales)[:, :, None] * quants).reshape(-1, 256)


# GGML's type number -> (elements of a block, its bytes, decoder).
FORMATS = {
    0: (1, 4, _f32),
    1: (1, 2, _f16),
    2: (32, 18, _q4_0),
    3: (32, 20, _q4_1),
    6: (32, 22, _q5_0),
    7: (32, 24, _q5_1),
    8: (32, 34, _q8_0),
    12: (256, 144, _q4_k),
    13: (256, 176, _q5_k),
    14: (256, 210, _q6_k),
    30: (1, 2, _bf16),
}
