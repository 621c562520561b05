"""Tables of the scaling of ranks: stage times, events/s by the number of ranks, and a large stream on paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.studies.ranks_model import PARTS
from bench.tables import markdown

Facts = Mapping[str, Any]
SHOWN = (1, 2, 8, 64, 256, 1024)  # numbers of ranks
PLACES = {
    "state": "records of the nodes: memory, mail, times", "graph": "T-CSR", "events": "events: ends and time",
    "features": "edge features, float32",
}  # fmt: skip


def tables(report: Facts) -> str:
    """All tables: stages, links and bytes, scalings by ends and speed, and the large stream."""
    parts = [
        "Time of a stage = fixed + share · C + batch · B + ends · E, fitted to the measurements, in µs:",
        _costs(report["costs"]),
        "Ends of a batch, rows that a rank sends, and bytes that it receives:",
        _exchanges(report),
    ]
    for ends, title in (("measured", "ends as in the measured stream"), ("distinct", "all ends of a batch distinct")):
        for speed in dict.fromkeys(each["speed"] for each in report["scalings"] if each["ends"] == ends):
            rows = [each for each in report["scalings"] if (each["ends"], each["speed"]) == (ends, speed)]
            device = "a device like one thread here" if speed == 1 else f"a device {speed} times as fast"
            parts += [f"Events/s under `exact`, {device}, {title}:", _scaling(rows)]
    return "\n\n".join(parts)


def paper(report: Facts) -> str:
    """Two tables of the large stream: its bytes, and what hosts that share its records would fetch."""
    facts = report["paper"]
    sizes = [(PLACES[name], f"{facts['tib'][name]:,.2f}", f"{facts['gib'][name]:,.0f}") for name in PLACES]
    links = list(report["links"])
    head = (
        "hosts", "GiB per host", "records fetched per batch", "MiB", *(f"epoch over {link}, h" for link in links),
        "epoch from NVMe, h", "epoch of computing, h",
    )  # fmt: skip
    rows = []
    for row in facts["sharded"]:
        hours = (row["epoch_hours"][link] for link in links)
        rows.append((
            f"{row['hosts']}", f"{row['gib_per_host']:,.0f}", _range(row["rows_per_batch"], ",.0f"),
            _range(row["mib_per_batch"], ",.0f"), *(_range(each, ".2f") for each in hours),
            _range(row["nvme_hours"], ".1f"), f"{row['compute_hours']:.1f}",
        ))  # fmt: skip
    return "\n\n".join((
        "Bytes:",
        markdown(("", "TiB", "GiB"), sizes),
        f"Records shared among hosts, B {facts['batch']:,}; from as many distinct records per event as in `wiki.csv` "
        "to the most that an event can need:",
        markdown(head, rows),
    ))  # fmt: skip


def _range(values: Facts, form: str) -> str:
    return f"{format(values['measured'], form)} to {format(values['most'], form)}"


def _costs(costs: Facts) -> str:
    head = ("stage", "fixed", "per event of the share", "per event of the batch", "per distinct end", "largest error")
    keys = ("fixed_us", "share_us", "batch_us", "ends_us")
    lines = [
        (f"`{name}`", *(f"{_rounded(row[key]):,g}" if row[key] else "" for key in keys), f"{row['largest_error']:.0%}")
        for name, row in costs.items()
    ]
    return markdown(head, lines)


def _exchanges(report: Facts) -> str:
    counts = list(next(iter(report["rows"].values())))
    head = ("B", "distinct ends", *(f"rows of a rank of {int(count):,}; KiB received" for count in counts))
    received = {
        (each["batch"], point["ranks"]): point["gathered_bytes"]
        for each in report["scalings"]
        if each["ends"] == "measured"
        for point in each["points"]
    }
    lines = []
    for batch, row in report["rows"].items():
        cells = [f"{row[count]['rows']:,.0f}; {received[int(batch), int(count)] / 1024:,.0f}" for count in counts]
        lines.append((f"{int(batch):,}", f"{row[counts[0]]['ends']:,.0f}", *cells))
    return markdown(head, lines)


def _scaling(rows: list[Facts]) -> str:
    head = (
        "B", "link", *(f"{count:,}" for count in SHOWN), "stops to pay at", "speedup there", "because of",
        "in ⌈log₂ N⌉ steps", "staleness pays from",
    )  # fmt: skip
    lines = []
    for row in rows:
        rates = {point["ranks"]: point["events_per_s"] for point in row["points"]}
        first, gain = row["staleness_pays_from"], row["largest_staleness_gain"]
        lines.append((
            f"{row['batch']:,}", row["link"], *(f"{_rounded(rates[count]):,.0f}" for count in SHOWN),
            f"{row['stops_at']:,}", f"{row['speedup']:.1f}", PARTS[row["because"]],
            f"{row['tree_stops_at']:,}; {row['tree_speedup']:.1f}",
            f"{first:,}, up to {gain:.2f} times" if first else "never",
        ))  # fmt: skip
    return markdown(head, lines)


def _rounded(value: float) -> float:
    """A number to three digits, as a model is no more exact."""
    return float(f"{value:.3g}")
