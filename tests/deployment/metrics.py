"""The metrics of the program, and what a query asks of them."""

import re

import promql_parser

from common import ROOT

GUIDE = ROOT / "docs/metrics.md"
# What Prometheus adds by itself.
OWN = {"up": {}}
OWN_LABELS = {"job", "instance", "le"}
SUFFIXES = ("_bucket", "_sum", "_count")

ROW = re.compile(r"^\| `(sanafarm_\w+)` \| (counter|gauge|histogram) \| ([^|]*)\|", re.MULTILINE)


def known():
    """Each metric of the guide: its kind and its labels, with their values where those are told."""
    found = {}
    for name, kind, cell in ROW.findall(GUIDE.read_text()):
        labels = {}
        for part in cell.split(";"):
            label = re.match(r"\s*`(\w+)`(?::\s*(.*))?", part)
            if label:
                labels[label[1]] = [value.strip(" `") for value in (label[2] or "").split(",") if value.strip()]
        found[name] = (kind, labels)
    return found


def base(name, metrics):
    """The metric that a series belongs to."""
    for suffix in SUFFIXES:
        short = name.removesuffix(suffix)
        if short != name and metrics.get(short, ("",))[0] == "histogram":
            return short
    return name


def parts(expression):
    """Selectors of a query and the labels that it groups by."""
    selectors, labels = [], set()

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            selectors.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            selectors.append(node.vector_selector)
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)
        for child in ("expr", "lhs", "rhs"):
            if hasattr(node, child):
                visit(getattr(node, child))
        for argument in getattr(node, "args", None) or []:
            visit(argument)

    visit(promql_parser.parse(expression))
    return selectors, labels


def faults(query):
    """What is wrong with a query: names and labels that nothing has, and a query that is none."""
    metrics = known()
    # Grafana's own variables.
    query = re.sub(r"\$__rate_interval|\$__interval|\$__range", "5m", query)
    try:
        selectors, grouped = parts(query)
    except ValueError as error:
        return [f"{query}: {error}"]
    found, labels = [], set(OWN_LABELS)
    for selector in selectors:
        name = base(selector.name, metrics)
        if name not in metrics and name not in OWN:
            found.append(f"{query}: nothing is named {selector.name}")
            continue
        kind, own = metrics.get(name, ("gauge", OWN.get(name)))
        if kind == "histogram" and selector.name == name:
            found.append(f"{query}: {name} is a histogram and has {', '.join(name + end for end in SUFFIXES)}")
        labels |= set(own)
        for matcher in selector.matchers.matchers:
            if matcher.name not in set(own) | OWN_LABELS:
                found.append(f"{query}: {selector.name} has no label {matcher.name}")
            elif own.get(matcher.name) and matcher.op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.NotEqual):
                if matcher.value not in own[matcher.name]:
                    found.append(f"{query}: {matcher.name} of {selector.name} is never {matcher.value}")
    for label in sorted(grouped - labels):
        found.append(f"{query}: nothing in it has a label {label}")
    return found
