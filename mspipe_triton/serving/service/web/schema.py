"""Fields of requests: their types, what they mean, and the message about one that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, ValidationError, WithJsonSchema
from pydantic_core import from_json

from mspipe_triton.data.origin import shown
from mspipe_triton.serving.service.web.arrow import check_columns, features_of, ids_of, times_column
from mspipe_triton.serving.service.web.refusals import Refusal

F = TypeVar("F")
_ONE, _FIRST = Field(fail_fast=True), Field(union_mode="left_to_right")
# Text comes first, so that "007" in a query stays text.
_Id = Annotated[StrictStr | Annotated[int, Field(ge=-(2**63), lt=2**64)], _FIRST]
_Time = Annotated[StrictStr | int | float, _FIRST]
_Ids = Annotated[_Id | Annotated[list[_Id], _ONE], _FIRST]
_Times = Annotated[_Time | Annotated[list[_Time], _ONE], _FIRST]
_Row = Annotated[list[float], _ONE]


def _plain_columns(columns: dict[str, Any]) -> dict[str, Any]:
    """Return columns of plain values; pydantic would note a fault of each one, and memory has room for few of them.

    Raises:
        ValueError: a column has other values.
    """
    for values in columns.values():
        if not _PLAIN.issuperset(map(type, values if isinstance(values, list) else [values])):
            raise ValueError("a column has lists or objects")
    return columns


_PLAIN = {str, bool, int, float, type(None)}
_VALUE = {"type": ["string", "number", "boolean", "null"]}
_COLUMNS = {"type": "object", "additionalProperties": {"anyOf": [_VALUE, {"type": "array", "items": _VALUE}]}}
_Columns = Annotated[dict[str, Any], AfterValidator(_plain_columns), WithJsonSchema(_COLUMNS)]
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
            fields = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise Refusal(400, f"the body is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise Refusal(422, f"the body is {_shown(fields)}, no object; its fields are {_listed(cls)}")
        return cls._checked(fields, cls.model_validate)

    @classmethod
    def of_table(cls, table: pa.Table, query: dict[str, str]) -> Self:
        """Read a table, and options from a query.

        Raises:
            Refusal: a column or an option does not fit.
        """
        options = cls.options._checked(query, cls.options.model_validate_strings)
        return cls.model_construct(**dict(options), **cls.columns(table))

    @classmethod
    def _checked(cls, fields: dict[str, Any], validate: Callable[[dict[str, Any]], F]) -> F:
        """Return the form that fields make.

        Raises:
            Refusal: about the first fault.
        """
        unknown = next((name for name in fields if name not in cls.model_fields), None)
        if unknown is not None:
            raise Refusal(422, f"field {shown(unknown)} is unknown; the fields are {_listed(cls)}")
        try:
            return validate(fields)
        except ValidationError as error:
            raise _refusal(cls, error) from error

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
    top: Annotated[int, Field(ge=1, description="a whole number of destinations to return, at least 1")] = 10
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


def _refusal(form: type[Form], error: ValidationError) -> Refusal:
    """Return the refusal of a request about the fault that is deepest in a field."""
    fault = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))
    name = str(fault["loc"][0])
    description = (form.model_fields[name].description or "").partition(";")[0]
    if fault["type"] == "missing":
        return Refusal(422, f"{name} is missing; give {description}")
    place = name + "".join(f"[{each}]" for each in fault["loc"][1:] if isinstance(each, int))
    return Refusal(422, f"{place} is {_shown(fault['input'])}; {name} must be {description}")


def _listed(form: type[Form]) -> str:
    return ", ".join(form.model_fields) or "none"


def _shown(value: Any) -> str:
    """Return a value of JSON for a message."""
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shown(value)
