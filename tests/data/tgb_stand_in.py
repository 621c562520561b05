"""Stand-in for py-tgb: its data set's interface, with a small table of events."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mspipe_triton.data.events import Split

TABLE = [(0, 1, 10), (2, 0, 10), (3, 1, 20), (0, 2, 30), (3, 0, 40), (0, 0, 50), (0, 1, 50), (2, 1, 60)]
SPLIT = Split(5, 7)


class Published:
    """Data set of the stand-in: `TABLE`, with sources and destinations numbered apart, and all others as negatives."""

    shift = 4
    events = TABLE
    files = True

    def __init__(
        self, name: str, root: str = "datasets", meta_dict: Any = None, preprocess: bool = True, download: bool = True
    ) -> None:
        assert (name, root, preprocess, download) == ("tgbl-wiki", "datasets", True, False)
        if not self.files:
            raise FileNotFoundError("Directory not found at tgbl_wiki, please download the dataset")
        self.name, self.loaded = name, set[str]()
        src, dst, t = (np.array(column) for column in zip(*self.events, strict=True))
        self.full_data = {"sources": src, "destinations": dst + self.shift, "timestamps": t}

    def load_val_ns(self) -> None:
        self.loaded.add("val")

    def load_test_ns(self) -> None:
        self.loaded.add("test")

    @property
    def negative_sampler(self) -> Any:
        return self

    def query_batch(
        self, pos_src: Any, pos_dst: Any, pos_timestamp: Any, edge_type: Any = None, split_mode: str = "test"
    ) -> list[list[int]]:
        """All nodes from the smallest to the largest destination but the event's own; one fewer for source 2."""
        assert split_mode in self.loaded
        part = self.events[slice(*SPLIT) if split_mode == "val" else slice(SPLIT.val_end, None)]
        rows = []
        for src, dst, t in zip(pos_src, pos_dst, pos_timestamp, strict=True):
            assert (src, dst - self.shift, t) in part
            low, high = self.full_data["destinations"].min(), self.full_data["destinations"].max()
            others = [node for node in range(low, high + 1) if node != dst]
            rows.append(others[: len(others) - (src == 2)])
        return rows


def install(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Put a stand-in for py-tgb in its place."""
    for name in ("tgb", "tgb.linkproppred", "tgb.linkproppred.dataset"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["tgb.linkproppred.dataset"].LinkPropPredDataset = type("Stand", (Published,), changes)  # type: ignore[attr-defined]
