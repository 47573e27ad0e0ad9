"""What is changed in the syntax of a chat template, so that what it makes is counted."""

from __future__ import annotations

from typing import cast

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

# Filters that are put in: what a loop goes through, what `~` joins, what is new or compared, a step of a loop.
COUNTED, JOINED, SIZED, STEP = "_counted", "_joined", "_sized", "_step"


class Rewriter(NodeTransformer):
    """Puts under the budget what the syntax of a template makes."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: D102
        cost = 1 + sum(1 for part in node.body for _ in part.find_all(nodes.Output)) // 4
        self.generic_visit(node)
        node.iter = _filtered(COUNTED, cast(nodes.Expr, node.iter), nodes.Const(cost, lineno=node.lineno))
        if node.recursive:  # its body hands it what to go through next
            step = _filtered(STEP, nodes.Const("", lineno=node.lineno))
            node.body = [nodes.Output([step], lineno=node.lineno), *node.body]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: D102
        self.generic_visit(node)
        return _filtered(JOINED, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: D102
        self.generic_visit(node)
        node.expr = _sized_node(node.expr)
        for operand in node.ops:
            operand.expr = _sized_node(cast(nodes.Expr, operand.expr))
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: D102
        self.generic_visit(node)
        return _sized_node(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: D102
        self.generic_visit(node)
        return _sized_node(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: D102
        self.generic_visit(node)
        return _sized_node(node) if node.ctx == "load" else node


def _sized_node(node: nodes.Expr) -> nodes.Expr:
    parts = [node] if not isinstance(node, nodes.List | nodes.Tuple) else node.items
    if all(isinstance(part, nodes.Const) for part in parts):
        return node
    return node if isinstance(node, nodes.Filter) and node.name == SIZED else _filtered(SIZED, node)


def _filtered(name: str, value: nodes.Expr, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)
