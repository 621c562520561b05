"""A stream of a billion nodes and a hundred billion events on paper: bytes, devices that hold them, time per epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.studies.ranks_model import Link
from mspipe_triton.config import RunConfig
from mspipe_triton.models import Facts
from mspipe_triton.training.footprint import Footprint

GIB, TIB = 2**30, 2**40
GPU = 139 * GIB  # memory of an H200
HOST = TIB  # memory of a host, an assumption
NVME_READS = 1e6  # random reads of a page per second and host, an assumption
PAGE = 4096
HOURS = 3600.0


@dataclass(frozen=True)
class Sizes:
    """Sizes of a stream: numbers of nodes and events, and the width of its edge features."""

    nodes: int = 10**9
    events: int = 10**11
    edge: int = 172


def bytes_of(sizes: Sizes, config: RunConfig) -> dict[str, int]:
    """Bytes of a run's data: nodes' records, T-CSR, events, and edge features.

    The T-CSR has event ids of 4 bytes, which end at 2³¹ events; beyond that they are counted with 8.
    """
    footprint = Footprint.planned(config, sizes.events, sizes.nodes, Facts(sizes.edge))
    wider = 2 * sizes.events * 4 if sizes.events >= 2**31 else 0
    return {
        "state": footprint.state, "graph": footprint.graph + wider, "events": 3 * 8 * sizes.events,
        "features": footprint.features,
    }  # fmt: skip


def on_paper(
    config: RunConfig, links: Mapping[str, Link], distinct: float, rate: float, sizes: Sizes | None = None,
    hosts: tuple[int, ...] = (16, 64, 256), batch: int = 38_400,
) -> dict[str, Any]:  # fmt: skip
    """Work through a stream: what fits where, and what sharded memory would fetch.

    Every host has a share of the nodes' records, and fetches the others' over its link.

    Args:
        distinct: distinct nodes per event that a batch of the measured stream reads.
        rate: events/s of one device. batch: B.
    """
    sizes = sizes or Sizes()
    parts = bytes_of(sizes, config)
    record = parts["state"] / sizes.nodes
    most = 3 * (1 + config.model.setting("fanout"))  # records per event: its roots and their neighbours, all distinct
    fetched = {"most": float(most), "measured": distinct}
    resident = parts["state"] + parts["graph"] + parts["events"]
    rows = []
    for count in hosts:
        away = (count - 1) / count
        traffic = {name: sizes.events * each * record * away / count for name, each in fetched.items()}
        rows.append({
            "hosts": count,
            "gib_per_host": resident / count / GIB,
            "fits": resident / count <= HOST,
            "rows_per_batch": {name: batch * each * away for name, each in fetched.items()},
            "mib_per_batch": {name: batch * each * away * record / 2**20 for name, each in fetched.items()},
            "epoch_hours": {
                link: {name: size / links[link].bandwidth / HOURS for name, size in traffic.items()} for link in links
            },
            "nvme_hours": {
                name: sizes.events * each / count / NVME_READS / HOURS for name, each in fetched.items()
            },
            "compute_hours": sizes.events / rate / count / HOURS,
        })  # fmt: skip
    return {
        "nodes": sizes.nodes, "events": sizes.events, "edge_features": sizes.edge, "batch": batch,
        "record_bytes": record,
        "gib": {name: size / GIB for name, size in parts.items()},
        "tib": {name: size / TIB for name, size in parts.items()},
        "gpu_gib": GPU / GIB, "host_gib": HOST / GIB,
        "million_nodes_per_gpu": GPU / 1.1 / record / 1e6,
        "gpus_for_state": math.ceil(parts["state"] * 1.1 / GPU),
        "hosts_for_all_but_features": math.ceil(resident / HOST),
        "rows_per_event": fetched, "nvme_reads_per_s": NVME_READS, "page_bytes": PAGE,
        "device_events_per_s": rate,
        "sharded": rows,
    }  # fmt: skip
