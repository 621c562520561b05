"""Six events for which the models are computed by hand: weights, states after each batch of two, logits."""

from __future__ import annotations

from math import cos, exp, sqrt, tanh

# (src, dst, time): a tie at 10 with a repeat of node 0, a self-loop, a tie at 14 across batches. The first three
# train, since the split does not cut the tie at 14. The smallest gap is 1, so a session leaves the times as they are.
SIX = [(0, 1, 10), (0, 2, 10), (2, 2, 11), (1, 0, 14), (0, 1, 14), (3, 0, 16)]
TRAINING = 3

Matrix = list[list[float]]
Weights = dict[str, Matrix | list[float]]
State = tuple[float, float, float, int, float]
Slot = tuple[float, float, int, float]
ApanState = tuple[float, float, int, list[Slot | None]]


def logit(src: float, dst: float) -> float:
    """Compute the predictors' logit of two embeddings (multiples of UNIT for APAN)."""
    return 1.5 * max(0.0, src + 2 * dst + 0.375) - 0.5


LAST_MAIL = ("memory", "memory_time", "partner", "event_id", "mail_time")


def last_mails(first: float, second: float, third: float) -> list[dict[int, State]]:
    """States of a model with one mail per node: memory, its time, partner row, event, mail time, per batch and node.

    Args:
        first: memory of a node that had no mail; second: `first` after a mail from a node of memory `first`; third:
            `second` after a mail from a node of memory `second`.
    """
    a, b, c = first, second, third
    return [
        {0: (a, 10, a, 1, 10), 1: (a, 10, a, 0, 10), 2: (a, 10, a, 1, 10), 3: (0, 10, 0, -1, 10)},
        {0: (b, 10, b, 3, 14), 1: (b, 10, b, 3, 14), 2: (b, 10, b, 2, 11), 3: (0, 10, 0, -1, 10)},
        {0: (c, 14, a, 5, 16), 1: (c, 14, c, 4, 14), 2: (b, 10, b, 2, 11), 3: (a, 10, c, 5, 16)},
    ]


JODIE = {"dim": 1}
JODIE_WEIGHTS: Weights = {
    "updater.cell.weight_ih": [[1.0, 2.0, 0.5]],
    "updater.cell.bias_ih": [0.25],
    "updater.cell.weight_hh": [[0.25]],
    "updater.cell.bias_hh": [-0.125],
    "embedding.weight": [0.5],
    "predictor.src.weight": [[1.0]],
    "predictor.src.bias": [0.125],
    "predictor.dst.weight": [[2.0]],
    "predictor.dst.bias": [0.25],
    "predictor.out.weight": [[1.5]],
    "predictor.out.bias": [-0.5],
}
# The sender's row of a mail is the node's memory, so h = tanh(1¼·m + 2·p + ½·cos Δ + ⅛) with mail. Without mail the
# whole message is 0, including cos, and so is m: a written node has mail.
K0 = tanh(0.125)
K1 = tanh(1.25 * K0 + 2 * K0 + 0.5 * cos(0) + 0.125)  # after one mail, sent at 10 to a memory of time 10
K2 = tanh(1.25 * K1 + 2 * K1 + 0.5 * cos(4) + 0.125)  # after the next, sent at 14
JODIE_AFTER = last_mails(K0, K1, K2)

# The nodes' memories in a batch after the third: mails of 16, 14, 11 and 16, memories of 14, 14, 10 and 10.
JODIE_NEXT = [
    tanh(1.25 * K2 + 2 * K0 + 0.5 * cos(2) + 0.125),
    tanh(1.25 * K2 + 2 * K2 + 0.5 * cos(0) + 0.125),
    tanh(1.25 * K1 + 2 * K1 + 0.5 * cos(1) + 0.125),
    tanh(1.25 * K0 + 2 * K2 + 0.5 * cos(6) + 0.125),
]

# The gaps of the training events' endpoints are 0 0, 0 0, 1 0: the second endpoint of the self-loop has gap 0, and a
# node's first gap counts from the stream's start, 10.
GAP = sqrt(1 / 6 - (1 / 6) ** 2)


def drift(elapsed: int) -> float:
    """Compute 1 + w·δ for a time `elapsed` after the last digested mail."""
    return 1 + 0.5 * elapsed / GAP


# Logits of the two events per batch: time counts from 10, then from the mail of 10, and last from the mail of 14 except
# for node 3.
JODIE_LOGITS = [
    [logit(K0 * drift(0), K0 * drift(0)), logit(K0 * drift(0), K0 * drift(0))],
    [logit(K1 * drift(1), K1 * drift(1)), logit(K1 * drift(4), K1 * drift(4))],
    [logit(K2 * drift(0), K2 * drift(0)), logit(K0 * drift(6), K2 * drift(2))],
]


# Every row is (UNIT·r, 0), and the values below are r. LayerNorm of two numbers UNIT·s apart is ±s/√(s² + 4), as UNIT²
# is its eps: half the difference is UNIT·s/2, and (s/2)/√(s²/4 + 1) equals it. With a larger unit only the sign of s
# would matter.
UNIT = sqrt(1e-5)
APAN = {"dim": 2, "heads": 1, "slots": 2, "fanout": 1}
APAN_WEIGHTS: Weights = {
    "updater.query.weight": [[1 / UNIT, 0.0], [0.0, 0.0]],
    "updater.query.bias": [0.5, 0.0],
    "updater.key.weight": [[0.25 / UNIT, 0.0, -0.5 / UNIT, 0.0, 1.0, 0.0], [0.0] * 6],
    "updater.key.bias": [0.125, 0.0],
    "updater.value.weight": [[1.0, 0.0, 2.0, 0.0, 0.5 * UNIT, 0.0], [0.0] * 6],
    "updater.value.bias": [0.25 * UNIT, 0.0],
    "updater.norm.weight": [2 * UNIT, UNIT],
    "updater.norm.bias": [0.5 * UNIT, 0.25 * UNIT],
    "updater.hidden.weight": [[1 / UNIT, -1 / UNIT], [0.0, 1 / UNIT]],
    "updater.hidden.bias": [0.25, 0.0],
    "updater.output.weight": [[0.5 * UNIT, -UNIT], [0.5 * UNIT, 0.0]],
    "updater.output.bias": [0.25 * UNIT, 0.0],
    "updater.output_norm.weight": [2 * UNIT, 0.0],
    "updater.output_norm.bias": [0.5 * UNIT, 0.0],
    "predictor.src.weight": [[1 / UNIT, 0.0], [0.0, 0.0]],
    "predictor.src.bias": [0.125, 0.0],
    "predictor.dst.weight": [[2 / UNIT, 0.0], [0.0, 0.0]],
    "predictor.dst.bias": [0.25, 0.0],
    "predictor.out.weight": [[1.5, 0.0]],
    "predictor.out.bias": [-0.5],
}


def normalise(difference: float) -> float:
    """Apply LayerNorm to two numbers with this difference in units; return the first, the second is its opposite."""
    return difference / sqrt(difference * difference + 4)


def output(context: float, memory: float) -> float:
    """Compute r of h. In units y = (2n + ½, ¼ − n), and the hidden units are the ReLU of y₁ − y₂ + ¼ and of y₂."""
    n = normalise(context + memory)
    y = (2 * n + 0.5, 0.25 - n)
    inner = (max(0.0, y[0] - y[1] + 0.25), max(0.0, y[1]))
    mixed = (y[0] + 0.5 * inner[0] - inner[1] + 0.25, y[1] + 0.5 * inner[0])
    return 2 * normalise(mixed[0] - mixed[1]) + 0.5


def value(sender: float, partner: float, delta: int) -> float:
    return sender + 2 * partner + 0.5 * cos(delta) + 0.25


def weight(memory: float, sender: float, partner: float, delta: int) -> float:
    """Compute e to the power of a slot's LeakyReLU(q·k / √2)."""
    product = (memory + 0.5) * (0.25 * sender - 0.5 * partner + cos(delta) + 0.125) / sqrt(2)
    return exp(max(product, 0.2 * product))


def h(memory: float, *slots: tuple[float, float, int]) -> float:
    """Compute r of h from slots of (sender, partner, Δ)."""
    weights = [weight(memory, *slot) for slot in slots]
    values = [value(*slot) for slot in slots]
    return output(sum(a * v for a, v in zip(weights, values, strict=True)) / (sum(weights) or 1), memory)


# Δ counts to the first event of the batch that reads: 10, 11, 14.
R0 = h(0)  # no mail, memory 0: y = (½, ¼), inner (½, ¼), mixed (¾, ½), ¼ apart: r = ½/√(1/16 + 4) + ½
R1 = h(R0, (R0, R0, 1))  # one mail, of 10, gets all the attention
R2 = h(R1, (R0, R0, 4), (R1, R1, 0))  # mails of 10 and of 14; q·k of the older one is negative

# Receivers in order. Batch 0: no node has neighbours before 10. Batch 1: event 2 goes, twice, to 2 and to its neighbour
# by event 1, node 0; event 3 to 1 and its neighbour 0, then to 0 and its neighbour 2 (by event 1: event 3 is not before
# 14). Batch 2: event 4 goes to 0 and 2, then to 1 and 0; event 5 to 3, then to 0 and its neighbour by event 4, node 1.
M0, M1 = (R0, R0, 0, 10), (R0, R0, 1, 10)
M3 = (R1, R1, 3, 14)

# Per batch and node: memory, its time, number of received mails, slots of (sender, partner, event, time).
APAN_AFTER: list[dict[int, ApanState]] = [
    {0: (R0, 10, 1, [M1, None]), 1: (R0, 10, 1, [M0, None]), 2: (R0, 10, 1, [M1, None]), 3: (0, 10, 0, [None, None])},
    {0: (R1, 10, 2, [M1, M3]), 1: (R1, 10, 2, [M0, M3]), 2: (R1, 10, 2, [M1, M3]), 3: (0, 10, 0, [None, None])},
    {
        0: (R2, 14, 3, [(R2, R0, 5, 16), M3]),
        1: (R2, 14, 3, [(R2, R0, 5, 16), M3]),
        2: (R1, 10, 3, [(R2, R2, 4, 14), M3]),
        3: (R0, 10, 1, [(R0, R2, 5, 16), None]),
    },
]
# Under "mean" two nodes receive different rows in one batch: node 0 event 4 twice and event 5, node 1 each once.
APAN_MEAN_AFTER: list[dict[int, ApanState]] = [
    *APAN_AFTER[:2],
    {
        **APAN_AFTER[2],
        0: (R2, 14, 3, [(R2, (2 * R2 + R0) / 3, 5, 16), M3]),
        1: (R2, 14, 3, [(R2, (R2 + R0) / 2, 5, 16), M3]),
    },
]
# Each node's memory under "last" in a batch that begins at 17.
NEXT = 17
APAN_NEXT = [
    h(R2, (R2, R0, 1), (R1, R1, 3)),
    h(R2, (R2, R0, 1), (R1, R1, 3)),
    h(R1, (R2, R2, 3), (R1, R1, 3)),
    h(R0, (R0, R2, 1)),
]
APAN_LOGITS = [[logit(R0, R0), logit(R0, R0)], [logit(R1, R1), logit(R1, R1)], [logit(R2, R2), logit(R0, R2)]]
