"""Conditions on documents, and the SQL that decides them.

A condition is a tree: Compare at the leaves; And, Or, Not above.  The adapters
translate the filters of their frameworks into it, and differ there; what a leaf
means is said here, once.  Every leaf is true or false, never unknown, so Not is
the whole rest.
"""

import json
import math
from dataclasses import dataclass
from datetime import datetime

# What Compare.op may be.
OPERATORS = ("eq", "ne", "gt", "ge", "lt", "le", "in", "nin", "contains", "text", "itext",
             "exists", "empty")
_ORDER = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_COLUMNS = ("key", "parent", "content", "metadata")


@dataclass(frozen=True)
class Compare:
    """One value of a document, compared.

    Parameters
    ----------
    op : str
        ``eq ne gt ge lt le``, ``in nin`` (value is a list), ``contains`` (a list
        that has the value, or a text that does), ``text itext`` (a text that has
        the value, letter case aside under itext), ``exists`` (value says whether
        it should), ``empty`` (missing, null, "" or []).
    path : tuple of str
        Keys into the metadata, outermost first.
    value : object
        What to compare with: None, a bool, number, text, list or dict.
    column : str
        Compare this column instead; `path` is then empty.
    dates : bool
        Texts that are ISO 8601 dates compare as points in time.

    Numbers and truth values compare as in Python; numbers never with texts, whose
    order is that of their code points.  A value that is missing or null equals
    None, and is neither above nor below anything.
    """

    op: str
    path: tuple = ()
    value: object = None
    column: str = "metadata"
    dates: bool = False


@dataclass(frozen=True)
class And:
    """All of them; true of none."""

    parts: tuple


@dataclass(frozen=True)
class Or:
    """One of them at least; false of none."""

    parts: tuple


@dataclass(frozen=True)
class Not:
    """The part is false."""

    part: object


def sql_of(condition, *, of_null="NULL"):
    """(text, parameters) of an SQL expression: 1 where the condition holds, else 0 or NULL.

    WHERE takes NULL for false, and so leaves are bare, which lets SQLite use an index
    for them.  Under NOT it must be 0.
    """
    if isinstance(condition, Not):
        text, values = sql_of(condition.part, of_null="0")
        return f"NOT {text}", values
    if isinstance(condition, (And, Or)):
        word, of_none = (" AND ", "1") if isinstance(condition, And) else (" OR ", "0")
        texts, values = [], []
        for part in condition.parts:
            text, more = sql_of(part, of_null=of_null)
            texts.append(text)
            values += more
        return f"({word.join(texts) or of_none})", values
    if not isinstance(condition, Compare):
        raise TypeError("condition: expected And, Or, Not or Compare, "
                        f"got {type(condition).__name__}")
    text, values = _leaf(condition)
    return (text if of_null == "NULL" else f"COALESCE({text}, 0)"), values


def _leaf(leaf):
    value, op = leaf.value, leaf.op
    if op not in OPERATORS:
        raise ValueError(f"operator: expected one of {', '.join(OPERATORS)}, got {op!r}")
    x, kind = _operand(leaf)
    if op == "eq":
        return _equals(x, kind, value, leaf.dates)
    if op in ("ne", "nin"):
        text, values = _leaf(Compare("eq" if op == "ne" else "in", leaf.path, value, leaf.column,
                                     leaf.dates))
        return f"NOT COALESCE({text}, 0)", values
    if op == "in":
        return _among(x, kind, value, leaf)
    if op in _ORDER:
        return _ordered(x, kind, value, leaf)
    if op == "contains":
        return _contains(x, kind, value, leaf)
    if op in ("text", "itext"):
        if not isinstance(value, str):
            raise ValueError(f"{_name(leaf)}: expected a text to look for, got {value!r}")
        lower = "vx_lower" if op == "itext" else ""
        return f"({kind} = 'text' AND instr({lower}({x}), {lower}(?)) > 0)", [value]
    if op == "exists":
        return f"({kind} IS {'NOT ' if value else ''}NULL)", []
    return (f"({kind} IS NULL OR {kind} = 'null' OR ({kind} = 'text' AND {x} = '') "
            f"OR ({kind} = 'array' AND {x} = '[]'))"), []


def _name(leaf):
    return repr(".".join(leaf.path) or leaf.column)


def path_of(keys):
    """The JSON path of keys, as an SQL literal."""
    for key in keys:
        if not isinstance(key, str) or '"' in key or "\0" in key:
            raise ValueError(f"field: expected a text without quotation marks, got {key!r}")
    path = "$" + "".join(f'."{key}"' for key in keys)
    return "'" + path.replace("'", "''") + "'"


def value_at(keys):
    """SQL of a value in the metadata; an index over it is over this text."""
    return f"json_extract(metadata, {path_of(keys)})"


def _operand(leaf):
    """SQL of the value, and of its JSON type: NULL where it is missing."""
    if leaf.column not in _COLUMNS:
        raise ValueError(f"column: expected one of {', '.join(_COLUMNS)}, got {leaf.column!r}")
    if leaf.column != "metadata":
        return leaf.column, f"(CASE WHEN {leaf.column} IS NOT NULL THEN 'text' END)"
    path = path_of(leaf.path)
    return value_at(leaf.path), f"json_type(metadata, {path})"


def _number(value):
    """As SQLite takes it: whole numbers beyond 64 bits are floats in JSON too."""
    value = int(value) if isinstance(value, bool) else value
    return float(value) if isinstance(value, int) and not -2**63 <= value < 2**63 else value


def _is_number(value):
    return isinstance(value, (bool, int, float))


def _equals(x, kind, value, dates):
    if value is None:
        return f"({x} IS NULL)", []
    if _is_number(value):
        if isinstance(value, float) and math.isnan(value):
            return "0", []
        return f"({kind} <> 'text' AND {x} = ?)", [_number(value)]
    if isinstance(value, str):
        if dates and as_date(value) is not None:
            return f"({kind} = 'text' AND ({x} = ? OR vx_dates({x}, ?) = 0))", [value, value]
        return f"({kind} = 'text' AND {x} = ?)", [value]
    if isinstance(value, (list, dict)):
        # CASE, since SQLite may ask both sides of an AND.
        return (f"CASE WHEN {kind} IN ('array', 'object') THEN vx_same({x}, ?) END",
                [json.dumps(value)])
    raise ValueError("value: expected None, a bool, number, text, list or dict, "
                     f"got {type(value).__name__}")


def _among(x, kind, value, leaf):
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise ValueError(f"{_name(leaf)}: expected a list of values, got {value!r}")
    values = list(value)
    if not leaf.dates and values and all(isinstance(one, str) for one in values):
        # One parameter for thousands of ids.
        return (f"({kind} = 'text' AND {x} IN (SELECT value FROM json_each(?)))",
                [json.dumps(values)])
    texts, parameters = ["0"], []
    for one in values:
        text, more = _equals(x, kind, one, leaf.dates)
        texts.append(f"COALESCE({text}, 0)")
        parameters += more
    return f"({' OR '.join(texts)})", parameters


def _ordered(x, kind, value, leaf):
    sign = _ORDER[leaf.op]
    if _is_number(value):
        return f"({kind} NOT IN ('text', 'array', 'object') AND {x} {sign} ?)", [_number(value)]
    if isinstance(value, str):
        if leaf.dates:
            return f"({kind} = 'text' AND vx_dates({x}, ?) {sign} 0)", [value]
        return f"({kind} = 'text' AND {x} {sign} ?)", [value]
    raise ValueError(f"{_name(leaf)}: {sign} needs a number or a text, got {value!r}")


def _contains(x, kind, value, leaf):
    if leaf.column != "metadata":
        raise ValueError(f"{leaf.column}: holds no lists")
    each = f"json_each(metadata, {path_of(leaf.path)}) AS element"
    item = "CASE element.type WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE element.value END"
    test, values = _equals(f"({item})", "element.type", value, False)
    text = f"({kind} = 'array' AND EXISTS (SELECT 1 FROM {each} WHERE {test}))"
    if isinstance(value, str):
        text = f"({text} OR ({kind} = 'text' AND instr({x}, ?) > 0))"
        values = [*values, value]
    return text, values


# ---- what SQLite asks Python ------------------------------------------------------


def as_date(text):
    """The point in time that a text names, or None; a full YYYY-MM-DD at least."""
    if not isinstance(text, str) or len(text) < 10 or text[4] != "-" or text[7] != "-":
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _compare_dates(a, b):
    """Sign of a - b; None where one is no date.  One without a zone is in that of the other."""
    a, b = as_date(a), as_date(b)
    if a is None or b is None:
        return None
    if a.tzinfo is None:
        a = a.replace(tzinfo=b.tzinfo)
    elif b.tzinfo is None:
        b = b.replace(tzinfo=a.tzinfo)
    return (a > b) - (a < b)


def _same(a, b):
    return json.loads(a) == json.loads(b)


def install(connection):
    """Make the functions that the SQL above calls known to a connection."""
    for name, n, function in (("vx_dates", 2, _compare_dates), ("vx_same", 2, _same),
                              ("vx_lower", 1, lambda text: text and str(text).lower())):
        connection.create_function(name, n, function, deterministic=True)
