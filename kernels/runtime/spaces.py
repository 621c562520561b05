"""Choices of blocks, warps and stages that the search spaces of several kernels share.

A kernel's space stands in its decorator, `@kernel(..., space=...)`: for every block, for `num_warps` and for
`num_stages` the values that tuning may choose, ascending. `tl.dot` takes blocks of 16 and up.
"""

from __future__ import annotations

Choices = dict[str, tuple[int, ...]]

# Triton pipelines the loads of loops with products alone, so a kernel without products has nothing to stage.
PLAIN: Choices = {"num_warps": (1, 2, 4, 8), "num_stages": (2,)}
PRODUCTS: Choices = {"num_warps": (2, 4, 8), "num_stages": (1, 2, 3, 4)}
FLAT: Choices = {"BLOCK": (32, 64, 128, 256, 512, 1024), **PLAIN}
COLUMNS: Choices = {"COLUMNS": (32, 64, 128, 256)}
# A loop over candidates, CHUNK at a time, for each of BLOCK nodes.
SCAN: Choices = {"BLOCK": (4, 8, 16, 32, 64), "CHUNK": (32, 64, 128, 256, 512), **PLAIN}
# Slots of a root in blocks; with the least HELD nearly nothing stays in registers.
SLOTS: Choices = {"BLOCK": (32, 64, 128, 256), "HELD": (1280, 6144, 10240, 20480), **PLAIN}
# Whole rows of several nodes, element by element.
ROWS: Choices = {"BLOCK_U": (1, 2, 4, 8, 16, 32), **PLAIN}
# Rows of several nodes times a weight, and the products of the backward pass.
UPDATER: Choices = {"BLOCK_U": (16, 32, 64, 128), "BLOCK_D": (16, 32, 64, 128), "BLOCK_K": (16, 32, 64), **PRODUCTS}
BACKWARD: Choices = {"BLOCK_N": (16, 32, 64, 128), "BLOCK_K": (16, 32, 64, 128), "BLOCK_U": (16, 32, 64), **PRODUCTS}
# Sums over rows, in parts of a fixed number of rows.
PARTS: Choices = {"PART": (128, 256, 512, 1024, 2048)}
# The attention layer's products: rows of roots into one head, and out of all heads.
HEAD: Choices = {"BLOCK_R": (16, 32, 64), "BLOCK_K": (16, 32, 64), **PRODUCTS}
HEADS: Choices = {"BLOCK_W": (16, 32, 64), **HEAD}
SAMPLE: Choices = {"BLOCK": (8, 16, 32, 64, 128), **PLAIN}
SPAN: Choices = {**PLAIN, "num_warps": (1, 2, 4, 8, 16)}
