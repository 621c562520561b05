"""Features of one source's pairs in a live session against those of an index built at once, to the bit."""

from __future__ import annotations

import pytest
import torch

from mspipe_triton.data.live_index import LiveIndex
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.serving.live_pairs import LivePairs


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_those_of_an_index_built_at_once(kinds: int, dtype: torch.dtype) -> None:
    torch.manual_seed(kinds)
    events, nodes = 5000, 40
    src, dst = torch.randint(0, nodes, (2, events))
    dst = dst if kinds == 1 else dst + nodes
    t = torch.randint(0, 4, (events,)).cumsum(0)
    first = 300
    index, pairs = LiveIndex(PairIndex.build(src[:first], dst[:first], t[:first])), LivePairs(src[:first], dst[:first])
    portions = [1, 1, 0, 7, 150, 4500]  # the last one is so large that all keys are sorted together
    for size in portions:
        part = slice(first, first + size)
        pairs.grow(2 * nodes + 1)
        index.append(src[part], dst[part], t[part])
        pairs.append(src[part], dst[part], first)
        first += size
        whole = PairIndex.build(src[:first], dst[:first], t[:first])
        time = t[first - 1 : first] + 5
        candidates = torch.arange(0, 2 * nodes + 1, 1 if size < 100 else 2)  # with some that have no event
        for source in (0, 7, nodes + 3, 2 * nodes):
            source_node = torch.tensor([source])
            expected = whole.features(source_node, candidates.unsqueeze(0), time, whole.before(time), dtype)[0]
            assert torch.equal(pairs.features(index.index, source_node, candidates, time, dtype), expected)
