"""Built-in models as operator graphs with analytic costs: two-branch, MMT, DLRM and CANDLE-Uno.

Values are fp32, of 4 bytes; a matmul of m × k by k × n takes 2·m·n·k operations. A backward pass takes twice as long as
the forward pass, since it computes two products per matmul: the gradients of the input and of the weights.
Concatenations, which only copy, and losses are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.costs import Accelerator, total
from mspipe_triton.pipeline.graphpipe.operators import Duration, Operator, OperatorGraph

VALUE = 4
INDEX = 8


def two_branch(*, layers: int = 4) -> OperatorGraph:
    """Build two chains of equal operators with separate inputs, "a.0", "a.1", … and "b.0", …, and a costless "loss".

    An operator has 2.5 GB of parameters, 10 GB with gradients and Adam's moments: a device of 16 GB holds one, and the
    activations of at most 33 samples, 0.18 GB each. Its passes over n samples take 3 · (2 + n) ms. Outputs have 0
    bytes, so that transfers take no time.

    Args:
        layers: operators per branch.

    Raises:
        ConfigError: layers is below 1.
    """
    _check(1, layers=layers)
    forward = Duration(2e-3, 1e-3)

    def operator(name: str) -> Operator:
        return Operator(name, forward, total(forward, times=2), 2_500_000_000, 180_000_000)

    branches = [[operator(f"{branch}.{layer}") for layer in range(layers)] for branch in "ab"]
    return _joined("two-branch", branches, [Operator("loss")])


def mmt(
    accelerator: Accelerator,
    *,
    branches: int = 4,
    layers: int = 8,
    hidden: int = 1024,
    feed_forward: int = 4096,
    heads: int = 16,
    sequence: int = 256,
    classes: int = 1000,
) -> OperatorGraph:
    """Build a multi-modal transformer: a branch of transformer layers per modality, and a classifier that joins them.

    Branches start from embedded tokens. The classifier averages each branch over its sequence, concatenates the
    averages, and multiplies them with one matrix.

    Args:
        accelerator: the device that runs it.
        branches: modalities.
        layers: transformer layers per branch, each an operator.
        hidden: width of the tokens.
        feed_forward: width inside the layers' multi-layer perceptrons.
        heads: attention heads.
        sequence: tokens per sample of each branch.
        classes: outputs of the classifier.

    Raises:
        ConfigError: a size is below 1, or hidden is no multiple of heads.
    """
    _check(1, branches=branches, layers=layers, hidden=hidden, feed_forward=feed_forward, heads=heads)
    _check(1, sequence=sequence, classes=classes)
    if hidden % heads:
        raise ConfigError(f"hidden must be a multiple of heads, {heads}, not {hidden}")
    tokens = [
        [_transformer(accelerator, f"m{b}.{x}", hidden, feed_forward, heads, sequence) for x in range(layers)]
        for b in range(branches)
    ]
    joined = branches * hidden
    weights = (joined + 1) * classes * VALUE
    forward = accelerator.duration(
        2 * joined * classes, (joined * sequence + 2 * joined + classes) * VALUE, weights, branches + 1
    )
    head = Operator("head", forward, total(forward, times=2), weights, joined * VALUE, classes * VALUE)
    return _joined("mmt", tokens, [head])


def dlrm(
    accelerator: Accelerator,
    *,
    dense: int = 7,
    layers: int = 4,
    width: int = 4096,
    embeddings: int = 7,
    entries: int = 1_000_000,
    dim: int = 64,
    bag: int = 100,
    concatenated: bool = False,
    top: int = 4,
) -> OperatorGraph:
    """Build DLRM, a recommendation model: dense and embedding branches, and a perceptron on their concatenation.

    GraphPipe's paper (arXiv 2406.17145, appendix A.2) says that the rows of a bag are concatenated; FlexFlow's DLRM, on
    which it builds, sums them. Concatenated rows make the first layer of the top perceptron 2.5 times as large.

    Args:
        accelerator: the device that runs it.
        dense: branches of fully connected layers.
        layers: layers per dense branch, each an operator.
        width: of dense features and layers, those of the top perceptron too.
        embeddings: branches of one embedding table each.
        entries: rows of a table.
        dim: columns of a table.
        bag: rows of a table that a sample uses.
        concatenated: the rows of a bag are concatenated rather than summed.
        top: layers of the top perceptron; one more of width 1 follows.

    Raises:
        ConfigError: a size is below 1, or top is below 0.
    """
    _check(1, dense=dense, layers=layers, width=width, embeddings=embeddings, entries=entries, dim=dim, bag=bag)
    _check(0, top=top)
    perceptrons = [_perceptron(accelerator, f"dense{b}", [width] * (layers + 1)) for b in range(dense)]
    columns = bag * dim if concatenated else dim
    bags = [[_embedding_bag(accelerator, f"embedding{b}", entries, dim, bag, columns)] for b in range(embeddings)]
    joined = dense * width + embeddings * columns
    return _joined("dlrm", perceptrons + bags, _perceptron(accelerator, "top", [joined, *[width] * top, 1]))


def candle_uno(
    accelerator: Accelerator, *, branches: int = 7, layers: int = 4, width: int = 4096, trunk: int = 4
) -> OperatorGraph:
    """Build CANDLE-Uno: a branch of fully connected layers per input, and a perceptron on their concatenation.

    All inputs are `width` wide here, so that branches are equal. GraphPipe's paper names no trunk; its size is that of
    FlexFlow's example.

    Args:
        accelerator: the device that runs it.
        branches: inputs, such as doses, and features of cell lines and drugs.
        layers: layers per branch, each an operator.
        width: of inputs and layers.
        trunk: layers after the concatenation; one more of width 1 follows, the predicted response.

    Raises:
        ConfigError: a size is below 1, or trunk is below 0.
    """
    _check(1, branches=branches, layers=layers, width=width)
    _check(0, trunk=trunk)
    features = [_perceptron(accelerator, f"feature{b}", [width] * (layers + 1)) for b in range(branches)]
    return _joined("candle-uno", features, _perceptron(accelerator, "trunk", [branches * width, *[width] * trunk, 1]))


MODELS: dict[str, Callable[[Accelerator], OperatorGraph]] = {
    "two-branch": lambda _: two_branch(),
    "mmt": mmt,
    "dlrm": dlrm,
    "candle-uno": candle_uno,
}


def _transformer(
    accelerator: Accelerator, name: str, hidden: int, feed_forward: int, heads: int, sequence: int
) -> Operator:
    """Return a pre-norm transformer layer with fused attention, which keeps no attention probabilities.

    Per token it keeps 8·hidden + 2·feed_forward values (inputs and outputs of both layer norms, queries, keys, values,
    the result of attention, the input and output of GELU), the statistics of both norms, and a sum per head. What fused
    attention computes again in its backward pass is not counted.
    """
    weights = 4 * hidden * hidden + 2 * hidden * feed_forward
    parameters = (weights + 9 * hidden + feed_forward) * VALUE
    flops = 2 * sequence * weights + 4 * sequence * sequence * hidden
    products = accelerator.duration(
        flops, sequence * (12 * hidden + 2 * feed_forward) * VALUE, parameters, kernels=5, rows=sequence
    )
    pointwise = accelerator.duration(0, sequence * (10 * hidden + 2 * feed_forward) * VALUE, kernels=5)
    forward = total(products, pointwise)
    activations = sequence * (8 * hidden + 2 * feed_forward + 4 + heads) * VALUE
    return Operator(name, forward, total(forward, times=2), parameters, activations, sequence * hidden * VALUE)


def _perceptron(accelerator: Accelerator, name: str, widths: Sequence[int]) -> list[Operator]:
    """Return fully connected layers with biases and activation functions, from widths[0] inputs to widths[-1] outputs.

    A layer keeps its input and its output; neighbours on one device share that tensor, so memory is an upper bound.
    """
    layers = []
    for number, (before, after) in enumerate(pairwise(widths)):
        parameters = (before + 1) * after * VALUE
        forward = accelerator.duration(2 * before * after, (before + 3 * after) * VALUE, parameters, kernels=2)
        activations = (before + after) * VALUE
        backward = total(forward, times=2)
        layers.append(Operator(f"{name}.{number}", forward, backward, parameters, activations, after * VALUE))
    return layers


def _embedding_bag(accelerator: Accelerator, name: str, entries: int, dim: int, bag: int, columns: int) -> Operator:
    """Return an embedding table that reads `bag` rows per sample and writes `columns` values.

    Its gradients are sparse: a backward pass writes one row per row that was read. Memory and all-reduce count the
    whole table all the same, as for a dense gradient, an upper bound.
    """
    forward = accelerator.duration(bag * dim, bag * (dim * VALUE + INDEX) + columns * VALUE)
    backward = total(forward, times=2)
    return Operator(name, forward, backward, entries * dim * VALUE, bag * INDEX, columns * VALUE)


def _joined(name: str, branches: Iterable[Sequence[Operator]], trunk: Sequence[Operator]) -> OperatorGraph:
    """Connect branches, each a chain, to the first operator of a trunk, which is a chain as well."""
    operators: list[Operator] = []
    uses: list[tuple[str, str]] = []
    for branch in branches:
        operators += branch
        uses += [(before.name, after.name) for before, after in pairwise((*branch, trunk[0]))]
    uses += [(before.name, after.name) for before, after in pairwise(trunk)]
    return OperatorGraph.of([*operators, *trunk], uses, name)


def _check(least: int, **sizes: int) -> None:
    """Refuse sizes below the least one."""
    for name, value in sizes.items():
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
