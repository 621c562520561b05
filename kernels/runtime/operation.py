"""Operations built from one tuple of inputs: public function, torch's custom operation and backward pass."""

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
    """A public function with its two implementations, torch reference and kernel launch, which skip the checks."""

    __name__: str
    reference: Callable[P, R]
    launch: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Check the inputs, and compute the result by the implementation for their device."""


@dataclass(frozen=True)
class Backward(Generic[I, O]):
    """The backward pass of an operation, which is registered as an operation itself.

    An implementation takes the inputs, the outputs and the outputs' gradients as NamedTuples, and the names of the
    inputs that need a gradient. It returns at least those gradients, by name.

    Args:
        reference, launch: implementations in torch and by kernels.
        leaves: the differentiable inputs.
        forgets: inputs and outputs that the backward pass does not read, and that may be overwritten before it. They
            are None, except leaves if one of them needs a gradient: these keep their shape and dtype, not their values.
        outputs: the number of leading outputs that have a gradient.
    """

    reference: Way[I, O]
    launch: Way[I, O]
    leaves: tuple[str, ...]
    forgets: tuple[str, ...] = ()
    outputs: int = 1


OPERATIONS: dict[str, Registration] = {}


class Registration:
    """An operation with flat arguments, registered with torch's dispatcher; a call bypasses the dispatcher.

    Args:
        hints: types of the arguments by name, which form the schema, without defaults. returns: the result's type.
        on: the argument whose device selects the implementation.
        ways: implementations in torch and by kernels, then one that allocates the result, if there is a result.
        mutates: the arguments that the operation writes.
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
        """Compute the result by the implementation for the device."""
        return (self.launch if on_triton(flat[self._on]) else self.reference)(*flat)

    def refuse(self, words: str) -> None:
        """Raise an error with these words if the operation is differentiated."""

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
    """Register an operation without a gradient with torch, and return its public function.

    Args:
        inputs: a NamedTuple of the arguments, whose docstring becomes the function's.
        reference, launch: implementations in torch, which a plain call on the CPU uses directly, and by kernels.
        check: raises an error for invalid inputs.
        on: the input whose device selects the implementation.
        fake: allocates the outputs; needed if there are any.
        mutates: the inputs that the operation writes.
        refuses: the error message of a backward pass; if empty, torch's own.
    """
    make, returns = cast(Any, inputs), get_type_hints(reference)["return"]
    place: int = make._fields.index(on)
    ways = [lambda *args, way=way: way(make(*args)) for way in (reference, launch, fake) if way is not None]
    registered = Registration(name, get_type_hints(inputs), returns, on, ways, mutates)
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
    """Register an operation with a gradient and its backward pass with torch, and return its public function.

    Arguments are as in `operation`, except

    Args:
        reference, launch, fake: their second argument says whether a backward pass will follow. They return a
            NamedTuple; outputs for the backward pass may be empty if none follows.
        returns: selects the leading outputs that the public function returns.
    """
    make, outputs = cast(Any, inputs), get_type_hints(reference)["return"]
    fields = cast(Any, returns(outputs(*outputs._fields)))
    number = 0 if isinstance(fields, str) else len(fields)  # 0: the one output itself, not a tuple
    place, *leaves = (make._fields.index(name) for name in (on, *backward.leaves))
    ways = [lambda *args, way=way: way(make(*args[:-1]), args[-1]) for way in (reference, launch, fake)]
    hints = {**get_type_hints(inputs), "save": bool}
    registered = Registration(name, hints, _tensors(len(outputs._fields)), on, ways)
    setup, differentiate = _autograd(name, inputs, outputs, on, backward)
    registered.custom.register_autograd(differentiate, setup_context=setup)
    dispatch = registered.dispatch

    class Direct(torch.autograd.Function):
        """The reference under autograd, without the dispatcher."""

        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            result = reference(make(*args), True)
            setup(ctx, args, result)
            return result

        backward = staticmethod(differentiate)

    def public(result: Any) -> Any:
        return result[:number] if number else result[0]

    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        values = inputs(*args, **kwargs)
        check(values)
        save = torch.is_grad_enabled() and any(leaf.requires_grad for i in leaves if (leaf := values[i]) is not None)
        if not eager(values[place]):
            return public(dispatch(*values, save))
        if save:
            return public(Direct.apply(*values))
        with torch.no_grad():
            return public(reference(values, False))

    plain = [lambda args, way=way: public(way(args, False)) for way in (reference, launch)]
    return _public(name, inputs, _tensors(number) if number else torch.Tensor, call, *plain)


def _autograd(
    name: str, inputs: Any, outputs: Any, on: str, backward: Backward[I, O]
) -> tuple[Callable[..., None], Callable[..., Any]]:
    """Register the backward pass of an operation, and return the operation's `setup_context` and `backward`."""
    hints = {**get_type_hints(inputs), **get_type_hints(outputs)}
    names, arity, graded = [*hints], len(inputs._fields), backward.outputs
    no_gradients = [None] * (len(names) - arity - graded)
    tensors = [key for key, hint in hints.items() if hint in (torch.Tensor, torch.Tensor | None)]
    saved = [names.index(key) for key in tensors if key not in backward.forgets]
    values = [place for place in range(arity) if names[place] not in tensors]
    shapes = [names.index(key) for key in backward.leaves if key in backward.forgets]
    leaves = [names.index(leaf) for leaf in backward.leaves]

    def flat(way: Way[I, O]) -> Callable[..., list[torch.Tensor]]:
        def run(*arguments: Any) -> list[torch.Tensor]:
            needs = [leaf for leaf, needed in zip(backward.leaves, arguments[-1], strict=True) if needed]
            args, out = inputs(*arguments[:arity]), outputs(*arguments[arity : len(names)])
            gradients = way(args, out, outputs(*arguments[len(names) : -1], *no_gradients), frozenset(needs))
            return [gradients[leaf] for leaf in needs]

        return run

    def fake(args: I, out: O, grad: O, needs: frozenset[str]) -> Gradients:
        return {leaf: getattr(args, leaf).new_empty(getattr(args, leaf).shape) for leaf in needs}

    optional = [*backward.forgets, *(f"d_{output}" for output in names[arity : arity + graded])]
    hints |= {**dict.fromkeys(optional, torch.Tensor | None), "needs": list[bool]}
    ways = [flat(way) for way in (backward.reference, backward.launch, fake)]
    registered = Registration(f"{name}_backward", hints, list[torch.Tensor], on, ways)
    # Without this, second derivatives would silently be zero.
    registered.refuse("no second derivative; call backward without create_graph")

    def setup(ctx: Any, inputs: Sequence[Any], output: Sequence[torch.Tensor]) -> None:
        arguments = (*inputs[:arity], *output)
        ctx.save_for_backward(*(arguments[place] for place in saved))
        ctx.values = [arguments[place] for place in values]
        ctx.shapes = [(arguments[place].shape, arguments[place].dtype) for place in shapes]
        ctx.mark_non_differentiable(*output[graded:])
        ctx.set_materialize_grads(False)  # else torch would allocate zeros for the saved outputs, too

    def differentiate(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        needs, grad = ctx.needs_input_grad, next((grad for grad in grads if grad is not None), None)
        if grad is None:
            return (None,) * len(needs)
        arguments: list[Any] = [None] * len(names)
        for place, value in zip((*saved, *values), (*ctx.saved_tensors, *ctx.values), strict=True):
            arguments[place] = value
        if any(needs[place] for place in shapes):
            for place, (shape, dtype) in zip(shapes, ctx.shapes, strict=True):
                arguments[place] = grad.new_empty((), dtype=dtype).expand(shape)
        arguments += [*grads[:graded], [needs[leaf] for leaf in leaves]]
        direct = eager(grad) and not torch.is_grad_enabled()  # else autograd would record it, which it refuses
        gradients = (registered.reference if direct else registered.dispatch)(*arguments)
        by_place = dict(zip((leaf for leaf in leaves if needs[leaf]), gradients, strict=True))
        return tuple(by_place.get(place) for place in range(len(needs)))

    return setup, differentiate


def _tensors(count: int) -> Any:
    return tuple[(torch.Tensor,) * count]  # type: ignore[misc]  # a type built at run time


def _public(
    name: str, inputs: Callable[P, I], returns: Any, call: Callable[P, R], *ways: Callable[[I], R]
) -> Operation[P, R]:
    """Finish the public function: name, module, signature and docstring come from the inputs."""
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
    """Return True for a plain CPU tensor with nothing tracing or transforming: its reference bypasses the dispatcher,
    which costs as much as a small call."""
    return (
        tensor.is_cpu
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and not is_compiling()
        and _len_torch_dispatch_stack() == 0
        and peek_interpreter_stack() is None
        and not served("cpu")  # looking up the tensor's device would cost more than all of the above
    )
