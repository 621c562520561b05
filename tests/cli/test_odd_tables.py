"""Tables that people have, read from the command line: every event, node, kind and time is right."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from tests.cli.odd_tables import Read, check_read
from tests.conftest import Command

ENDS = ((1, 2), (2, 3), (3, 1), (1, 3))  # of four events among three nodes
H = "src,dst,t\n"


def rows(form: str, start: int = 0, step: int = 1) -> str:
    """Write four events: {s} and {d} are the ends, {t} the time, {n} the number."""
    parts = (form.format(s=s, d=d, t=start + step * n, n=n) for n, (s, d) in enumerate(ENDS))
    return "\n".join(parts) + "\n"


def folder(**files: str) -> object:
    """Return a writer of a folder; the file names have "_" for "."."""

    def make(path: Path) -> None:
        path.mkdir()
        for name, text in files.items():
            (path / name.replace("_", ".")).write_text(text, encoding="utf-8")

    return make


def parquet(path: Path) -> None:
    src = pa.array([2**64 - 1, 2**64 - 2, 1, 1], pa.uint64())
    dst = pa.array(["1", "x", "1", "x"]).dictionary_encode()
    t = pa.array([1, 2, 3, 4]).cast(pa.timestamp("s", "Europe/Berlin"))
    pyarrow.parquet.write_table(pa.table({"src": src, "dst": dst, "t": t}), path)


def arrow(path: Path) -> None:
    src = pa.array([bytes(15) + bytes([n]) for n in (1, 2, 3, 1)], pa.binary(16))
    table = pa.table({"from": src, "to": src.take(pa.array([1, 2, 0, 2])), "date": pa.array([0, 1, 2, 3], pa.date32())})
    pyarrow.feather.write_feather(table, path)


THREE = (4, 3, None, 0, 3)
UNIX = (4, 3, None, 10**9, 10**9 + 3)
EIGHT = (4, 6, {"src": 3, "dst": 3}, 10**9, 10**9 + 3)
DAYS = (4, 3, None, 0, 3 * 86_400)
TABLES = {
    "SNAP": Read("CollegeMsg.txt", rows("{s} {d} {t}", 10**9), "--no-header", UNIX),
    "SNAP with comments": Read("a.txt", "# Directed\n# From\tTo\tTime\n" + rows("{s}\t{d}\t{t}"), "", THREE),
    "numpy.savetxt": Read("a.txt", "# src dst t\n" + rows("{s}e+00 {d}.0 {t}"), "", THREE),
    "bitcoin": Read("b.csv", rows("{s},{d},4,{t}.5", 10**9), "--no-header --columns src=1,dst=2,t=4",
                    (4, 3, None, 1e9 + 0.5, 1e9 + 3.5)),
    "Konect bip": Read("out.x", "% bip weighted\n% 4 3 3\n" + rows("{s} {d} 5 {t}", 10**9), "", EIGHT),
    "Konect with tabs": Read("out.x", "% sym\n" + rows("{s} {d}\t1\t{t} ", 10**9), "", UNIX),
    "SocioPatterns": Read("a.dat", rows("{t}  {s}\t{d} MP 2BIO"), "--no-header --columns src=2,dst=3,t=1", THREE),
    "MovieLens csv": Read("r.csv", "userId,movieId,rating,timestamp\n" + rows("{s},{d},4.5,{t}", 10**9), "",
                          (4, 6, {"user": 3, "movie": 3}, 10**9, 10**9 + 3)),
    "MovieLens dat": Read("r.dat", rows("{s}::{d}::5::{t}", 10**9), "--no-header --bipartite --columns t=4", EIGHT),
    "one kind": Read("r.csv", "user,item,time\n" + rows("{s},{d},{t}"), "--one-kind", THREE),
    "Amazon lines": Read(
        "r.json.gz", gzip.compress(rows('{{"reviewerID":"A{s}","asin":"000{d}","unixReviewTime":{t}}}').encode()), "",
        (4, 6, {"reviewer": 3, "asin": 3}, 0, 3)),
    "Amazon ratings": Read("r.csv", rows("A{s},000{d},4.0,{t}", 10**9), "--no-header --bipartite --columns t=4", EIGHT),
    "Yelp": Read("y.json", rows('{{"user_id":"{s}","business_id":"{d}","date":"1970-01-0{t} 00:00:00"}}', 1), "",
                 (4, 6, {"user": 3, "business": 3}, 0, 3 * 86_400)),
    "quotes in names": Read("l.tsv", "user\tartist\ttime\n" + rows('u{s}\t"Al" {d} 5"\t{t}'), "",
                            (4, 6, {"user": 3, "artist": 3}, 0, 3)),
    "open quotes": Read("l.tsv", "source\ttarget\ttime\n" + rows('"{s}\t"{d}\t{t}'), "", THREE),
    "Reddit": Read("r.tsv", "SOURCE_SUBREDDIT\tTARGET_SUBREDDIT\tPOST_ID\tTIMESTAMP\n"
                   + rows("{s}\t{d}\tp\t1970-01-0{t} 00:00:00", 1), "", DAYS),
    "JODIE": Read("w.csv", "user_id,item_id,timestamp,state_label,comma_separated_list_of_features\n"
                  + rows("{s},{d},{t}.0,0,0.1,0.2"), "", (4, 6, {"user": 3, "item": 3}, 0, 3)),
    "DyGLib": Read("ml.csv", ",u,i,ts,label,idx\n" + rows("{n},{s},{d},{t}.0,0.0,{n}"), "", THREE),
    "IBM AML": Read("t.csv", "Timestamp,From Bank,Account,To Bank,Account,Is Laundering\n"
                    + rows("1970/01/0{t} 00:00,0{n},A{s},1,A{d},0", 1), "", DAYS),
    "PaySim": Read("p.csv", "step,type,nameOrig,nameDest,isFraud\n" + rows("{t},PAYMENT,C{s},C{d},0"), "", THREE),
    "NYC taxi": Read("n.csv", "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,PULocationID,DOLocationID\n"
                     + rows("1,1970-01-0{t} 00:00:00,1999-01-01 00:00:00,{s},{d}", 1), "", DAYS),
    "stops": Read("s.csv", "from_stop_id,to_stop_id,departure_time\n" + rows("A{s},A{d},{t}"), "", THREE),
    "unnamed index": Read("k.csv", ",source,target,timestamp\n" + rows("{n},{s},{d},{t}"), "", THREE),
    "Excel": Read("e.csv", "\ufeffsep=;\r\nsrc;dst;t;x\r\n" + rows("{s};{d};{t},5;1,25\r"), "", (4, 3, None, 0.5, 3.5)),
    "Unicode text": Read("u.txt", ("src\tdst\tt\r\n" + rows("ä{s}\tä{d}\t{t}\r")).encode("utf-16"), "", THREE),
    "latin-1": Read("l.csv", (H + rows("ä{s},ä{d},{t}")).encode("latin-1"), "--encoding latin-1", THREE),
    "write.table of R": Read("r.txt", '"src" "dst" "t"\n' + "".join(
        f'"{n + 1}" {line}\n' for n, line in enumerate(rows("{s} {d} {t}e+05").splitlines())), "",
        (4, 3, None, 0, 3e5)),
    "Spark": Read("parts", folder(part0_csv=H, part10_csv=H + rows("{s},{d},{t}", 4), part2_csv=H + rows("{s},{d},{t}"),
                                  _SUCCESS="", part3_csv=""), "", (8, 3, None, 0, 7)),
    "floats and text in files": Read("parts", folder(a_csv=H + rows("{s},{d},{t}"), b_csv=H + rows("{s}.0,x{d},{t}", 4),
                                     ), "", (8, 6, None, 0, 7)),
    "Windows": Read("w.csv", "src,dst,t\r\n\r\n" + rows("{s},{d},{t}\r") + "\r\n", "", THREE),
    "old Mac": Read("m.csv", (H + rows("{s},{d},{t}")).replace("\n", "\r"), "", THREE),
    "trailing commas": Read("t.csv", H + rows("{s},{d},{t},"), "", THREE),
    "line ends in values": Read("q.csv", "src,dst,t,c\n" + rows('{s},{d},{t},"a\n# b, ""c"""'), "", THREE),
    "blanks before quotes": Read("q.csv", "src, dst, t\n" + rows('"{s}", "{d}", {t}'), "", THREE),
    "hashtags": Read("h.csv", "src,dst,t\n" + rows("#{s},#{d},{t}") + "# a comment\n", "", THREE),
    "leading zeros": Read("z.csv", H + rows("00{s},{d},{t}"), "", (4, 6, None, 0, 3)),
    "1 and 1.0": Read("f.csv", H + rows("{s}.0,{d},{t}"), "", THREE),
    "words such as NA": Read("n.csv", H + "NA,b,1\nb,None,2\nnan,b,3\nb,c,4\n", "", (4, 5, None, 1, 4)),
    "beyond 2^53": Read("g.csv", H + rows("900719925474099{s},{d},{t}"), "", (4, 6, None, 0, 3)),
    "negative": Read("g.csv", H + rows("-{s},-{d},-{t}", 3, -1), "", (4, 3, None, -3, 0)),
    "zones": Read("d.csv", H + rows("{s},{d},1970-01-0{t}T02:00:00+02:00", 1), "", DAYS),
    "digits of dates": Read("d.csv", H + rows("{s},{d},1970010{t}", 1), "", DAYS),
    "German dates": Read("d.csv", H + rows("{s},{d},0{t}.01.1970", 1), "--time-format %d.%m.%Y", DAYS),
    "German dates without a header": Read("d.csv", rows("{s},{d},0{t}.01.1970", 1),
                                          "--no-header --time-format %d.%m.%Y", DAYS),
    "decimal commas in ids": Read("d.csv", "src;dst;t\n" + rows("{s},0;{d};{t},5"), "", (4, 3, None, 0.5, 3.5)),
    "nanoseconds": Read("d.csv", H + rows("{s},{d},{t}.0", 10**18), "", (4, 3, None, 10**18, 10**18 + 3)),
    "labels of words": Read("l.csv", "src,dst,t,label\n" + rows("{s},{d},{t},a"), "", THREE),
    "Parquet": Read("p.bin", parquet, "", (4, 4, None, 1, 4)),
    "Arrow": Read("a.bin", arrow, "", DAYS),
    "JSON array": Read("a.json", "[" + ",".join(rows('{{"src":{s},"dst":"{d}","t":{t}}}').split()) + "]", "", THREE),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_is_read(name: str, tmp_path: Path, command: Command) -> None:
    check_read(TABLES[name], tmp_path, command)
