"""Parts of a run's result: the peaks of memory over all its processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspipe_triton.training.result import peaks_since

PEAKS = {"peak_rss_mb": 300.0, "peak_device_mb": 40.0}


@pytest.mark.parametrize(
    ("content", "peaks"),
    [
        (
            '{"peak_rss_mb": 812.5, "peak_device_mb": 30, "model": "tgn"}',
            {"peak_rss_mb": 812.5, "peak_device_mb": 40.0},
        ),
        ('{"peak_rss_mb": 200.0, "peak_device_mb": 50.0}', {"peak_rss_mb": 300.0, "peak_device_mb": 50.0}),
        ('{"peak_rss_mb": null, "peak_device_mb": 50.0}', PEAKS),
        ('{"model": "tgn"}', PEAKS),
        ("{", PEAKS),
    ],
    ids=["lower", "higher", "none", "older", "damaged"],
)
def test_a_result_has_the_highest_peaks_of_the_processes(content: str, peaks: dict[str, float], tmp_path: Path) -> None:
    earlier = tmp_path / "result.json"
    assert peaks_since(PEAKS, earlier) == PEAKS, "the first process"
    earlier.write_text(content, encoding="utf-8")
    assert peaks_since(PEAKS, earlier) == peaks
