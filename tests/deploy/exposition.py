"""Reads Prometheus' text format (0.0.4) and says what `promtool check metrics` does not: the same series twice, a metric announced twice or
torn apart, buckets that fall, a histogram without +Inf, counters below zero, and values without HELP or TYPE."""

import math
import re

SERIES = re.compile(r'^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def family_of(name, types):
    """A histogram's series carry its name and a suffix."""
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base != name and types.get(base) == "histogram":
            return base
    return name


def problems(text):
    found, types, helps, seen, finished, last = [], {}, set(), set(), set(), None
    buckets, counts = {}, {}
    for number, line in enumerate(text.splitlines(), 1):
        where = f"line {number}: "
        if line.startswith("# "):
            _, kind, name, rest = (line.split(" ", 3) + [""])[:4]
            if kind == "TYPE":
                if name in types:
                    found.append(f"{where}{name} is announced twice")
                types[name] = rest
            elif kind == "HELP":
                helps.add(name)
                if not rest:
                    found.append(f"{where}{name} has an empty HELP")
            continue
        series = SERIES.match(line)
        if not series:
            found.append(f"{where}cannot be read: {line}")
            continue
        name, value = series["name"], float(series["value"])
        labels = dict(LABEL.findall(series["labels"] or ""))
        family = family_of(name, types)
        if family != last:
            if family in finished:
                found.append(f"{where}{family} is torn apart by other metrics")
            finished.add(last)
            last = family
        key = (name, tuple(sorted(labels.items())))
        if key in seen:
            found.append(f"{where}the series {name}{labels} stands there twice")
        seen.add(key)
        if family not in types or family not in helps:
            found.append(f"{where}{family} has no TYPE or no HELP")
        if types.get(family) in ("counter", "histogram") and not value >= 0:
            found.append(f"{where}{name} is {value}: counters do not fall below 0")
        rest = tuple(sorted(item for item in labels.items() if item[0] != "le"))
        if types.get(family) == "histogram" and name == family + "_bucket":
            buckets.setdefault((family, rest), []).append((float(labels["le"]), value))
        if types.get(family) == "histogram" and name == family + "_count":
            counts[family, rest] = value
    for (family, rest), rows in buckets.items():
        found += histogram_problems(f"{family}{dict(rest)}", rows, counts.get((family, rest)))
    return found


def histogram_problems(what, rows, count):
    bounds, values = [bound for bound, _ in rows], [value for _, value in rows]
    if bounds != sorted(bounds):
        yield f"{what}: bounds are not in order"
    if values != sorted(values):
        yield f"{what}: buckets fall: {values}"
    if math.inf not in bounds:
        yield f"{what}: has no +Inf bucket"
    elif count != values[-1]:
        yield f"{what}: _count is {count}, its +Inf bucket {values[-1]}"


def names(text):
    """Every series' name, and for histograms their suffixes'."""
    return {series["name"] for series in map(SERIES.match, text.splitlines()) if series} | {
        line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE ")
    }


def label_names(text):
    found = {}
    for series in filter(None, map(SERIES.match, text.splitlines())):
        found.setdefault(series["name"], set()).update(name for name, _ in LABEL.findall(series["labels"] or ""))
    return found
