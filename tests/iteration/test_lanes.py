"""Lanes: torch threads per host thread, and the order of device work on streams that only keep a log."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
import torch

from mspipe_triton.iteration import lanes
from mspipe_triton.iteration.lanes import HostLane, Mark, StreamLane


class Device:
    """A GPU stand-in that logs calls; consecutive events are one millisecond apart."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[Any, ...]] = []
        log, device = self.log, self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.number = sum(entry[0] == "record" for entry in log)

            def record(self, stream: Any) -> None:
                log.append(("record", stream, self.number))

            def synchronize(self) -> None:
                log.append(("synchronize", self.number))

            def elapsed_time(self, other: Any) -> float:
                return float(other.number - self.number)

        class Stream:
            def __init__(self, device: Any) -> None:
                log.append(("stream", device))

            def wait_event(self, event: Any) -> None:
                log.append(("wait", event.number))

            def wait_stream(self, stream: Any) -> None:
                log.append(("wait stream", stream))

        def set_stream(stream: Any) -> None:
            device.current = stream

        self.default = self.current = Stream("cuda")
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.current)
        monkeypatch.setattr(torch.cuda, "set_stream", set_stream)


def test_every_host_thread_has_its_own_number_of_torch_threads() -> None:
    seen: list[int] = []

    def work() -> None:
        HostLane(1, False).open()
        opened.set()
        others.wait()
        torch.arange(1_000_000).index_select(0, torch.arange(900_000))  # parallel if the thread had a team
        seen.append(torch.get_num_threads())
        seen.append(len(os.listdir("/proc/self/task")) - before)

    torch.set_num_threads(2)
    torch.arange(1_000_000).index_select(0, torch.arange(900_000))
    before, opened, others = len(os.listdir("/proc/self/task")), threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    opened.wait()
    HostLane(2, True).open()
    others.set()
    thread.join()
    assert seen == [1, 1], "one torch thread, and no thread but this one"
    assert torch.get_num_threads() == 2
    by_resource = lanes.lanes(torch.device("cpu"), "compute", ["sampler", "copy_in"], 3, 2)
    assert {name: lane.threads for name, lane in by_resource.items()} == {"compute": 3, "sampler": 2, "copy_in": 2}


def test_serial_lanes_share_one_thread_and_restore_its_number_of_torch_threads() -> None:
    torch.set_num_threads(1)
    by_resource = lanes.serial_lanes(torch.device("cpu"), "compute", ["sampler", "copy_in"], 2, 3)
    for lane in by_resource.values():
        lane.open()
    seen = []
    for name in ("sampler", "compute", "copy_in", "compute"):
        by_resource[name].before(())
        seen.append(torch.get_num_threads())
    assert seen == [3, 2, 3, 2]
    for lane in reversed(by_resource.values()):
        lane.close()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("waits", [True, False])
def test_a_stage_is_queued_after_the_marks_and_only_copies_wait(monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    torch.set_num_threads(1)
    device = Device(monkeypatch)
    lane = StreamLane(torch.device("cuda"), waits, threads=1, compiled=True)
    lane.close()
    assert device.current is device.default, "closing an unopened lane changes nothing"
    lane.open()
    assert device.current is lane.stream
    assert ("wait stream", device.default) in device.log
    other = Mark(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
    other.end.number = 77
    del device.log[:]
    lane.before([None, other])
    assert device.log[0] == ("synchronize" if waits else "wait", 77)
    assert [entry[0] for entry in device.log[1:]] == ["record"]
    mark = lane.after()
    assert [entry[0] for entry in device.log[2:]] == (["record", "synchronize"] if waits else ["record"])
    start, end = lane.interval(mark, 5.0, 6.0)
    if waits:
        assert (start, end) == (5.0, 6.0)
    else:
        assert end - start == pytest.approx((mark.end.number - mark.start.number) / 1e3)
        assert start == pytest.approx(lane.base_time + mark.start.number / 1e3)
    lane.close()
    assert device.current is device.default
    assert ("wait stream", lane.stream) in device.log


def test_on_a_gpu_only_training_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch)
    by_resource = lanes.lanes(torch.device("cuda"), "compute", ["sampler", "copy_in", "copy_out"], 2, 1)
    assert {name: lane.waits for name, lane in by_resource.items()} == {
        "compute": False, "sampler": True, "copy_in": True, "copy_out": True,
    }  # fmt: skip
    (lane,) = set(lanes.serial_lanes(torch.device("cuda"), "compute", ["sampler", "copy_in"], 2, 1).values())
    assert lane.waits
