"""Settings of a run's data: where its events are, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mspipe_triton.choices import check_settings, setting
from mspipe_triton.errors import ConfigError, suggestion

ROLES = ("src", "dst", "t", "label", "features")  # of columns


@dataclass(frozen=True)
class DataConfig:
    """Source of the events, a path or `synthetic`, and options for reading it.

    `history` is the folder of the run that the run continues; its events come first, and the options are for the rest.
    """

    path: str = "synthetic"
    columns: Mapping[str, str] = field(default_factory=dict)
    sort: bool = setting(False, "Sort events by time instead of refusing unsorted ones.")
    bipartite: bool = setting(False, "Number sources and destinations apart, as two kinds of nodes.")
    one_kind: bool = setting(False, "Number sources and destinations together, whatever the columns are called.")
    no_header: bool = setting(False, "The file has no header; its columns are 1, 2, 3 for src, dst, t.")
    encoding: str = setting("", "Encoding of a text file.", default_text="utf-8", metavar="NAME")
    time_format: str = setting("", "Form of the dates, as in %d.%m.%Y (strptime).", metavar="FORM")
    raw_features: bool = setting(False, "Leave numbers as they are, instead of standardising them.")
    edge_features: str = setting("", "A .npy file with one row of features per event.", metavar="FILE")
    node_features: str = setting(
        "", "Table with a column `node`, or .npy file with one row per node id.", metavar="FILE"
    )
    split_at: str = setting(
        "", "Starts of validation and test: fractions, times or dates, as in 2023-10-01,2023-11-01; or tgb.",
        default_text="0.7,0.85", metavar="VAL,TEST",
    )  # fmt: skip
    history: str = ""

    def __post_init__(self) -> None:
        check_settings(self)
        if not isinstance(self.columns, Mapping):
            raise ConfigError(f"columns must map roles to names, not {self.columns!r}; use {{'src': NAME}}")
        for role, name in self.columns.items():
            if role not in ROLES or not isinstance(name, str):
                raise ConfigError(
                    f"columns {role!r}: {name!r} is not a role and a name; the roles are {', '.join(ROLES)}"
                    f"{suggestion(role, ROLES)}"
                )
        if self.bipartite and self.one_kind:
            raise ConfigError("bipartite and one-kind exclude each other; omit either")
