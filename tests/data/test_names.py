"""Names of columns: roles by usual names, kinds of nodes, and features."""

from __future__ import annotations

import pytest

from mspipe_triton.data.names import (
    default_columns,
    feature_columns,
    find_column,
    kind_names,
    kinds_of,
    plain_name,
    shown_names,
)
from mspipe_triton.errors import DataError


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("src,dst,t", "src,dst,t"),
        ("FromNodeId,ToNodeId,Time", "FromNodeId,ToNodeId,Time"),
        ("SOURCE_SUBREDDIT,TARGET_SUBREDDIT,POST_ID,TIMESTAMP", "SOURCE_SUBREDDIT,TARGET_SUBREDDIT,TIMESTAMP"),
        ("userId,movieId,rating,timestamp", "userId,movieId,timestamp"),
        (",u,i,ts,label,idx", "u,i,ts,label"),
        ("i,j,t", "i,j,t"),
        ("user_id,item_id,timestamp,state_label", "user_id,item_id,timestamp,state_label"),
        ("review_id,user_id,business_id,stars,date", "user_id,business_id,date"),
        ("step,type,amount,nameOrig,nameDest,isFraud", "nameOrig,nameDest,step,isFraud"),
        ("Timestamp,From Bank,Account,To Bank,Account.1,Is Laundering", "Account,Account.1,Timestamp,Is Laundering"),
        ("tpep_pickup_datetime,PULocationID,DOLocationID", "PULocationID,DOLocationID,tpep_pickup_datetime"),
        ("started_at,start_station_name,start_station_id,end_station_name,end_station_id",
         "start_station_id,end_station_id,started_at"),
        ("from_stop_id,to_stop_id,departure_time", "from_stop_id,to_stop_id,departure_time"),
        ("account_from,account_to,booking date", "account_from,account_to,booking date"),
        ("hash,from_address,to_address,value,block_timestamp", "from_address,to_address,block_timestamp"),
        ("sender_id,recipient_id,sent_at", "sender_id,recipient_id,sent_at"),
        ("payer_iban,payee_iban,paid_at", "payer_iban,payee_iban,paid_at"),
        ("from_addr,to_addr,blockTimestamp", "from_addr,to_addr,blockTimestamp"),
        ("caller_phone,callee_phone,startedAt", "caller_phone,callee_phone,startedAt"),
        ("src_email,dst_email,playedAt", "src_email,dst_email,playedAt"),
        ("from_number,to_number,CALLED AT", "from_number,to_number,CALLED AT"),
        ("sender_city,recipient_city,t", "sender_city,recipient_city,t"),
        ("origin_station,dest_station,t", "origin_station,dest_station,t"),
        ("user_id,item_id,from_city,to_city,t", "user_id,item_id,t"),
        ("person1,person2,met_at", "person1,person2,met_at"), ("user1,user2,t", "user1,user2,t"),
        ("Source,Target,start_time,end_time", "Source,Target,start_time"),
    ],
)  # fmt: skip
def test_usual_names_have_roles(header: str, columns: str) -> None:
    roles = dict(zip(("src", "dst", "t", "label"), columns.split(","), strict=False))
    assert default_columns(header.split(",")) == roles


def test_names_that_say_nothing_have_no_role() -> None:
    assert default_columns(["a", "b", "c"]) == {}
    assert default_columns(["start_time", "end_time", "x"]) == {"t": "start_time"}
    assert default_columns(["shipping_date", "delivery_date"]) == {}  # two candidates
    assert default_columns(["paid_at", "shipped_at"]) == default_columns(["lat", "format", "At"]) == {}
    assert default_columns(["tag", "item", "time"]) == {"dst": "item", "t": "time"}


@pytest.mark.parametrize(
    ("src", "dst", "kinds"),
    [
        ("user_id", "item_id", ("user", "item")), ("userId", "movieId", ("user", "movie")),
        ("reviewerID", "asin", ("reviewer", "asin")), ("customer", "Merchant Name", ("customer", "merchant")),
        ("u", "i", ()), ("src", "dst", ()), ("from", "to", ()), ("sender", "receiver", ()), ("item", "product", ()),
    ],
)  # fmt: skip
def test_names_tell_two_kinds(src: str, dst: str, kinds: tuple[str, ...]) -> None:
    assert kinds_of(src, dst) == kinds


def test_kinds_get_names_from_columns() -> None:
    assert kind_names("from", "to") == ("from", "to")
    assert kind_names("1", "2") == ("src", "dst")
    assert kind_names("user_id", "User") == ("src", "dst")


def test_plain_names() -> None:
    assert plain_name(" #Src ID") == plain_name("src_id") == "srcid"
    assert find_column(["Src ID", "dst"], "src_id") == "Src ID"
    assert find_column(["src", "SRC", "dst"], "Src") is None
    assert find_column(["src"], "") is None
    assert shown_names(["", *"abcdefghijklmn"]) == '"", a, b, c, d, e, f, g, h, i, j, k and 3 more'


def test_feature_columns() -> None:
    names, others = ["src", "dst", "t", "idx", "f0", "F1", "amount", "x"], {"src": "src", "dst": "dst", "t": "t"}
    assert feature_columns(names, None, others) == ("f0", "F1")
    assert feature_columns([*names, "features"], None, others) == ("features",)
    assert feature_columns(names, "", others) == ()
    assert feature_columns(names, "x, amount", others) == ("x", "amount")
    assert feature_columns(names, "*", others) == ("f0", "F1", "amount", "x")
    with pytest.raises(DataError, match="--columns features=dst: this column is the dst; omit it there"):
        feature_columns(names, "dst", others)
    with pytest.raises(DataError, match=r"no column matches features=g\*; the file has f0, F1, amount, x; change"):
        feature_columns(names, "g*", others)
