"""Names of columns: which column plays which role, and whether sources and destinations are two kinds of nodes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mspipe_triton.config import ROLES
from mspipe_triton.errors import DataError, suggestion

REQUIRED = ("src", "dst", "t")

# Names without case, blanks and punctuation. Pairs whose ends share one numbering; the second list is less sure than
# the names of users and items below.
_PAIRS = (
    ("src", "dst"), ("source", "target"), ("source", "destination"), ("source", "dest"), ("account", "account1"),
    ("from", "to"), ("sender", "receiver"), ("sender", "recipient"), ("u", "v"), ("u", "i"), ("i", "j"),
)  # fmt: skip
_WEAK_PAIRS = (
    ("origin", "destination"), ("origin", "dest"), ("source", "sink"), ("head", "tail"), ("rater", "ratee"),
    ("caller", "callee"), ("payer", "payee"), ("debtor", "creditor"), ("originator", "beneficiary"),
    ("orderingparty", "beneficiary"), ("remitter", "beneficiary"), ("follower", "followee"), ("follower", "followed"),
    ("nameorig", "namedest"), ("node1", "node2"), ("id1", "id2"), ("sourcesubreddit", "targetsubreddit"),
    ("pulocation", "dolocation"), ("author", "recipient"), ("citing", "cited"), ("buyer", "seller"),
    ("callernumber", "callednumber"), ("person1", "person2"), ("user1", "user2"),
)  # fmt: skip
_AFFIXES = (
    "id", "node", "nodeid", "account", "accountid", "address", "name", "user", "userid", "bank", "entity", "ip", "iban",
    "addr", "phone", "number", "email",
)  # fmt: skip
_PLACES = ("station", "stop", "city")  # less sure than the names of users and items, which may have them as well
# Names such as from_stop_id and to_stop_id: one of these before or after the same word, which ends so.
_AROUND = (*_PAIRS[:4], ("from", "to"), ("sender", "receiver"), ("start", "end"), ("origin", "destination"))
_NODES = (
    "id", "node", "account", "address", "user", "station", "stop", "entity", "ip", "airport", "city", "zone",
    "location", "bank", "code", "number", "name", "iban", "addr", "phone", "email",
)  # fmt: skip
# Names of the ends of pairs of two kinds:
_USERS = (
    "user", "customer", "client", "buyer", "reader", "viewer", "listener", "reviewer", "member", "visitor", "shopper",
    "consumer", "person", "player", "student", "patient", "cardholder", "card", "cc", "ccnum", "subscriber",
    "passenger", "author", "editor", "employee", "borrower", "guest", "session", "device", "host", "account",
    "username",
)  # fmt: skip
_ITEMS = (
    "item", "product", "movie", "page", "article", "song", "track", "artist", "album", "book", "isbn", "asin", "news",
    "business", "merchant", "shop", "store", "vendor", "post", "video", "film", "show", "game", "url", "resource",
    "course", "venue", "poi", "restaurant", "hotel", "recipe", "repo", "repository", "tag", "ad", "campaign", "paper",
    "parentasin", "sku", "good", "service", "channel", "topic", "category", "film", "podcast", "property", "job",
)  # fmt: skip
_TIMES = (
    "t", "time", "timestamp", "ts", "unixtime", "unixtimestamp", "unixts", "unixreviewtime", "epoch", "datetime",
    "date", "eventtime", "eventtimestamp", "createdat", "created", "createdutc", "creationtime", "sentat", "sent",
    "occurredat", "happenedat", "when", "transactiontime", "transactiondate", "transactiondatetime", "transtime",
    "transdate", "transdatetranstime", "tstime", "valuedate", "bookingdate", "txtime", "txdate", "blocktimestamp",
    "startedat", "starttime", "startdate", "pickupdatetime", "tpeppickupdatetime", "lpeppickupdatetime", "ratingtime",
    "reviewtime", "visittime", "clicktime", "calltime", "timestampms", "timems", "timestep", "step", "utc",
)  # fmt: skip
_TIMELY, _AT = ("time", "date", "timestamp"), re.compile(r"(?:[\s_.-](?i:at)|[a-z\d]At)$")  # ends of names of times
LABELS = ("label", "statelabel", "isfraud", "fraud", "islaundering", "isanomaly", "anomaly")
_FEATURES = re.compile(r"f\d+")
ROW_NUMBERS = ("", "unnamed0", "idx", "index", "rownumber", "level0")


@dataclass(frozen=True)
class Roles:
    """Columns of a table by role.

    Args:
        src, dst, t: names of the columns. label: name of the labels' column, or None.
        features: names of the edge features' columns, in the order of the file or of the user.
        kinds: names of the two kinds of nodes, or ().
    """

    src: str
    dst: str
    t: str
    label: str | None = None
    features: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def of(self, name: str) -> str:
        """Return the role of a column, "" if nothing uses it."""
        for role in (*REQUIRED, "label"):
            if getattr(self, role) == name:
                return role
        return "feature" if name in self.features else ""

    @property
    def used(self) -> tuple[str, ...]:
        """All columns that have a role."""
        names = (self.src, self.dst, self.t, *filter(None, [self.label]), *self.features)
        return tuple(dict.fromkeys(names))


def parse_columns(text: str) -> dict[str, str]:
    """Parse `src=user_id,dst=item_id,t=timestamp,features=amount,country` into a mapping from role to column.

    Names that follow `features=` without a role of their own are features too; `label=` switches the role off.

    Raises:
        DataError: a part has no role or no name, or its role does not exist or is named twice.
    """
    columns, last = dict[str, str](), ""
    for part in (each.strip() for each in text.split(",")):
        role, equals, name = part.partition("=")
        if not equals and last == "features" and part:
            columns["features"] += f",{part}"
        elif equals and role.strip() in ROLES:
            last = role.strip()
            if last in columns:
                raise DataError(f"--columns: {last} is named twice; omit one of them")
            if last in REQUIRED and not name.strip():
                raise DataError(f"--columns: {last}= has no name; use {last}=NAME")
            columns[last] = name.strip()
        else:
            hint = suggestion(role.strip(), ROLES) if equals else _example(text)
            raise DataError(f"--columns: {part!r} is not role=name; the roles are {', '.join(ROLES)}{hint}")
    return columns


def _example(text: str) -> str:
    """Return the end of a message on names without roles, which may be in the order of the roles."""
    names = [each.strip() for each in text.split(",")]
    if "=" in text or len(names) < len(REQUIRED):
        return ""
    return f", as in {','.join(f'{role}={name}' for role, name in zip(REQUIRED, names, strict=False))}"


def plain_name(name: str) -> str:
    """Return a name without case, blanks and punctuation; "#src" and "Src " are "src"."""
    return re.sub(r"[\s_\-.:#%()\"'/]+", "", name.casefold())


def default_columns(names: Sequence[str]) -> dict[str, str]:
    """Return the columns of the roles src, dst, t and label by their usual names; a role without one is left out."""
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(plain_name(name), name)
    columns = _ends(by_name)
    used = set(columns.values())
    for role, usual in (("t", _TIMES), ("label", LABELS)):
        column = next((by_name[each] for each in usual if each in by_name and by_name[each] not in used), None)
        if column is not None:
            columns[role] = column
    timely = [name for name in by_name.values() if _is_timely(name)]
    if "t" not in columns and len(timely) == 1 and timely[0] not in used:
        columns["t"] = timely[0]
    return columns


def other_ends(names: Sequence[str], roles: Roles) -> list[tuple[str, str]]:
    """Return pairs of columns, beside those in use, whose names are usual for source and destination."""
    by_name = {plain_name(name): name for name in reversed(names)}
    pairs = [(each["src"], each["dst"]) for each in _pairs(by_name) if each]
    used = {roles.src, roles.dst, roles.t, roles.label, *roles.features}
    return [pair for pair in dict.fromkeys(pairs) if not used & set(pair)]


def other_times(names: Sequence[str], roles: Roles) -> list[str]:
    """Return columns, beside those in use, whose names are usual for times."""
    return [name for name in names if not roles.of(name) and (plain_name(name) in _TIMES or _is_timely(name))]


def kinds_of(src: str, dst: str) -> tuple[str, ...]:
    """Return the kinds of nodes that the names of two columns tell apart, as in ("user", "item"); () for one kind."""
    source, destination = _kind(src), _kind(dst)
    if destination in _ITEMS and source not in _ITEMS:
        return source, destination
    return ()


def kind_names(src: str, dst: str) -> tuple[str, str]:
    """Return names for two kinds of nodes, from the names of their columns."""
    source, destination = _kind(src), _kind(dst)
    numbers = source.isdigit() or destination.isdigit()
    return ("src", "dst") if numbers or source == destination else (source, destination)


def feature_columns(names: Sequence[str], choice: str | None, others: Mapping[str, str]) -> tuple[str, ...]:
    """Return the columns of edge features.

    Args:
        names: all columns. others: the columns of the other roles, by role; patterns match neither these nor row
            numbers.
        choice: names or patterns, separated by commas, or in quotes as in CSV; "" for no features; None for `features`
            or f0, f1, … if present.

    Raises:
        DataError: a name is missing or has another role, or a pattern matches no column.
    """
    free = [name for name in names if name not in others.values() and plain_name(name) not in ROW_NUMBERS]
    if choice is None:
        lists = [name for name in free if plain_name(name) == "features"]
        return tuple(lists or [name for name in free if _FEATURES.fullmatch(name.casefold().strip())])
    chosen: list[str] = []
    for part in filter(None, (each.strip() for each in next(csv.reader([choice], skipinitialspace=True), []))):
        column = find_column(names, part)
        role = next((role for role, name in others.items() if name == column), None)
        if column is not None and role is not None:
            fix = "omit it there" if role != "label" else "omit it there, or switch the labels off with label="
            raise DataError(f"--columns features={part}: this column is the {role}; {fix}")
        matches = [column] if column is not None else [name for name in free if fnmatchcase(name, part)]
        if not matches:
            header = shown_names(free) or "no other columns"
            hint = suggestion(part, free) or "; change the name or pattern"
            raise DataError(f"no column matches features={part}; the file has {header}{hint}")
        chosen += [name for name in matches if name not in chosen]
    return tuple(chosen)


def find_column(names: Sequence[str], choice: str) -> str | None:
    """Return the column of a name, which may differ in case and blanks; None if there is no such column."""
    if choice in names:
        return choice
    alike = [name for name in names if plain_name(name) == plain_name(choice) and plain_name(choice)]
    return alike[0] if len(alike) == 1 else None


def shown_names(names: Iterable[str], most: int = 12) -> str:
    """List names for a message, the first `most` of them."""
    names = [name if name else '""' for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _is_timely(name: str) -> bool:
    """Return True for a name that ends as those of times do, as in delivery_date, paid_at and playedAt."""
    return plain_name(name).endswith(_TIMELY) or _AT.search(name.strip()) is not None


def _ends(by_name: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of src and dst: a usual pair, or either of them by a name that is usual for it."""
    columns = next(filter(None, _pairs(by_name)), {})
    if columns:
        return columns
    source, destination = _first(by_name, _USERS), _first(by_name, _ITEMS)
    source = source or _first(by_name, (first for first, _ in (*_PAIRS, *_WEAK_PAIRS) if first != "i"))
    destination = destination or _first(by_name, (second for _, second in (*_PAIRS, *_WEAK_PAIRS) if second != "j"))
    alone = {"src": source, "dst": destination}
    return {role: by_name[name] for role, name in alone.items() if name is not None}


def _pairs(by_name: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the columns of src and dst, or {}, by the usual pairs, the surest first: user and item come second."""
    yield _pair(by_name, _PAIRS)
    source, destination = _first(by_name, _USERS), _first(by_name, _ITEMS)
    yield {} if source is None or destination is None else {"src": by_name[source], "dst": by_name[destination]}
    yield _around(by_name)
    yield _pair(by_name, (*_WEAK_PAIRS, *_PAIRS), (*_AFFIXES, *_PLACES))


def _pair(
    by_name: Mapping[str, str], pairs: Iterable[tuple[str, str]], affixes: Sequence[str] = _AFFIXES
) -> dict[str, str]:
    for source, destination in pairs:
        for affix in ("", *affixes):
            for first, second in ((source + affix, destination + affix), (affix + source, affix + destination)):
                if first in by_name and second in by_name:
                    return {"src": by_name[first], "dst": by_name[second]}
    return {}


def _around(by_name: Mapping[str, str]) -> dict[str, str]:
    """Return a pair of columns that differ only in their beginning or end, as from_stop_id and to_stop_id do."""
    pairs = [
        (node, name, other)
        for source, destination in _AROUND
        for name in by_name
        for other in (
            destination + name.removeprefix(source) if name.startswith(source) else "",
            name.removesuffix(source) + destination if name.endswith(source) else "",
        )
        for node, ending in enumerate(_NODES)
        if other in by_name and (name.endswith(ending) or name.removesuffix(source).endswith(ending))
    ]
    if not pairs:
        return {}
    _, source, destination = min(pairs, key=lambda pair: pair[0])
    return {"src": by_name[source], "dst": by_name[destination]}


def _first(by_name: Mapping[str, str], usual: Iterable[str]) -> str | None:
    return next(
        (each + affix for each in usual for affix in ("", "id", "name", "key") if each + affix in by_name), None
    )


def _kind(name: str) -> str:
    """Return the kind of node that a column's name tells, as in "movie" for movieId."""
    plain = plain_name(name)
    for affix in ("id", "name", "key", "number"):
        if plain.endswith(affix) and len(plain) > len(affix) and plain.removesuffix(affix) in (*_USERS, *_ITEMS):
            return plain.removesuffix(affix)
    return plain.removesuffix("id") if plain.endswith("id") and len(plain) > 2 else plain
