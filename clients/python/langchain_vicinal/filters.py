"""Filters: LangChain's structured queries as Vicinal's filters.

    SelfQueryRetriever.from_llm(…, structured_query_translator=VicinalTranslator())

Attributes are paths into the metadata ("a.b" is member b of a).  `not` over several arguments is
"not all of them".
"""
from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Tuple, Union

from langchain_core.structured_query import (
    Comparator,
    Comparison,
    FilterDirective,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)

Filter = Union[Mapping[str, Any], FilterDirective, StructuredQuery]

_COMPARATORS = {
    Comparator.EQ: "$eq", Comparator.NE: "$ne", Comparator.GT: "$gt", Comparator.GTE: "$gte",
    Comparator.LT: "$lt", Comparator.LTE: "$lte", Comparator.CONTAIN: "$contains",
    Comparator.LIKE: "$like", Comparator.IN: "$in", Comparator.NIN: "$nin",
}
_OPERATORS = {Operator.AND: "$and", Operator.OR: "$or", Operator.NOT: "$not"}


class VicinalTranslator(Visitor):
    allowed_comparators = tuple(_COMPARATORS)
    allowed_operators = tuple(_OPERATORS)

    def visit_operation(self, operation: Operation) -> Dict[str, Any]:
        self._validate_func(operation.operator)
        arguments = [argument.accept(self) for argument in operation.arguments]
        if not arguments:
            raise ValueError(f"{operation.operator.value} of nothing")
        if operation.operator is Operator.NOT:
            return {"$not": arguments[0] if len(arguments) == 1 else {"$and": arguments}}
        return {_OPERATORS[operation.operator]: arguments}

    def visit_comparison(self, comparison: Comparison) -> Dict[str, Any]:
        self._validate_func(comparison.comparator)
        value = comparison.value
        if comparison.comparator in (Comparator.IN, Comparator.NIN):
            value = [_plain(each) for each in value] if isinstance(value, (list, tuple, set)) \
                else [_plain(value)]
        else:
            value = _plain(value)
        return {comparison.attribute: {_COMPARATORS[comparison.comparator]: value}}

    def visit_structured_query(
        self, structured_query: StructuredQuery
    ) -> Tuple[str, Dict[str, Any]]:
        if structured_query.filter is None:
            return structured_query.query, {}
        return structured_query.query, {"filter": structured_query.filter.accept(self)}


def _plain(value: Any) -> Any:
    """Dates come as {"date": "2024-01-31", "type": "date"} from the query parser."""
    if isinstance(value, dict) and value.get("type") in ("date", "datetime"):
        return value[value["type"]]
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if callable(isoformat) else value


def to_filter(filter: Optional[Filter]) -> Optional[Dict[str, Any]]:
    """A native filter of whatever a caller gave; None or {} is no filter."""
    if filter is None:
        return None
    if isinstance(filter, StructuredQuery):
        return to_filter(filter.filter)
    if isinstance(filter, FilterDirective):
        found: Dict[str, Any] = filter.accept(VicinalTranslator())
        return found
    if not isinstance(filter, Mapping):
        raise TypeError(f"a filter is a dict or a structured query, not {type(filter).__name__}")
    return dict(filter) or None
