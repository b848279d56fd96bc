"""The compiled half of `sparse`: where the rows of a sparse gradient lie, and the pointer table over them.

Loaded by `generate.compiled` and not imported, so that its machine code is never older than what it was made of.
"""

from __future__ import annotations

import numba
from numba import cfunc

from optimizers.executors.generate import ACTIVE, FIRST, GROUP, NUMEL, ROW_HEAD
from optimizers.executors.numba_dialect import INNER, OPTIONS
from optimizers.executors.raw import set_word, word

#: the words of the one argument of `locate`: where the indices lie and how far apart, where the answer goes, a hash
#: table and its number of cells, a power of two, less one (or -1: no table, the entries are known to be different);
#: after them the sizes of the parameter's first dimensions, then their strides
LOCATE = "indices next_dimension next_entry entries dimensions offsets cells mask".split()
(INDICES, NEXT_DIMENSION, NEXT_ENTRY, ENTRIES, DIMENSIONS, OFFSETS, CELLS, MASK) = range(len(LOCATE))
FIRST_SIZE = len(LOCATE)

#: what `locate` answers beside the number of an entry that is out of bounds
DISTINCT, REPEATED = -1, -2

#: the words of the one argument of `fill`; after them one more for each slot: its address
FILL = "rows row_bytes group width where entries p g p_bytes slot_bytes slots".split()
(FILL_ROWS, ROW_BYTES, FILL_GROUP, WIDTH, WHERE, FILL_ENTRIES, P, G, P_BYTES, SLOT_BYTES, SLOTS) = range(len(FILL))
FIRST_SLOT = len(FILL)


@numba.njit(**INNER)
def _seen(cells, mask, offset):
    """Whether the hash table holds an offset; if not, it does afterwards."""
    at = (offset * 0x9E3779B97F4A7C1 >> 20) & mask
    while True:
        there = word(cells, at)
        if there == offset:
            return True
        if there == -1:
            set_word(cells, at, offset)
            return False
        at = (at + 1) & mask


@cfunc("intp(intp)", cache=True, **OPTIONS)
def locate(job):
    """Writes the offset of each entry's row in the parameter, in elements, and says whether they are all different."""
    offsets, dimensions = word(job, OFFSETS), word(job, DIMENSIONS)
    sizes = job + 8 * FIRST_SIZE
    strides = sizes + 8 * dimensions
    rising, last = True, -1
    for entry in range(word(job, ENTRIES)):
        offset = 0
        for d in range(dimensions):
            index = word(word(job, INDICES), entry * word(job, NEXT_ENTRY) + d * word(job, NEXT_DIMENSION))
            if index < 0 or index >= word(sizes, d):
                return entry
            offset += index * word(strides, d)
        set_word(offsets, entry, offset)
        rising = rising and offset > last
        last = offset
    cells, mask = word(job, CELLS), word(job, MASK)
    if not rising and mask >= 0:
        for cell in range(mask + 1):
            set_word(cells, cell, -1)
        for entry in range(word(job, ENTRIES)):
            if _seen(cells, mask, word(offsets, entry)):
                return REPEATED
    return DISTINCT


@cfunc("intp(intp)", cache=True, **OPTIONS)
def fill(job):
    """Writes a row of the table for each run of entries that follow each other in memory; returns how many."""
    width, p, g = word(job, WIDTH), word(job, P), word(job, G)
    p_bytes, slot_bytes = word(job, P_BYTES), word(job, SLOT_BYTES)
    row = word(job, FILL_ROWS) - word(job, ROW_BYTES)
    written, expected = 0, -1
    for entry in range(word(job, FILL_ENTRIES)):
        offset = word(word(job, WHERE), entry)
        if offset == expected:
            set_word(row, NUMEL, word(row, NUMEL) + width)
        else:
            row += word(job, ROW_BYTES)
            written += 1
            set_word(row, NUMEL, width)
            set_word(row, GROUP, word(job, FILL_GROUP))
            set_word(row, FIRST, 0)
            set_word(row, ACTIVE, 1)
            set_word(row, ROW_HEAD, p + offset * p_bytes)
            set_word(row, ROW_HEAD + 1, g + entry * width * p_bytes)
            for slot in range(word(job, SLOTS)):
                set_word(row, ROW_HEAD + 2 + slot, word(job, FIRST_SLOT + slot) + offset * slot_bytes)
        expected = offset + width
    return written
