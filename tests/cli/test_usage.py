"""Wrong usage: one line that names the fault, the closest flag, value, name or file, and the help to read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mspipe_triton.errors import closest, suggestion

Command = Callable[..., subprocess.CompletedProcess[str]]
TIMES = "sample=2,features=3,memory=2,train=6,update=3"

LINES = {
    ("trian", "events.csv"): "No such command 'trian'; did you mean train? See `mspipe-triton --help`.",
    ("events.csv",): "No such command 'events.csv'; did you mean `mspipe-triton train events.csv`? See `mspipe-triton "
    "--help`.",
    ("xyzzy",): "No such command 'xyzzy'. See `mspipe-triton --help`.",
    ("data", "inf"): "No such command 'inf'; did you mean info? See `mspipe-triton data --help`.",
    ("train", "--learning-rate", "1"): "No such option --learning-rate; did you mean --lr? See `mspipe-triton "
    "train --help`.",
    ("train", "--num_epochs=3"): "No such option --num_epochs; did you mean --epochs? See `mspipe-triton "
    "train --help`.",
    ("train", "--hidden-dim", "8"): "No such option --hidden-dim; did you mean --dim? See `mspipe-triton "
    "train --help`.",
    ("train", "--version"): "No such option --version; did you mean `mspipe-triton --version`? See `mspipe-triton "
    "train --help`.",
    ("train", "--lr", "0,01"): "--lr must be a number, not '0,01'; write 0.01. See `mspipe-triton train --help`.",
    ("train", "--epochs", "1,000"): "--epochs must be a whole number, not '1,000'; write 1000. See `mspipe-triton "
    "train --help`.",
    ("train", "--batchsize", "5"): "No such option --batchsize; did you mean --batch-size? See `mspipe-triton train "
    "--help`.",
    ("train", "--batch_size", "5"): "No such option --batch_size; did you mean --batch-size? See `mspipe-triton train "
    "--help`.",
    ("train", "-epochs", "5"): "No such option -e; did you mean --epochs? See `mspipe-triton train --help`.",
    ("train", "--epochs", "many"): "--epochs must be a whole number, not 'many'. See `mspipe-triton train --help`.",
    ("train", "--nproc=abc"): "--nproc must be a whole number, not 'abc'. See `mspipe-triton train --help`.",
    ("evaluate", "run", "--split"): "--split needs a value. See `mspipe-triton evaluate --help`.",
    ("train", "--resume=3"): "--resume takes no value. See `mspipe-triton train --help`.",
    ("train", "events.csv", "run"): "Unexpected argument run. See `mspipe-triton train --help`.",
    ("serve", "run", "--port", "99999"): "--port must be at most 65535, not '99999'. See `mspipe-triton serve --help`.",
    ("train", "event.csv"): "event.csv: no such file; name a table of events, a folder of them, or `synthetic`; did "
    "you mean events.csv?",
    ("train", "events.csv", "--model", "tng"): "model 'tng' is not one of tgn, jodie, apan, tgat; did you mean tgn?",
    ("train", "events.csv", "--model", "TGN"): "model 'TGN' is not one of tgn, jodie, apan, tgat; did you mean tgn?",
    ("train", "events.csv", "--device", "gpu"): "device 'gpu' is not one of auto, cpu, cuda; did you mean cuda?",
    ("train", "events.csv", "--schedule", "serail"): "schedule 'serail' is not one of auto, serial, prefetch, mspipe, "
    "fixed, exact; did you mean serial?",
    ("train", "events.csv", "--columns", "scr=user"): "--columns: 'scr=user' is not role=name; the roles are src, dst, "
    "t, label, features; did you mean src?",
    ("train", "events.csv", "--columns", "user,item,t"): "--columns: 'user' is not role=name; the roles are src, dst, "
    "t, label, features, as in src=user,dst=item,t=t",
    ("train", "events.csv", "--columns", "src=usr"): "events.csv: column 'usr' (src) is missing from the header: user, "
    "item, t; use --columns src=user",
    ("train", "--config", "runn.toml"): "runn.toml: no such file; --config names a TOML file; did you mean run.toml?",
    ("train", "--config", "run.toml"): "run.toml: [train] has no setting 'batch-size'; it has ",
    ("evaluate", "shops"): "shops: no run there (config.toml is missing); name a folder that `train` wrote; did you "
    "mean shop?",
    ("plan", "--times", TIMES, "--schedule", "mspip"): "schedule 'mspip' is not one of serial, prefetch, mspipe, "
    "fixed, exact; did you mean mspipe?",
}  # fmt: skip


@pytest.mark.parametrize("arguments", LINES, ids=" ".join)
def test_a_line_leads_to_the_right_way(arguments: tuple[str, ...], command: Command, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,t\n" + "".join(f"{k},{k + 9},{k}\n" for k in range(9)))
    (tmp_path / "run.toml").write_text("[train]\nbatch-size = 5\n")
    (tmp_path / "shop").mkdir()
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    start = f"mspipe-triton: {LINES[arguments]}"
    assert done.stderr.startswith(start)
    end = "; did you mean batch_size?" if start.endswith("it has ") else ""
    assert done.stderr.endswith(f"{end or start}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[trian]\nlr = 1.0\n", "[trian] is not one of [data], [model], [train], [settings]; did you mean [train]?"),
        ("lr = 1.0\n", "[lr] is not one of [data], [model], [train], [settings]; put lr below [train]"),
        ("[model]\nlr = 1.0\n", "; lr belongs to [train]"),
        ("[train]\nlearning_rate = 1.0\n", "; did you mean lr?"),
        ("[train]\nhidden_dim = 8\n", "; dim belongs to [model]"),
    ],
)
def test_hints_on_a_config_file(text: str, hint: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(text)
    assert command("train", "--config", "run.toml").stderr.rstrip("\n").endswith(hint)


def test_the_closest_name_may_differ_in_case_and_far_ones_are_not_named() -> None:
    assert closest("SRC", ["src", "dst"]) == "src"
    assert closest("sofmax", ["bce", "Softmax"]) == "Softmax"
    assert suggestion("quantum", ["bce", "softmax"]) == ""
    assert suggestion(3, ["bce"]) == ""
