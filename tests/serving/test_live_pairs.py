"""Features of sources' pairs in a live session, put together, against those of an index built at once, to the bit."""

from __future__ import annotations

import pytest
import torch

from mspipe_triton.data.live_index import LiveIndex
from mspipe_triton.data.pair_index import PairIndex
from mspipe_triton.kernels.link.pair_columns import OF_DESTINATION, POPULARITY, POPULARITY_IF_NEW
from mspipe_triton.serving.live_pairs import LivePairs, PastPairs

NODES = 40


def whole(past: PastPairs, src: torch.Tensor, dst: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Features [M, K, 36] from their parts, and the numbers of pairs with an event."""
    sources, destinations = past.sources(src), past.destinations(dst)
    histories = past.histories(sources, destinations)
    pairs = histories.owners, histories.others
    features = sources.features.unsqueeze(1) + destinations.features
    assert not destinations.features[:, : OF_DESTINATION.start].any()
    assert not destinations.features[:, OF_DESTINATION.stop :].any()
    new = features[..., 28] == 1
    new[pairs] = False
    features[..., POPULARITY_IF_NEW] += features[..., POPULARITY] * new.unsqueeze(2)
    features[pairs] += histories.features
    return features, list(zip(*(each.tolist() for each in pairs), strict=True))


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_those_of_an_index_built_at_once(kinds: int, dtype: torch.dtype) -> None:
    torch.manual_seed(kinds)
    events, first = 5000, 300
    src, dst = torch.randint(0, NODES, (2, events))
    src[0], dst = 37, dst if kinds == 1 else dst + NODES
    t = torch.randint(0, 4, (events,)).cumsum(0)
    index, pairs = LiveIndex(PairIndex.build(src[:first], dst[:first], t[:first])), LivePairs(src[:first], dst[:first])
    portions = [1, 1, 0, 7, 150, 4500]  # the last one is so large that all keys are sorted together
    for size in portions:
        part = slice(first, first + size)
        pairs.grow(2 * NODES + 1)
        index.append(src[part], dst[part], t[part])
        pairs.append(src[part], dst[part], first)
        first += size
        built = PairIndex.build(src[:first], dst[:first], t[:first])
        candidates = torch.arange(0, 2 * NODES + 1, 1 if size < 100 else 2)  # with some that have no event
        for later in (5, 0):  # events at the time of the query do not count
            time = t[first - 1 : first] + later
            before = built.before(time)
            assert (int(before) == first) == (later > 0)
            for sources in ([0], [7], [NODES + 3], [2 * NODES], [7, 2 * NODES, 0, NODES + 3, 7, 37]):
                nodes, count = torch.tensor(sources), len(sources)
                rows = candidates.repeat(count, 1)
                expected = built.features(nodes, rows, time.repeat(count), before.repeat(count), dtype)
                features, ends = whole(PastPairs(index.index, pairs, time, dtype), nodes, candidates)
                assert torch.equal(features, expected)
                assert ends == [tuple(each) for each in (expected[..., 0] + expected[..., 11]).nonzero().tolist()]


def test_events_at_the_time_of_the_query_are_not_read() -> None:
    src, dst, t = (torch.tensor(each) for each in ([0, 0, 1, 0], [2, 3, 2, 1], [5, 6, 6, 6]))
    index, pairs = PairIndex.build(src, dst, t), LivePairs(src, dst)
    nodes, candidates = torch.tensor([0, 1]), torch.tensor([1, 2, 3])
    now, later = (whole(PastPairs(index, pairs, t[-1:] + each, torch.float64), nodes, candidates) for each in (0, 1))
    assert (now[1], later[1]) == ([(0, 1)], [(0, 0), (0, 1), (0, 2), (1, 1)])
    assert (now[0][:, 0, 28].tolist(), later[0][:, 0, 28].tolist()) == ([0, 1], [0, 0])
