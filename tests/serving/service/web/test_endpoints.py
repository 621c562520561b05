"""Endpoints over HTTP, in JSON and Arrow: the answers are the predictor's."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from mspipe_triton.serving.service.web.answers import ARROW, JSON, id_column
from tests.serving.served import APRIL, ONES
from tests.serving.service.web.fronts import Client, Predicting

PAIRS = {"src": ["u1", "u2", "u7"], "dst": [100, 104, 101]}
TABLE = {
    "src": ["u1", "u9"],
    "dst": [100, 101],
    "t": [APRIL, "2024-04-02"],
    "amount": [1.5, 2.0],
    "channel": ["web", "app"],
}


def test_scores(shop_front: Client, shop_backend: Predicting) -> None:
    predictor = shop_backend.predictor
    scores = predictor.score(**PAIRS)
    assert shop_front.post("/score", PAIRS).json == {"scores": scores.tolist()}
    shares = shop_front.post("/score", PAIRS | {"t": APRIL, "probability": True}).json["scores"]
    np.testing.assert_allclose(shares, predictor.score(**PAIRS, t=APRIL, probability=True))
    table = shop_front.post_table("/score", PAIRS).table
    assert table.column_names == ["score"]
    assert table["score"].to_pylist() == scores.tolist()
    dated = shop_front.post_table("/score?probability=true", PAIRS | {"t": [APRIL] * 3}).table
    np.testing.assert_allclose(dated["score"], shares)


def test_a_score_of_single_values_is_a_list(shop_front: Client, shop_backend: Predicting) -> None:
    answer = shop_front.post("/score", {"src": "u1", "dst": 100})
    assert answer.json == {"scores": [shop_backend.predictor.score("u1", 100)]}
    assert shop_front.post("/score", {"src": [], "dst": []}).json == {"scores": []}
    assert shop_front.post("/score", {"src": "new", "dst": 100}).status == 422
    assert shop_front.post("/score", {"src": "new", "dst": 100, "new": True}).status == 200


def test_ranking(shop_front: Client, shop_backend: Predicting) -> None:
    predictor = shop_backend.predictor
    pairs = predictor.rank("u1", top=3)
    expected = [{"dst": dst, "score": score} for dst, score in pairs]
    assert shop_front.post("/rank", {"src": "u1", "top": 3}).json == {"src": "u1", "top": expected}
    cached = shop_front.post("/rank", {"src": "u1", "mode": "cached", "t": APRIL, "candidates": [101, 100]}).json["top"]
    assert [each["dst"] for each in cached] == [dst for dst, _ in predictor.rank("u1", APRIL, candidates=[101, 100])]
    table = shop_front.post_table("/rank?src=u1&top=2", {"candidates": [100, 101, 104]}).table
    few = predictor.rank("u1", top=2, candidates=[100, 101, 104])
    assert table.to_pylist() == [{"dst": dst, "score": score} for dst, score in few]


def test_embeddings(shop_front: Client, shop_backend: Predicting) -> None:
    rows = shop_backend.predictor.embed(["u1", "u2"], kind="user")
    answer = shop_front.post("/embed", {"nodes": ["u1", "u2"], "kind": "user"}).json
    assert answer["nodes"] == ["u1", "u2"]
    np.testing.assert_array_equal(np.array(answer["embeddings"], np.float32), rows)
    assert shop_front.post("/embed", {"nodes": "u1", "kind": "user"}).json["embeddings"] == [answer["embeddings"][0]]
    table = shop_front.post_table("/embed?kind=user&t=2024-04-01", {"node": ["u1", "u2"]}).table
    assert table.column_names == ["node", *(f"e{place}" for place in range(rows.shape[1]))]
    later = shop_backend.predictor.embed(["u1", "u2"], APRIL, "user")
    np.testing.assert_array_equal(table.drop_columns("node").to_pandas().to_numpy(), later)


def test_a_large_answer_is_complete(plain_front: Client) -> None:
    nodes = [1, 2, 3] * 1000
    answer = plain_front.post("/embed", {"nodes": nodes}).json
    assert answer["nodes"] == nodes
    rows = np.array(answer["embeddings"])
    np.testing.assert_array_equal(rows[:3], rows[-3:])
    assert rows.shape == (3000, 8)


def test_events_taken_in(front: Client, backend: Predicting) -> None:
    features = {"amount": TABLE["amount"], "channel": TABLE["channel"]}
    body = {name: TABLE[name] for name in ("src", "dst", "t")} | {"features": features}
    answer = front.post("/observe", body)
    assert answer.json == {"observed": 2, "dropped": 0, "events": 402, "repeated": False}
    one = {"src": "u1", "dst": 100, "t": "2024-04-03", "features": {"amount": 3, "channel": "shop"}}
    assert front.post("/observe", one).json["events"] == 403
    assert front.post("/observe", one | {"t": APRIL}).status == 422
    late = {"src": ["u1"], "dst": [100], "t": APRIL, "features": {"amount": [3], "channel": ["shop"]}, "late": "drop"}
    assert front.post("/observe", late).json == {"observed": 0, "dropped": 1, "events": 403, "repeated": False}
    assert backend.predictor.time.startswith("2024-04-03")
    latest = front.get("/status").json["latest"]
    assert latest[1]["t"] == "2024-04-03"


def test_a_table_of_events(front: Client, backend: Predicting) -> None:
    table = pl.DataFrame(TABLE).with_columns(pl.col("channel").cast(pl.Categorical), pl.col("t").str.to_date())
    answer = front.post_table("/observe?late=drop", table.to_arrow())
    assert answer.table.to_pylist() == [{"observed": 2, "dropped": 0, "events": 402, "repeated": False}]
    assert backend.batches[0].late == "drop"
    assert str(backend.predictor.time).startswith("2024-04-02")


def test_a_matrix_of_features(plain_front: Client) -> None:
    t = plain_front.get("/status").json["events"] * 10_000
    for features in ([ONES, ONES], [[1, 2.5, -3]] * 2):
        t += 1
        body = {"src": [1, 2], "dst": [70, 71], "t": t, "features": features}
        assert plain_front.post("/observe", body).json["observed"] == 2
    assert plain_front.post("/observe", {"src": 1, "dst": 70, "t": t, "features": ONES}).json["observed"] == 1
    for kind in (pa.list_(pa.float64(), 3), pa.list_(pa.float32()), pa.large_list(pa.int8())):
        columns = {"src": [1, 2], "dst": [70, 71], "t": [t, t + 1], "features": pa.array([[1, 2, 3]] * 2, kind)}
        t += 1
        assert plain_front.post_table("/observe", columns).table["observed"].to_pylist() == [2]
    ragged = {"src": [1, 2], "dst": [70, 71], "t": [t, t], "features": [[1.0, 2, 3], [1.0]]}
    assert "differ in length" in plain_front.post_table("/observe", ragged).detail


def test_the_key_and_the_digest_reach_the_service(front: Client, backend: Predicting) -> None:
    body = b'{"src":"u1","dst":100,"t":"2024-04-01","features":{"amount":3,"channel":"shop"}}'
    assert not front.post("/observe", body, idempotency_key="a b~1").json["repeated"]
    assert front.post("/observe", body, idempotency_key="a b~1").json["repeated"]
    assert front.post("/observe", body.replace(b"3", b"4"), idempotency_key="a b~1").status == 422
    assert [batch.key for batch in backend.batches] == ["a b~1"]
    assert backend.batches[0].digest == hashlib.sha256(JSON.encode() + b"\n\n" + body).digest()


@pytest.mark.parametrize(
    ("table", "accept", "kind"),
    [
        (False, "", JSON),
        (False, "*/*", JSON),
        (False, ARROW, ARROW),
        (True, "", ARROW),
        (True, "*/*", ARROW),
        (True, JSON, JSON),
        (True, f"{JSON}, {ARROW}", ARROW),
    ],
)
def test_the_kind_of_an_answer(table: bool, accept: str, kind: str, shop_front: Client) -> None:
    headers = {"accept": accept} if accept else {}
    answer = (shop_front.post_table if table else shop_front.post)("/score", PAIRS, **headers)
    assert answer.headers["content-type"] == kind


def test_pages_and_states(front: Client, backend: Predicting) -> None:
    assert front.get("/health").json == {"status": "ok"}
    assert front.get("/ready").json["events"] == 400
    assert front.get("/ready").status == 200
    backend.state = {"ready": False, "writable": False}
    answer = front.get("/ready")
    assert (answer.status, answer.json["ready"], answer.headers["retry-after"]) == (503, False, "1")
    assert front.get("/health").status == 200
    status = front.get("/status").json
    assert (status["writable"], status["nodes"], status["kinds"], status["latest"]) == (False, 24, [], [])
    page = front.get("/")
    assert page.data.lower().startswith(b"<!doctype html>")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


def test_ids_of_answers_as_columns() -> None:
    assert id_column([1, 2**63]).type == pa.uint64()
    assert id_column([-1, 5]).type == pa.int64()
    assert id_column([-1, 2**63]).to_pylist() == ["-1", str(2**63)]
    assert id_column([7, "7"]).to_pylist() == ["7", "7"]
    assert id_column([]).type == pa.int64()
