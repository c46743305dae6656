"""Cuts a GGUF checkpoint to its first layers, so that a real model's tensors travel in few bytes.

usage: cut_gguf.py MODEL.gguf LAYERS OUT.gguf
"""

import re
import struct
import sys

SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY, UINT32 = 8, 9, 4


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def string(self):
        return self.take(self.number("Q"))

    def skip_value(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            for _ in range(count):
                self.skip_value(inner)
        else:
            self.take(SCALARS[kind])


def main(source, layers, target):
    with open(source, "rb") as file:
        reader = Reader(file.read())
    magic, version = reader.take(4), reader.number("I")
    tensors, pairs = reader.number("Q"), reader.number("Q")
    metadata, alignment = [], 32
    for _ in range(pairs):
        begin = reader.at
        key, kind = reader.string(), reader.number("I")
        value = reader.at
        reader.skip_value(kind)
        if key.endswith(b".block_count"):
            metadata.append(reader.data[begin:value] + struct.pack("<I", layers))
            continue
        if key == b"general.alignment":
            alignment = struct.unpack("<I", reader.data[value : reader.at])[0]
        metadata.append(reader.data[begin : reader.at])
    infos = []
    for _ in range(tensors):
        name = reader.string()
        shape = [reader.number("Q") for _ in range(reader.number("I"))]
        infos.append((name, shape, reader.number("I"), reader.number("Q")))
    start = (reader.at + alignment - 1) // alignment * alignment
    ends = sorted(info[3] for info in infos) + [len(reader.data) - start]
    kept, blobs, offset = [], [], 0
    for name, shape, kind, at in infos:
        block = re.match(rb"blk\.(\d+)\.", name)
        if block and int(block[1]) >= layers:
            continue
        blob = reader.data[start + at : start + min(end for end in ends if end > at)]
        blob += b"\0" * (-len(blob) % alignment)
        kept.append(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape))
                    + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, offset))
        blobs.append(blob)
        offset += len(blob)
    head = magic + struct.pack("<IQQ", version, len(kept), pairs) + b"".join(metadata) + b"".join(kept)
    with open(target, "wb") as file:
        file.write(head + b"\0" * (-len(head) % alignment) + b"".join(blobs))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
