"""Operations from one signature, a tuple of the inputs: public function, torch's custom operation, backward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, get_type_hints

import torch
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import peek_interpreter_stack
from torch.compiler import is_compiling

from mspipe_triton.kernels.runtime.launch import on_triton, served

P = ParamSpec("P")
I = TypeVar("I", bound=tuple[Any, ...])  # noqa: E741
O = TypeVar("O", bound=tuple[Any, ...])  # noqa: E741
R = TypeVar("R")
Gradients = dict[str, torch.Tensor]
Way = Callable[[I, O, O, frozenset[str]], Gradients]
_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD


class Operation(Protocol[P, R]):
    """A public function, with the two ways to compute it, by torch and by kernels, unchecked."""

    __name__: str
    reference: Callable[P, R]
    launch: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Refuse what cannot be taken, and compute it by what fits the device."""


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

    reference: Way[I, O]
    launch: Way[I, O]
    leaves: tuple[str, ...]
    forgets: tuple[str, ...] = ()
    outputs: int = 1


OPERATIONS: dict[str, Registered] = {}


class Registered:
    """An operation of flat arguments, as torch's dispatcher knows it; calling it computes without the dispatcher.

    Args:
        hints: types of the arguments by name, which become the schema, without defaults. returns: that of the result.
        on: the argument whose device decides between the ways.
        ways: by torch, by kernels, and one that gives the result unwritten, which needs none where there is none.
        mutates: the arguments that it writes.
    """

    def __init__(
        self, name: str, hints: Mapping[str, Any], returns: Any, on: str, ways: Iterable[Callable[..., Any]],
        mutates: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.reference, self.launch, *fakes = ways
        self._on, self._name = [*hints].index(on), name
        # torch's functionalisation of mutating operations has an argument `mode` of its own.
        named = [("aggregator" if key == "mode" else key, hint) for key, hint in hints.items()]
        prototype = cast(Any, lambda: None)
        prototype.__signature__ = inspect.Signature(
            [inspect.Parameter(key, _POSITIONAL, annotation=hint) for key, hint in named],
            return_annotation=None if returns is NoneType else returns,
        )
        schema = torch.library.infer_schema(prototype, mutates_args=mutates)
        self.custom = torch.library.custom_op(
            f"mspipe_triton::{name}", lambda *flat: self(*flat), mutates_args=mutates, schema=schema
        )
        for fake in fakes:
            self.custom.register_fake(fake)
        self.dispatch = getattr(torch.ops.mspipe_triton, name).default
        OPERATIONS[name] = self

    def __call__(self, *flat: Any) -> Any:
        """The result, by the way that fits the device."""
        return (self.launch if on_triton(flat[self._on]) else self.reference)(*flat)

    def refuse(self, words: str) -> None:
        """Make differentiating it raise."""

        def refuse(ctx: Any, *grads: Any) -> None:
            raise RuntimeError(f"{self._name}: {words}")

        self.custom.register_autograd(refuse)


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
    make, returns = cast(Any, inputs), get_type_hints(reference)["return"]
    place: int = make._fields.index(on)
    ways = [lambda *args, way=way: way(make(*args)) for way in (reference, launch, fake) if way is not None]
    registered = Registered(name, get_type_hints(inputs), returns, on, ways, mutates)
    dispatch = registered.dispatch
    if refuses:
        registered.refuse(refuses)

    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        values = inputs(*args, **kwargs)
        check(values)
        refused = refuses and any(isinstance(value, torch.Tensor) and value.requires_grad for value in values)
        return reference(values) if eager(values[place]) and not refused else dispatch(*values)

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
    make, outputs = cast(Any, inputs), get_type_hints(reference)["return"]
    shown = cast(Any, returns(outputs(*outputs._fields)))
    many = 0 if isinstance(shown, str) else len(shown)
    place, *leaves = (make._fields.index(name) for name in (on, *backward.leaves))
    ways = [lambda *args, way=way: way(make(*args[:-1]), args[-1]) for way in (reference, launch, fake)]
    hints = {**get_type_hints(inputs), "save": bool}
    registered = Registered(name, hints, _tensors(len(outputs._fields)), on, ways)
    setup, differentiate = _autograd(name, inputs, outputs, on, backward)
    registered.custom.register_autograd(differentiate, setup_context=setup)
    dispatch = registered.dispatch

    class Direct(torch.autograd.Function):
        """The reference under autograd, past the dispatcher."""

        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            result = reference(make(*args), True)
            setup(ctx, args, result)
            return result

        backward = staticmethod(differentiate)

    def public(result: Any) -> Any:
        return result[:many] if many else result[0]

    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        values = inputs(*args, **kwargs)
        check(values)
        save = torch.is_grad_enabled() and any(values[leaf].requires_grad for leaf in leaves)
        if not eager(values[place]):
            return public(dispatch(*values, save))
        if save:
            return public(Direct.apply(*values))
        with torch.no_grad():
            return public(reference(values, False))

    plain = [lambda args, way=way: public(way(args, False)) for way in (reference, launch)]
    return _public(name, inputs, _tensors(many) if many else torch.Tensor, call, *plain)


def _autograd(
    name: str, inputs: Any, outputs: Any, on: str, backward: Backward[I, O]
) -> tuple[Callable[..., None], Callable[..., Any]]:
    """`setup_context` and `backward` of an operation, whose backward pass is registered as one."""
    hints = {**get_type_hints(inputs), **get_type_hints(outputs)}
    names, taken, through = [*hints], len(inputs._fields), backward.outputs
    without = [None] * (len(names) - taken - through)
    tensors = [key for key, hint in hints.items() if hint in (torch.Tensor, torch.Tensor | None)]
    kept = [names.index(key) for key in tensors if key not in backward.forgets]
    values = [place for place in range(taken) if names[place] not in tensors]
    shapes = [names.index(key) for key in backward.leaves if key in backward.forgets]
    leaves = [names.index(leaf) for leaf in backward.leaves]

    def flat(way: Way[I, O]) -> Callable[..., list[torch.Tensor]]:
        def run(*every: Any) -> list[torch.Tensor]:
            needs = [leaf for leaf, needed in zip(backward.leaves, every[-1], strict=True) if needed]
            args, out = inputs(*every[:taken]), outputs(*every[taken : len(names)])
            gradients = way(args, out, outputs(*every[len(names) : -1], *without), frozenset(needs))
            return [gradients[leaf] for leaf in needs]

        return run

    def fake(args: I, out: O, grad: O, needs: frozenset[str]) -> Gradients:
        return {leaf: getattr(args, leaf).new_empty(getattr(args, leaf).shape) for leaf in needs}

    optional = [*backward.forgets, *(f"d_{output}" for output in names[taken : taken + through])]
    hints |= {**dict.fromkeys(optional, torch.Tensor | None), "needs": list[bool]}
    ways = [flat(way) for way in (backward.reference, backward.launch, fake)]
    registered = Registered(f"{name}_backward", hints, list[torch.Tensor], on, ways)
    # Without this, gradients of gradients would silently count as constants.
    registered.refuse("no second derivative to differentiate twice; backward without create_graph")

    def setup(ctx: Any, inputs: Sequence[Any], output: Sequence[torch.Tensor]) -> None:
        every = (*inputs[:taken], *output)
        ctx.save_for_backward(*(every[place] for place in kept))
        ctx.values = [every[place] for place in values]
        ctx.shapes = [(every[place].shape, every[place].dtype) for place in shapes]
        ctx.mark_non_differentiable(*output[through:])
        ctx.set_materialize_grads(False)  # else zeros would be made for what is saved, too

    def differentiate(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        needs, grad = ctx.needs_input_grad, next((grad for grad in grads if grad is not None), None)
        if grad is None:
            return (None,) * len(needs)
        every: list[Any] = [None] * len(names)
        for place, value in zip((*kept, *values), (*ctx.saved_tensors, *ctx.values), strict=True):
            every[place] = value
        if any(needs[place] for place in shapes):
            for place, (shape, dtype) in zip(shapes, ctx.shapes, strict=True):
                every[place] = grad.new_empty((), dtype=dtype).expand(shape)
        every += [*grads[:through], [needs[leaf] for leaf in leaves]]
        direct = eager(grad) and not torch.is_grad_enabled()  # else it is recorded itself, which it refuses
        made = (registered.reference if direct else registered.dispatch)(*every)
        by_place = dict(zip((leaf for leaf in leaves if needs[leaf]), made, strict=True))
        return tuple(by_place.get(place) for place in range(len(needs)))

    return setup, differentiate


def _tensors(count: int) -> Any:
    return tuple[(torch.Tensor,) * count]  # type: ignore[misc]


def _public(
    name: str, inputs: Callable[P, I], returns: Any, call: Callable[P, R], *ways: Callable[[I], R]
) -> Operation[P, R]:
    """The public function: what `help` and errors say of it comes from the inputs."""
    public, make, hints = cast(Any, call), cast(Any, inputs), get_type_hints(inputs)
    returns = None if returns is NoneType else returns
    defaults = dict.fromkeys(hints, inspect.Parameter.empty) | make._field_defaults
    public.__signature__ = inspect.Signature(
        [inspect.Parameter(key, _POSITIONAL, default=defaults[key], annotation=hint) for key, hint in hints.items()],
        return_annotation=returns,
    )
    public.__annotations__ = {**hints, "return": returns}
    public.__name__ = public.__qualname__ = make.__new__.__qualname__ = name
    public.__module__, public.__doc__ = make.__module__, make.__doc__
    public.reference, public.launch = (lambda *args, way=way, **kwargs: way(inputs(*args, **kwargs)) for way in ways)
    return cast("Operation[P, R]", public)


def eager(tensor: torch.Tensor) -> bool:
    """True where a reference may be called past the dispatcher, which costs as much as a small call: for a plain CPU
    tensor, with nothing tracing or transforming."""
    return (
        tensor.is_cpu
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and not is_compiling()
        and _len_torch_dispatch_stack() == 0
        and peek_interpreter_stack() is None
        and not served("cpu")  # its own device would cost more to look up than all of the above
    )
