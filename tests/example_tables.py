"""Files that the data page names, one of each format, with the same 60 events in all but the formats' own extras."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

EVENTS = 60
USERS, ITEMS = 7, 5
ROWS = [(k % USERS, k % ITEMS, 1_082_040_961 + 60 * k) for k in range(EVENTS)]


def write_tables(folder: Path) -> None:
    """Write every file into a folder."""
    for name, text in texts().items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "events.csv.gz").write_bytes(gzip.compress(texts()["events.csv"].encode()))
    (folder / "latin.csv").write_bytes(lines("user,item,t", (f"kä{u},ü{i},{t}" for u, i, t in ROWS)).encode("latin-1"))
    table = pa.table({"src": [u for u, _, _ in ROWS], "dst": [10 + i for _, i, _ in ROWS], "t": [t for *_, t in ROWS]})
    pyarrow.parquet.write_table(table, folder / "events.parquet")
    pyarrow.feather.write_feather(table, folder / "events.arrow")
    (folder / "parts").mkdir()
    for part, rows in (("1", table.slice(0, 20)), ("2", table.slice(20, 20)), ("10", table.slice(40))):
        pyarrow.parquet.write_table(rows, folder / "parts" / f"part-{part}.parquet")
    random = np.random.default_rng(0)
    features = np.vstack([np.zeros((1, 4)), random.standard_normal((EVENTS, 4))])
    np.save(folder / "ml_wiki.npy", features)
    np.save(folder / "ml_wiki_node.npy", random.standard_normal((USERS + ITEMS + 1, 3)))


def texts() -> dict[str, str]:
    """Return the content of the text files by name."""
    jodie = "user_id,item_id,timestamp,state_label,comma_separated_list_of_features"
    reviews = ({"reviewerID": f"A{u}", "asin": f"B{i}", "unixReviewTime": t} for u, i, t in ROWS)
    shuffled = ROWS[30:] + ROWS[:30]
    return {
        "events.csv": lines("src,dst,t", (f"{u},{10 + i},{t}" for u, i, t in ROWS)),
        "payments.csv": lines(
            "from_iban,to_iban,booked", (f"DE{u},FR{i},2026-01-{1 + t % 28:02d}" for u, i, t in DAYS)
        ),
        "excel.csv": lines("Source;Target;Time;f0", (f"{u};{10 + i};{t};{u},5" for u, i, t in ROWS)),
        "CollegeMsg.txt": lines("", (f"{u} {10 + i} {t}" for u, i, t in ROWS)),
        "tij.dat": lines("", (f"{t}\t{u}\t{10 + i}" for u, i, t in ROWS)),
        "temporal.txt": lines("# Directed graph\n# SRC DST UNIXTS", (f"{u} {10 + i} {t}" for u, i, t in ROWS)),
        "out.contact": lines("% bip posweight\n% 60 7 5", (f"{u} {i} 1\t{t}" for u, i, t in ROWS)),
        "ratings.csv": lines("userId,movieId,rating,timestamp", (f"{u},{i},3.5,{t}" for u, i, t in ROWS)),
        "ratings.dat": lines("", (f"{u}::{i}::4::{t}" for u, i, t in ROWS)),
        "wikipedia.csv": lines(jodie, (f"{u},{i},{float(t - ROWS[0][2])},0,0.5,{u}" for u, i, t in ROWS)),
        "ml_wiki.csv": lines(
            ",u,i,ts,label,idx",
            (f"{k},{u + 1},{USERS + 1 + i},{60.0 * k},0.0,{k + 1}" for k, (u, i, _) in enumerate(ROWS)),
        ),
        "reviews.jsonl": "".join(json.dumps(row) + "\n" for row in reviews),
        "late.csv": lines("src,dst,t", (f"{u},{10 + i},{t}" for u, i, t in shuffled)),
    }


DAYS = sorted(ROWS, key=lambda row: row[2] % 28)


def lines(header: str, rows: object) -> str:
    """Join a header, if there is one, and rows."""
    return "".join(f"{line}\n" for line in ([header] if header else []) + list(rows))
