"""Page of the public names of the package, from their docstrings: `python -m bench.api` writes docs/api.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cached_property
from textwrap import dedent, fill
from typing import Any, NamedTuple

import mspipe_triton
from bench.report import ROOT
from mspipe_triton import MspipeError
from mspipe_triton.pipeline import graphpipe
from mspipe_triton.pipeline.graphpipe import run

PAGE = ROOT / "docs" / "api.md"
WIDTH = 120
GROUPS = {
    "Using a model": ("load", "Predictor"),
    "Training": ("train", "train_seeds", "continuation", "evaluate_run"),
    "Data": ("read_stream", "EventStream", "synthetic_stream", "PairIndex"),
    "Settings": ("RunConfig", "ModelConfig", "TrainConfig", "DataConfig"),
    "Errors": ("MspipeError",),
    "Pipelines": (
        "plan_model", "Planned", "Choice", "Problem", "Cluster", "Accelerator", "OperatorGraph", "Operator", "Duration",
        "PipelinePlan", "PipelineStage", "simulate_plan", "Timeline", "stage_graph", "draw", "write_trace",
        "read_plan", "read_profile",
    ),
    "Pipelined runs": (
        "StageTrainer", "StepReport", "save_checkpoint", "load_checkpoint", "module_state", "RunResult", "StageResult",
        "Comparison",
    ),
}  # fmt: skip
HEAD = """# Reference

Everything that `mspipe_triton` offers to Python, as in `from mspipe_triton import load, train`. What is under
"Pipelines" belongs to `mspipe_triton.pipeline.graphpipe`, and under "Pipelined runs" to its part `run`. `python -m
bench.api` writes this page from the docstrings. The guides show these names at work:
[predictions](guides/predictions.md), [data from Python](guides/python.md), [training](guides/training.md),
[pipelines](guides/graphpipe.md), [pipelined runs](guides/graphpipe-run.md); for the fused operations, see [kernels
alone](guides/kernels.md)."""
MADE_ELSEWHERE = ("Predictor",)  # classes that users get from a function
PACKAGES = {"Pipelines": graphpipe, "Pipelined runs": run}
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):\n((?:(?: +\S.*)?\n)+)", re.MULTILINE)


class Doc(NamedTuple):
    """A docstring in parts: its text, and its sections by name, whose lines start at column 0."""

    text: str
    sections: Mapping[str, str]


def page() -> str:
    """Return the whole page."""
    contents = [
        f"* {group}: " + ", ".join(f"[`{name}`](#{name.lower()})" for name in names) for group, names in GROUPS.items()
    ]
    parts = [HEAD, "\n".join(wrapped(line, "  ") for line in contents)]
    for group, names in GROUPS.items():
        parts.append(f"## {group}")
        for name in names:
            parts += entry(name, getattr(PACKAGES.get(group, mspipe_triton), name))
    return "\n\n".join(parts) + "\n"


def entry(name: str, value: Any) -> Iterator[str]:
    """Yield the paragraphs about a public name."""
    yield f"### {name}"
    if not inspect.isclass(value):
        yield from about(name, value)
        return
    doc = parsed(value)
    called = "Args" in doc.sections and name not in MADE_ELSEWHERE
    if called:
        yield signature(name, value)
    yield paragraphs(doc.text)
    for base in value.__mro__[1:]:
        if base.__module__.startswith("mspipe_triton"):
            yield paragraphs(parsed(base).text)
    if called or is_dataclass(value):
        yield from sections(value, doc)
    if is_dataclass(value) and "Args" not in doc.sections and all(has_default(field) for field in fields(value)):
        yield table(fields(value))
    if issubclass(value, MspipeError):
        yield "\n".join(errors(value))
    yield from members(name, value)


def members(name: str, value: type) -> Iterator[str]:
    """Yield the paragraphs about a class's public properties and methods, those of its bases first."""
    public: dict[str, Any] = {}
    for each in reversed(value.__mro__):
        if each.__module__.startswith("mspipe_triton"):
            public |= {key: member for key, member in vars(each).items() if key == "__len__" or key[0] != "_"}
    lines = []
    for key, member in public.items():
        if isinstance(member, property | cached_property):
            getter = member.fget if isinstance(member, property) else member.func
            kind = inspect.signature(getter).return_annotation if getter else ""
            lines.append(f"* `{key}`, `{kind}`: {flat(parsed(member).text)}")
        elif key == "__len__":
            lines.insert(0, f"* `len(…)`: {flat(parsed(member).text)}")
    if lines:
        yield "Properties:"
        yield "\n".join(wrapped(line, "  ") for line in lines)
    for key, member in public.items():
        if isinstance(member, staticmethod):
            yield f"#### {name}.{key}"
            yield from about(f"{name}.{key}", member.__func__)
        elif inspect.isfunction(member) and key != "__len__":
            yield f"#### {name}.{key}"
            yield from about(key, member)


def about(name: str, function: Callable[..., Any]) -> Iterator[str]:
    """Yield the signature and the docstring of a function."""
    doc = parsed(function)
    yield signature(name, function)
    yield paragraphs(doc.text)
    yield from sections(function, doc)


def signature(name: str, value: Callable[..., Any]) -> str:
    """Return a call with types and defaults as a block, one argument per line if it is long."""
    call, words = inspect.signature(value), []
    for each in call.parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        if each.name != "self":
            words.append(argument(each))
    end = "" if inspect.isclass(value) else f" -> {call.return_annotation}"
    line = f"{name}({', '.join(words)}){end}"
    if len(line) > WIDTH:
        line = f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){end}"
    return f"```python\n{line}\n```"


def argument(parameter: inspect.Parameter) -> str:
    """Return an argument as in a signature."""
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}: {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    return f"{text} = {shown(parameter.default)}"


def shown(default: Any) -> str:
    """Return a default as one writes it; a function stands for itself by its name."""
    if inspect.isfunction(default):
        return "…" if default.__name__ == "<lambda>" else default.__name__
    return str(default).replace("'", '"') if not isinstance(default, str) else f'"{default}"'


def parsed(value: Any) -> Doc:
    """Read a docstring."""
    text = inspect.getdoc(value) or ""
    parts = {match[1]: dedent(match[2]) for match in SECTION.finditer(text + "\n")}
    return Doc(SECTION.sub("", text + "\n").strip(), parts)


def sections(value: Callable[..., Any], doc: Doc) -> Iterator[str]:
    """Yield the sections of a docstring as lists."""
    names = list(inspect.signature(value).parameters)
    if "Args" in doc.sections:
        yield "Arguments:"
        yield "\n".join(items(doc.sections["Args"], names))
    if "Attributes" in doc.sections:
        yield "Attributes:"
        yield "\n".join(
            items(doc.sections["Attributes"], re.findall(r"^\w+(?=:)", doc.sections["Attributes"], re.MULTILINE))
        )
    if "Returns" in doc.sections:
        yield wrapped(f"Returns: {flat(doc.sections['Returns'])}")
    if "Raises" in doc.sections:
        yield "Raises:"
        yield "\n".join(items(doc.sections["Raises"], re.findall(r"^\w+(?=:)", doc.sections["Raises"], re.MULTILINE)))


def items(section: str, names: list[str]) -> Iterator[str]:
    """Yield one list item per entry; an entry starts with names and a colon, at a line's or a sentence's start."""
    name = "|".join(map(re.escape, names))
    start = re.compile(rf"(?:^|(?<=[.;] )|(?<=[.;]\n))((?:{name})(?:, (?:{name}))*): ", re.MULTILINE)
    _, *parts = start.split(re.sub(r"\n +", " ", section))
    for heads, text in zip(parts[::2], parts[1::2], strict=True):
        heads = ", ".join(f"`{each}`" for each in heads.split(", "))
        yield wrapped(f"* {heads}: {flat(text).rstrip('.;')}.", "  ")


def table(settings: tuple[Field[Any], ...]) -> str:
    """Return the fields of settings as a table: name, type, default, and the help of the flag."""
    lines = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for each in settings:
        kind = str(each.type).replace("|", r"\|")
        default = shown(each.default) if each.default is not MISSING else "{}" if "Map" in kind else f"{kind}()"
        meaning = each.metadata.get("help", "")
        if (text := each.metadata.get("default_text", "")) not in ("", str(each.default)):
            meaning += f" By default {text}."
        lines.append(f"| `{each.name}` | `{kind}` | `{default}` | {meaning} |")
    return "\n".join(lines)


def has_default(setting: Field[Any]) -> bool:
    """Return True for a field that need not be set."""
    return setting.default is not MISSING or setting.default_factory is not MISSING


def errors(base: type[Exception]) -> Iterator[str]:
    """Yield an item per error that is derived from a base, each below the one it is derived from."""
    for each in base.__subclasses__():
        if each.__module__ != base.__module__:
            continue
        yield wrapped(f"* `{each.__name__}`: {flat(parsed(each).text)}", "  ")
        yield from ("\n".join(f"  {line}" for line in item.split("\n")) for item in errors(each))


def paragraphs(text: str) -> str:
    """Return text with every paragraph wrapped."""
    return "\n\n".join(wrapped(part) for part in text.split("\n\n"))


def wrapped(text: str, indent: str = "") -> str:
    """Return text in lines of at most 120 columns, those after the first indented."""
    return fill(flat(text), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def flat(text: str) -> str:
    """Return text on one line."""
    return " ".join(text.split())


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
