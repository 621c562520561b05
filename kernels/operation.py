"""Operations from one signature, a tuple of the inputs: public function, torch's custom operation, backward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast, get_type_hints

import torch

from mspipe_triton.kernels.launch import on_triton, served

P = ParamSpec("P")
I = TypeVar("I", bound=tuple[Any, ...])  # noqa: E741
O = TypeVar("O", bound=tuple[Any, ...])  # noqa: E741
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Gradients = dict[str, torch.Tensor]


class Operation(Protocol[P, R_co]):
    """A public function, and the two ways to compute it, unchecked."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Checked, on whatever device the arguments are."""

    def reference(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """By torch."""

    def launch(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """By kernels."""


@dataclass
class Registered:
    """An operation by the flat arguments of its schema, as torch's dispatcher calls it.

    Args:
        reference, launch: by torch, by kernels. on: the argument whose device decides.
    """

    reference: Callable[..., Any]
    launch: Callable[..., Any]
    on: int

    def __call__(self, *flat: Any) -> Any:
        """The outputs, by the way that fits the device."""
        return (self.launch if on_triton(flat[self.on]) else self.reference)(*flat)


OPERATIONS: dict[str, Registered] = {}


@dataclass(frozen=True)
class Backward(Generic[I, O]):
    """The backward pass of an operation, which becomes an operation itself.

    A way to compute it takes the inputs, the outputs and the outputs' gradients, all by name, and the names of the
    inputs that need a gradient; it gives those of at least them, by name.

    Args:
        reference, launch: by torch, by kernels.
        leaves: the inputs that are differentiable.
        forgets: inputs and outputs that it does not read, and which may be written meanwhile. They are None, but for
            leaves where one of them needs a gradient: those have their shape and dtype and no contents.
        outputs: how many of the outputs, from the first on, have a gradient.
    """

    reference: Callable[[I, O, O, frozenset[str]], Gradients]
    launch: Callable[[I, O, O, frozenset[str]], Gradients]
    leaves: tuple[str, ...]
    forgets: tuple[str, ...] = ()
    outputs: int = 1


def operation(
    name: str,
    inputs: Callable[P, I],
    *,
    reference: Callable[[I], R],
    launch: Callable[[I], R],
    check: Callable[[I], None],
    on: str,
    fake: Callable[[I], R] | None = None,
    mutates: tuple[str, ...] = (),
    refuses: str = "",
) -> Operation[P, R]:
    """The public function of an operation without a gradient, which is registered with torch.

    Args:
        inputs: a NamedTuple of the arguments, whose docstring is the function's.
        reference, launch: by torch, which a plain call on the CPU takes at once, and by kernels. check: refuses inputs.
        on: the input whose device decides between them.
        fake: gives the outputs unwritten; needed where there are any.
        mutates: the inputs that it writes.
        refuses: what a backward pass through it says; where it is empty, torch's own words.
    """
    make, hints, place = cast(Any, inputs), get_type_hints(inputs), _place(inputs, on)
    returns = get_type_hints(reference)["return"]

    def flat(run: Callable[[I], R]) -> Callable[..., Any]:
        return lambda *arguments: run(make(*arguments))

    registered = Registered(flat(reference), flat(launch), place)
    custom = _register(name, hints, returns, registered, flat(fake) if fake else None, mutates)
    if refuses:
        _refuse(custom, refuses)
    overload = getattr(torch.ops.mspipe_triton, name).default

    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        of = inputs(*args, **kwargs)
        check(of)
        asked = refuses and any(isinstance(value, torch.Tensor) and value.requires_grad for value in of)
        return reference(of) if eager(of[place]) and not asked else overload(*of)

    return _public(name, inputs, returns, torch.no_grad()(call) if mutates else call, reference, launch)


def differentiable(
    name: str,
    inputs: Callable[P, I],
    *,
    reference: Callable[[I, bool], O],
    launch: Callable[[I, bool], O],
    fake: Callable[[I, bool], O],
    check: Callable[[I], None],
    on: str,
    returns: Callable[[O], R],
    backward: Backward[I, O],
) -> Operation[P, R]:
    """The public function of an operation with a gradient, which is registered with torch, as is its backward pass.

    Arguments as in `operation`, but for

    Args:
        reference, launch, fake: they are told whether a backward pass will follow, and give a NamedTuple of outputs;
            those that only a backward pass reads may be empty where none follows.
        returns: which of the outputs the public function returns, from the first on.
    """
    make, hints, place = cast(Any, inputs), get_type_hints(inputs), _place(inputs, on)
    outputs = get_type_hints(reference)["return"]
    shown = returns(outputs(*outputs._fields))
    many = 0 if isinstance(shown, str) else len(cast(tuple[str, ...], shown))

    def flat(run: Callable[[I, bool], O]) -> Callable[..., Any]:
        return lambda *arguments: run(make(*arguments[:-1]), arguments[-1])

    def public(result: Any) -> Any:
        return result[:many] if many else result[0]

    registered = Registered(flat(reference), flat(launch), place)
    custom = _register(name, {**hints, "save": bool}, _tensors(len(outputs._fields)), registered, flat(fake), ())
    overload, leaves = (
        getattr(torch.ops.mspipe_triton, name).default,
        [_place(inputs, leaf) for leaf in backward.leaves],
    )
    setup, differentiate = _autograd(name, inputs, outputs, on, backward)
    custom.register_autograd(differentiate, setup_context=setup)

    class Direct(torch.autograd.Function):
        """The reference under autograd, past the dispatcher."""

        @staticmethod
        def forward(ctx: Any, *of: Any) -> Any:
            result = reference(make(*of), True)
            setup(ctx, of, result)
            return result

        backward = staticmethod(differentiate)

    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        of = inputs(*args, **kwargs)
        check(of)
        enabled = torch.is_grad_enabled()
        save = enabled and any(of[leaf].requires_grad for leaf in leaves)
        if not eager(of[place]):
            return public(overload(*of, save))
        if save:
            return public(Direct.apply(*of))
        with torch.set_grad_enabled(False):
            return public(reference(of, False))

    returned = _tensors(many) if many else torch.Tensor
    ways = [lambda of, way=way: public(way(of, False)) for way in (reference, launch)]
    return _public(name, inputs, returned, call, *ways)


class _Kept(NamedTuple):
    """Places among inputs and outputs: of tensors that a backward pass reads, of other values, of forgotten leaves."""

    tensors: list[int]
    values: list[int]
    shapes: list[int]


def _autograd(
    name: str, inputs: Any, outputs: Any, on: str, backward: Backward[I, O]
) -> tuple[Callable[..., None], Callable[..., Any]]:
    """`setup_context` and `backward` of an operation, whose backward pass is registered as one."""
    hints = {**get_type_hints(inputs), **get_type_hints(outputs)}
    names, taken, through = list(hints), len(inputs._fields), outputs._fields[: backward.outputs]
    tensor = [hint in (torch.Tensor, torch.Tensor | None) for hint in hints.values()]
    kept = _Kept(
        [place for place, key in enumerate(names) if tensor[place] and key not in backward.forgets],
        [place for place in range(taken) if not tensor[place]],
        [place for place, key in enumerate(names) if key in backward.forgets and key in backward.leaves],
    )
    leaves = [names.index(leaf) for leaf in backward.leaves]
    missing = [None] * (len(outputs._fields) - len(through))

    def flat(way: Callable[[I, O, O, frozenset[str]], Gradients]) -> Callable[..., list[torch.Tensor]]:
        def run(*values: Any) -> list[torch.Tensor]:
            needs = [leaf for leaf, needed in zip(backward.leaves, values[-1], strict=True) if needed]
            of, out = inputs(*values[:taken]), outputs(*values[taken : len(names)])
            gradients = way(of, out, outputs(*values[len(names) : -1], *missing), frozenset(needs))
            return [gradients[leaf] for leaf in needs]

        return run

    def fake(of: I, out: O, grad: O, needs: frozenset[str]) -> Gradients:
        return {leaf: getattr(of, leaf).new_empty(getattr(of, leaf).shape) for leaf in needs}

    grads: dict[str, Any] = {f"d_{output}": torch.Tensor | None for output in through}
    forgotten = dict.fromkeys(backward.forgets, torch.Tensor | None)
    registered = Registered(flat(backward.reference), flat(backward.launch), names.index(on))
    flat_hints = {**hints, **forgotten, **grads, "needs": list[bool]}
    custom = _register(f"{name}_backward", flat_hints, list[torch.Tensor], registered, flat(fake), ())
    # Without this, gradients of gradients would silently count as constants.
    _refuse(custom, "no second derivative to differentiate twice; backward without create_graph")
    overload = getattr(torch.ops.mspipe_triton, f"{name}_backward").default

    def setup(ctx: Any, inputs: Sequence[Any], output: Sequence[torch.Tensor]) -> None:
        every = (*inputs[:taken], *output)
        ctx.save_for_backward(*(every[place] for place in kept.tensors))
        ctx.values = [every[place] for place in kept.values]
        ctx.shapes = [(every[place].shape, every[place].dtype) for place in kept.shapes]
        ctx.mark_non_differentiable(*output[len(through) :])
        ctx.set_materialize_grads(False)  # else zeros would be made for what is saved, too

    def differentiate(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        needs = ctx.needs_input_grad
        grad = next((grad for grad in grads if grad is not None), None)
        if grad is None:
            return (None,) * len(needs)
        every: list[Any] = [None] * len(names)
        for places, values in ((kept.tensors, ctx.saved_tensors), (kept.values, ctx.values)):
            for place, value in zip(places, values, strict=True):
                every[place] = value
        if any(needs[place] for place in kept.shapes):
            for place, (shape, dtype) in zip(kept.shapes, ctx.shapes, strict=True):
                every[place] = grad.new_empty((), dtype=dtype).expand(shape)
        every += [*grads[: len(through)], [needs[leaf] for leaf in leaves]]
        made = iter(registered.reference(*every) if eager_backward(grad) else overload(*every))
        by_place = {leaf: next(made) for leaf in leaves if needs[leaf]}
        return tuple(by_place.get(place) for place in range(len(needs)))

    return setup, differentiate


def _register(
    name: str, hints: Mapping[str, Any], returns: Any, run: Registered, fake: Callable[..., Any] | None,
    mutates: tuple[str, ...],
) -> Any:  # fmt: skip
    """A custom operation whose schema has the hints' names and types, without defaults."""

    def prototype() -> None: ...

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    # torch's functionalisation of mutating operations has an argument `mode` of its own.
    named = [("aggregator" if key == "mode" else key, hint) for key, hint in hints.items()]
    parameters = [inspect.Parameter(key, kind, annotation=hint) for key, hint in named]
    returned = None if returns is NoneType else returns
    prototype.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    schema = torch.library.infer_schema(prototype, mutates_args=mutates)
    custom = torch.library.custom_op(
        f"mspipe_triton::{name}", lambda *flat: run(*flat), mutates_args=mutates, schema=schema
    )
    if fake is not None:
        custom.register_fake(fake)
    OPERATIONS[name] = run
    return custom


def _refuse(custom: Any, words: str) -> None:
    """Make differentiating a custom operation raise."""

    def refuse(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{custom._name}: {words}")

    custom.register_autograd(refuse)


def _place(inputs: Any, name: str) -> int:
    return cast(int, inputs._fields.index(name))


def _tensors(count: int) -> Any:
    return tuple[(torch.Tensor,) * count]  # type: ignore[misc]


def _public(
    name: str, inputs: Callable[P, I], returns: Any, call: Callable[P, R], *ways: Callable[[I], R]
) -> Operation[P, R]:
    """The public function: what `help` and errors say of it comes from the inputs."""
    public, make, hints = cast(Any, call), cast(Any, inputs), get_type_hints(inputs)
    kind, defaults = inspect.Parameter.POSITIONAL_OR_KEYWORD, make._field_defaults
    parameters = [
        inspect.Parameter(key, kind, default=defaults.get(key, inspect.Parameter.empty), annotation=hint)
        for key, hint in hints.items()
    ]
    public.__signature__ = inspect.Signature(parameters, return_annotation=returns)
    public.__annotations__ = {**hints, "return": returns}
    public.__name__ = public.__qualname__ = make.__new__.__qualname__ = name
    public.__module__, public.__doc__ = make.__module__, make.__doc__
    public.reference, public.launch = (lambda *args, way=way, **kwargs: way(inputs(*args, **kwargs)) for way in ways)
    return cast("Operation[P, R]", public)


def eager(tensor: torch.Tensor) -> bool:
    """Whether a reference may be called past the dispatcher, which costs as much as a small call: a plain CPU tensor,
    nothing tracing or transforming."""
    return (
        tensor.is_cpu
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not served("cpu")  # its own device would cost more to look up than all of the above
    )


def eager_backward(tensor: torch.Tensor) -> bool:
    """The same in a backward pass; one that is recorded itself (create_graph) takes the operation, which refuses."""
    return eager(tensor) and not torch.is_grad_enabled()
