"""Rows out of what Python programs hold tables in: lists, arrays, data frames, Arrow tables, data sets."""

from __future__ import annotations

from typing import Any

from stillshot.data.parquet import class_name, class_names_of, plain_rows
from stillshot.errors import DataError


def rows_in(given: Any) -> list[Any]:
    """Texts or mappings out of a list, an array, a series, a data frame, an Arrow table or a data set.

    The numbers of a data set's ``ClassLabel`` columns become their names.

    Raises:
        DataError: It is one text, not several.
    """
    if isinstance(given, str):
        raise DataError("Texts are given as a list, also when there is one: [text], not text.")
    if hasattr(given, "to_dicts"):  # Polars
        return given.to_dicts()
    if hasattr(given, "columns") and hasattr(given, "to_dict"):  # pandas
        twice = sorted({str(name) for name in given.columns if list(given.columns).count(name) > 1})
        if twice:
            raise DataError(f"The data frame names a column twice: {', '.join(twice)}. Rename one of them.")
        return given.to_dict("records")
    if hasattr(given, "column_names") and hasattr(given, "schema"):  # Arrow
        return plain_rows(given)
    features: Any = getattr(given, "features", None)
    if not hasattr(features, "to_dict"):
        return list(given)
    named = class_names_of(features.to_dict())  # a data set of Hugging Face
    return [
        {**row, **{name: class_name(row.get(name), named[name]) for name in named}}
        for row in map(dict, given)
    ]
