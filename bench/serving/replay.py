"""Replay of a service's log in a fresh process, and its comparison with the last snapshot, bit by bit.

`python -m bench.serving.replay RUN STATE` prints the names of what differs, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import torch

from bench.serving.server import environment
from mspipe_triton import Predictor, load
from mspipe_triton.serving.service.state import StateFolder


def replay_is_equal(run: Path, state: Path) -> bool:
    """Return True if the last snapshot has all entries of the log, and the state after their serial replay."""
    command = [sys.executable, "-m", "bench.serving.replay", str(run), str(state)]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout) == []


def differences(run: Path, state: Path) -> list[str]:
    """Return the names of what differs between the last snapshot and a serial replay."""
    torch.set_num_threads(1)
    replayed = load(run)
    with closing(StateFolder(state, run)) as folder, closing(folder.log(replayed)) as log:
        entries, path = folder.snapshots()[0]
        for entry in log.read():
            if entry.events is not None:
                replayed.take(entry.events)
        names = [] if entries == len(log) else ["entries"]
    ours, theirs = contents(load(path)), contents(replayed)
    return names + [name for name in ours if ours[name] != theirs[name]]


def contents(predictor: Predictor) -> dict[str, object]:
    """Return everything that a predictor's answers depend on, bit by bit."""
    live = predictor._live
    tables = {name: table[: live.nodes].numpy().tobytes() for name, table in live.session.state.tables.items()}
    columns = {name: getattr(live, name).rows.numpy().tobytes() for name in ("src", "dst", "t", "edges")}
    return tables | columns | {"nodes": predictor.nodes, "time": predictor.time}


if __name__ == "__main__":
    print(json.dumps(differences(Path(sys.argv[1]), Path(sys.argv[2]))))
