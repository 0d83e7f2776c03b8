#!/usr/bin/env python3
"""Packs a linked kernel: only what is loaded, and of that nothing that is filler.

    pack-elf.py VMLINUX PACKED

The linker fills the kernel's text up to a multiple of 2 MiB with int3, which the kernel gives back
to its allocator at boot, and data with zeroes, which a machine's memory is made of anyway. Whoever
loads the packed file has a third less to copy.
"""

import struct
import sys

PAGE = 4096
# Runs of fewer pages are not worth a segment.
LEAST_PAGES = 16
INT3 = b"\xcc" * PAGE
ZERO = bytes(PAGE)
EXECUTABLE = 1
PT_LOAD, PT_NOTE = 1, 4
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")


def is_filler(page, flags):
    return page == ZERO or (flags & EXECUTABLE and page == INT3)


def pieces(data, flags):
    """The parts of a segment's content that count: (start, end), whole pages apart."""
    pages = -(-len(data) // PAGE)
    counts = [not is_filler(data[n * PAGE:(n + 1) * PAGE], flags) for n in range(pages)]
    start = None
    page = 0
    while page < pages:
        if counts[page]:
            start = page if start is None else start
            page += 1
            continue
        run = page
        while run < pages and not counts[run]:
            run += 1
        if start is not None and (run - page >= LEAST_PAGES or run == pages):
            yield start * PAGE, page * PAGE
            start = None
        page = run
    if start is not None:
        yield start * PAGE, len(data)


def main():
    source, target = sys.argv[1:]
    with open(source, "rb") as file:
        elf = file.read()
    header = list(HEADER.unpack_from(elf))
    assert header[0][:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF file"
    segments = [SEGMENT.unpack_from(elf, header[5] + n * SEGMENT.size) for n in range(header[10])]
    packed, notes = [], []
    for kind, flags, offset, virtual, physical, in_file, in_memory, _ in segments:
        if kind == PT_NOTE:
            notes.append((flags, virtual, physical, elf[offset:offset + in_file]))
        if kind != PT_LOAD:
            continue
        assert physical % PAGE == 0, "a segment does not begin with a page"
        data = elf[offset:offset + in_file]
        found = list(pieces(data, flags)) or [(0, 0)]
        for start, end in found:
            last = (start, end) == found[-1]
            memory = in_memory - start if last else end - start
            packed.append((flags, virtual + start, physical + start, data[start:end], memory))
    table, body = [], bytearray()
    first = PAGE
    for flags, virtual, physical, data, memory in packed:
        table.append((PT_LOAD, flags, first + len(body), virtual, physical, len(data), memory, PAGE))
        body += data + bytes(-len(data) % PAGE)
    for flags, virtual, physical, data in notes:
        table.append((PT_NOTE, flags, first + len(body), virtual, physical, len(data), len(data), 4))
        body += data
    header[5], header[6], header[10] = HEADER.size, 0, len(table)
    header[11] = header[12] = header[13] = 0  # no sections
    out = bytearray(HEADER.pack(*header))
    for segment in table:
        out += SEGMENT.pack(*segment)
    assert len(out) <= first
    with open(target, "wb") as file:
        file.write(out + bytes(first - len(out)) + body)


main()
