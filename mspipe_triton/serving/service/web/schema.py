"""Fields of requests: their types, what they mean, and the message about one that does not fit."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from mspipe_triton.data.origin import shown
from mspipe_triton.serving.service.web.arrow import check_columns, features_of, ids_of, times_column
from mspipe_triton.serving.service.web.refusals import Refusal

_FEW, _SMALL = 100, 2**16
_ONE, _FIRST = Field(fail_fast=True), Field(union_mode="left_to_right")
# Text comes first, so that "007" in a query stays text.
_Id = Annotated[StrictStr | Annotated[int, Field(ge=-(2**63), lt=2**64)], _FIRST]
_Time = Annotated[StrictStr | int | float, _FIRST]
_Cell = Annotated[StrictStr | bool | int | float | None, _FIRST]
_Ids = Annotated[_Id | Annotated[list[_Id], _ONE], _FIRST]
_Times = Annotated[_Time | Annotated[list[_Time], _ONE], _FIRST]
_Row = Annotated[list[float], _ONE]
_Columns = dict[str, Annotated[_Cell | Annotated[list[_Cell], _ONE], _FIRST]]
_Features = Annotated[_Row | Annotated[list[_Row], _ONE] | _Columns, _FIRST]

_ID, _IDS = "an id (text, or a whole number of 64 bits)", "an id (text, or a whole number of 64 bits) or a list of ids"
_TIME = "a time (a number, or the text of a date)"
_TIMES = "a time (a number, or the text of a date) or a list of times, one per event"
_LATER = f"{_TIME}, not before the last event; by default just after it"
Source = Annotated[_Id, Field(description=_ID)]
Ids = Annotated[_Ids, Field(description=_IDS)]
Times = Annotated[_Times, Field(description=_TIMES)]
Later = Annotated[_Time | None, Field(description=_LATER)]
New = Annotated[bool, Field(description="true or false: true takes unknown ids for nodes without events")]


class Form(BaseModel):
    """Fields of a request; `options` are those that a query has beside a table."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    options: ClassVar[type[Form]]

    @classmethod
    def of_json(cls, body: bytes) -> Self:
        """Read a body in JSON.

        Raises:
            Refusal: it is no JSON, or a field does not fit.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise _refusal(cls, error, len(body) <= _SMALL) from error

    @classmethod
    def of_table(cls, table: pa.Table, query: dict[str, str]) -> Self:
        """Read a table, and options from a query.

        Raises:
            Refusal: a column or an option does not fit.
        """
        try:
            options = cls.options.model_validate_strings(query)
        except ValidationError as error:
            raise _refusal(cls.options, error, True, "query") from error
        return cls.model_construct(**dict(options), **cls.columns(table))

    @classmethod
    def columns(cls, table: pa.Table) -> dict[str, Any]:
        """Return the fields that a table has."""
        raise NotImplementedError


class ObserveOptions(Form):
    """Fields of `/observe` beside events."""

    late: Annotated[
        Literal["refuse", "drop"],
        Field(description="refuse or drop: refuse takes nothing in if an event is late, drop leaves late events out"),
    ] = "refuse"


class Observe(ObserveOptions):
    """Fields of `/observe`."""

    options = ObserveOptions
    src: Ids
    dst: Ids
    t: Times
    features: Annotated[
        _Features | None,
        Field(description="a matrix of numbers with a row per event, or an object of columns by name"),
    ] = None

    @classmethod
    def columns(cls, table: pa.Table) -> dict[str, Any]:
        """Return sources, destinations, times and features."""
        ends = ("src", "dst", "t")
        check_columns(table, ends, set(table.column_names) - set(ends))
        return {
            "src": ids_of(table, "src"),
            "dst": ids_of(table, "dst"),
            "t": times_column(table, "t"),
            "features": features_of(table, ends),
        }


class ScoreOptions(Form):
    """Fields of `/score` beside pairs."""

    probability: Annotated[
        bool, Field(description="true or false: true returns probabilities, false logits; of loss bce alone")
    ] = False
    new: New = False


class Score(ScoreOptions):
    """Fields of `/score`."""

    options = ScoreOptions
    src: Ids
    dst: Ids
    t: Annotated[_Times | None, Field(description=f"{_TIMES}; by default just after the last event")] = None

    @classmethod
    def columns(cls, table: pa.Table) -> dict[str, Any]:
        """Return sources, destinations and times."""
        check_columns(table, ("src", "dst"), ("t",))
        times = times_column(table, "t") if "t" in table.column_names else None
        return {"src": ids_of(table, "src"), "dst": ids_of(table, "dst"), "t": times}


class RankOptions(Form):
    """Fields of `/rank` beside candidates."""

    src: Source
    t: Later = None
    top: Annotated[int, Field(ge=1, description="a number of destinations to return, at least 1")] = 10
    mode: Annotated[
        Literal["exact", "cached"],
        Field(description="exact or cached: cached is quicker, and reads embeddings that may be a little old"),
    ] = "exact"
    new: New = False


class Rank(RankOptions):
    """Fields of `/rank`."""

    options = RankOptions
    candidates: Annotated[
        _Ids | None, Field(description=f"{_IDS}; by default all destinations that have received an event")
    ] = None

    @classmethod
    def columns(cls, table: pa.Table) -> dict[str, Any]:
        """Return candidates."""
        check_columns(table, ("candidates",))
        return {"candidates": ids_of(table, "candidates")}


class EmbedOptions(Form):
    """Fields of `/embed` beside nodes."""

    t: Later = None
    kind: Annotated[
        StrictStr | None, Field(description="text: the kind of the nodes, which is needed if there are two kinds")
    ] = None


class Embed(EmbedOptions):
    """Fields of `/embed`."""

    options = EmbedOptions
    nodes: Ids

    @classmethod
    def columns(cls, table: pa.Table) -> dict[str, Any]:
        """Return nodes."""
        check_columns(table, ("node",))
        return {"nodes": ids_of(table, "node")}


def _refusal(form: type[Form], error: ValidationError, values: bool, where: str = "body") -> Refusal:
    """Return the refusal of a request that is no form; `values` says to name the value."""
    if error.error_count() > _FEW:
        return Refusal(422, f"the {where} has {error.error_count()} faults; the fields are {_listed(form)}")
    faults = error.errors(include_url=False, include_input=values)
    fault = max(faults, key=lambda each: (each["type"] == "extra_forbidden", len(each["loc"])))
    if fault["type"] == "json_invalid":
        return Refusal(400, f"the body is no JSON: {fault['ctx']['error']}")
    if not fault["loc"]:
        return Refusal(422, f"the {where} is no object with fields; the fields are {_listed(form)}")
    name = str(fault["loc"][0])
    if fault["type"] == "extra_forbidden":
        return Refusal(422, f"field {shown(name)} is unknown; the fields are {_listed(form)}")
    description = (form.model_fields[name].description or "").partition(";")[0]
    if fault["type"] == "missing":
        return Refusal(422, f"{name} is missing; give {description}")
    place = name + "".join(f"[{each}]" for each in fault["loc"][1:] if isinstance(each, int))
    value = f"is {_value(fault['input'])}" if values else "does not fit"
    return Refusal(422, f"{place} {value}; {name} must be {description}")


def _listed(form: type[Form]) -> str:
    return ", ".join(form.model_fields) or "none"


def _value(value: Any) -> str:
    """Return a value of JSON for a message."""
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shown(value)
