"""Choices of blocks, warps and stages that the search spaces of several kernels share.

A kernel's decorator, `@kernel(..., space=...)`, lists the values that tuning may choose, ascending, for every block,
for `num_warps` and for `num_stages`. `tl.dot` needs blocks of at least 16.
"""

from __future__ import annotations

Choices = dict[str, tuple[int, ...]]

# Triton pipelines loads only in loops with products, so a kernel without products has nothing to stage.
PLAIN: Choices = {"num_warps": (1, 2, 4, 8), "num_stages": (2,)}
PRODUCTS: Choices = {"num_warps": (2, 4, 8), "num_stages": (1, 2, 3, 4)}
FLAT: Choices = {"BLOCK": (32, 64, 128, 256, 512, 1024), **PLAIN}
COLUMNS: Choices = {"COLUMNS": (32, 64, 128, 256)}
# Loop over candidates, CHUNK at a time, for each of BLOCK nodes.
SCAN: Choices = {"BLOCK": (4, 8, 16, 32, 64), "CHUNK": (32, 64, 128, 256, 512), **PLAIN}
# Slots of a root in blocks; the smallest HELD keeps almost nothing in registers.
SLOTS: Choices = {"BLOCK": (32, 64, 128, 256), "HELD": (1280, 6144, 10240, 20480), **PLAIN}
# Elementwise work on whole rows of several nodes.
ROWS: Choices = {"BLOCK_U": (1, 2, 4, 8, 16, 32), **PLAIN}
# Products of several nodes' rows with a weight, and the products of the backward pass.
UPDATER: Choices = {"BLOCK_U": (16, 32, 64, 128), "BLOCK_D": (16, 32, 64, 128), "BLOCK_K": (16, 32, 64), **PRODUCTS}
BACKWARD: Choices = {"BLOCK_N": (16, 32, 64, 128), "BLOCK_K": (16, 32, 64, 128), "BLOCK_U": (16, 32, 64), **PRODUCTS}
# Sums over rows, in parts of fixed size.
PARTS: Choices = {"PART": (128, 256, 512, 1024, 2048)}
# Products of the attention layer: from roots' rows to one head, and from all heads.
HEAD: Choices = {"BLOCK_R": (16, 32, 64), "BLOCK_K": (16, 32, 64), **PRODUCTS}
HEADS: Choices = {"BLOCK_W": (16, 32, 64), **HEAD}
SAMPLE: Choices = {"BLOCK": (8, 16, 32, 64, 128), **PLAIN}
SPAN: Choices = {**PLAIN, "num_warps": (1, 2, 4, 8, 16)}
