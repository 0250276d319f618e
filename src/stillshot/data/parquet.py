"""Parquet: rows as plain values, whatever their types, and the table as it is."""

from __future__ import annotations

import base64
import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillshot.data.values import ClassName, PrintedValue
from stillshot.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_OUT_OF_RANGE = "<value out of range: "


class ParquetFile:
    """A file's table, and its rows as values that JSON can hold.

    Attributes:
        table: As it was read, with types and metadata.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._path = path
        try:
            # Not read_table: it adds columns where the path looks like the folders of a partitioned data set.
            self.table: pa.Table = _read(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path} is not a readable Parquet file: {error}") from None
        names = self.table.column_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{path} names a column twice: {', '.join(twice)}. Rename one of them.")

    def rows(self, *, class_names: bool = True) -> Iterator[tuple[str, TableRow]]:
        """The rows, each with its place.

        Args:
            class_names: Read the numbers of a ``ClassLabel`` column as the names that the file's metadata give them.
        """
        columns = _Columns(self.table, classes_in(self.table.schema) if class_names else {})
        for number in range(self.table.num_rows):
            yield f"{self._path}:{number + 1}", TableRow(columns, number)


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as plain values, with class names where its metadata have them."""
    columns = _Columns(table, classes_in(table.schema))
    return [dict(TableRow(columns, number)) for number in range(table.num_rows)]


class _Columns(dict[str, list[Any]]):
    """The columns of a table as plain values, each made when it is first read."""

    def __init__(self, table: pa.Table, classes: Mapping[str, list[str]]) -> None:
        super().__init__()
        self.table, self.classes = table, classes
        self.names = dict.fromkeys(table.column_names)

    def __missing__(self, name: str) -> list[Any]:
        values = plain_values(self.table[name])
        if name in self.classes:
            values = [class_name(value, self.classes[name]) for value in values]
        self[name] = values
        return values


class TableRow(Mapping[str, Any]):
    """A row of a table, whose values are made when they are read."""

    __slots__ = ("_columns", "_number")

    def __init__(self, columns: _Columns, number: int) -> None:
        self._columns, self._number = columns, number

    def __getitem__(self, name: str) -> Any:
        if name not in self._columns.names:
            raise KeyError(name)
        return self._columns[name][self._number]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __len__(self) -> int:
        return len(self._columns.names)


def _read(path: Path) -> pa.Table:
    """The table; times in Spark's old form in microseconds where one is out of the range of nanoseconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    old = any(file.schema.column(i).physical_type == "INT96" for i in range(len(file.schema)))
    if old:
        in_microseconds = pq.ParquetFile(path, coerce_int96_timestamp_unit="us").read()
        try:
            for column in in_microseconds.columns:
                if pa.types.is_timestamp(column.type):
                    column.cast(pa.timestamp("ns", column.type.tz))
        except pa.ArrowInvalid:  # which reading it in nanoseconds does not say
            return in_microseconds
    return file.read()


def classes_in(schema: pa.Schema) -> dict[str, list[str]]:
    """The class names that Hugging Face datasets put into a schema, by column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return class_names_of(features)
    except (KeyError, TypeError, ValueError):
        return {}


def class_names_of(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """The class names in the features of a data set, as its ``to_dict`` gives them, by column."""
    found = {}
    for name, feature in features.items():
        kind = feature.get("_type") if isinstance(feature, Mapping) else None
        if kind in ("Sequence", "List", "LargeList"):  # one label in a list, or several
            feature = feature.get("feature")
        if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            if isinstance(names, list) and all(isinstance(one, str) for one in names):
                found[name] = names
    return found


def class_name(value: Any, names: list[str]) -> Any:
    """The name of a class number; ``None`` for -1, which stands for no label; other values as they are."""
    if isinstance(value, list):
        return [class_name(item, names) for item in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if value == -1:
        return None
    return ClassName(names[value], value) if 0 <= value < len(names) else value


# Values ------------------------------------------------------------------------------------------


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """A column as values that JSON can hold: dates, times and decimals as text, bytes in base64.

    A column of bytes that all are UTF-8 is one of texts, as older programs write them.
    """
    values = [value for chunk in column.chunks for value in _plain(chunk)]
    if any(isinstance(value, bytes) for value in values):
        with contextlib.suppress(UnicodeDecodeError):
            return [None if value is None else value.decode() for value in values]
    return [_encoded(value) for value in values]


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return PrintedValue(base64.b64encode(value).decode(), "bytes")
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    if isinstance(value, dict):
        return {name: _encoded(item) for name, item in value.items()}
    return value


def _plain(array: pa.Array) -> list[Any]:
    import pyarrow as pa

    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        values = _plain_extension(array)
    elif pa.types.is_dictionary(kind):
        values = _plain(array.dictionary_decode())
    elif pa.types.is_float16(kind) or pa.types.is_float32(kind):
        # By way of text, so that the float32 0.1 is 0.1 and not 0.10000000149.
        values = [None if text is None else float(text) for text in array.cast(pa.string()).to_pylist()]
    elif pa.types.is_duration(kind):
        values = [None if n is None else _duration(n, kind.unit) for n in array.cast(pa.int64()).to_pylist()]
    elif pa.types.is_decimal(kind):
        values = array.cast(pa.string()).to_pylist()
    elif pa.types.is_temporal(kind):
        values = _as_texts(array)
    elif pa.types.is_struct(kind):
        values = _plain_struct(array)
    elif pa.types.is_map(kind):
        values = [None if row is None else _mapping(row) for row in _slices(array)]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        values = _lists(array)
    else:
        values = _plain_scalars(array)
    return values


def _plain_scalars(array: pa.Array) -> list[Any]:
    import pyarrow as pa

    try:
        values = array.to_pylist()
    except UnicodeDecodeError:  # a text that is no UTF-8, which Parquet does not check
        values = [value.decode("utf-8", "backslashreplace") if value is not None else None for value in
                  array.cast(pa.large_binary()).to_pylist()]  # fmt: skip
    return values


def _as_texts(array: pa.Array) -> list[str | None]:
    import pyarrow as pa

    unit = getattr(array.type, "unit", "d" if pa.types.is_date32(array.type) else "ms")
    time = pa.types.is_timestamp(array.type)
    texts = []
    for text in array.cast(pa.string()).to_pylist():
        if text is not None and text.startswith(_OUT_OF_RANGE):
            text = f"{text.removeprefix(_OUT_OF_RANGE).removesuffix('>')} {unit} since 1970"
        elif time and text is not None:
            text = text.replace(" ", "T", 1)
        texts.append(None if text is None else PrintedValue(text, "time"))
    return texts


def _duration(count: int, unit: str) -> str:
    """A duration as ISO 8601 has it, in seconds."""
    digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
    whole, rest = divmod(abs(count), 10**digits)
    fraction = f"{rest:0{digits}d}".rstrip("0") if digits else ""
    return PrintedValue(f"{'-' if count < 0 else ''}PT{whole}{'.' + fraction if fraction else ''}S", "time")


def _plain_struct(array: Any) -> list[Any]:
    fields = [field.name for field in array.type]
    columns = [_plain(child) for child in array.flatten()]
    rows = zip(*columns, strict=True) if columns else ((),) * len(array)
    valid = array.is_valid().to_pylist()
    return [dict(zip(fields, row, strict=True)) if ok else None for row, ok in zip(rows, valid, strict=True)]


def _lists(array: Any) -> list[Any]:
    """The rows of a list array."""
    import pyarrow.compute as pc

    flat, found, start = _plain(array.flatten()), [], 0  # without what stands behind null rows
    for length in pc.call_function("list_value_length", [array]).to_pylist():
        found.append(None if length is None else flat[start : start + length])
        start += length or 0
    return found


def _slices(array: Any) -> list[Any]:
    """The rows of a map array."""
    return [_plain(row.values) if row.is_valid else None for row in array]


def _mapping(row: list[Any]) -> Any:
    """A map as an object where its keys are texts that differ, else as a list of pairs."""
    pairs = [tuple(pair.values()) for pair in row]
    keys = [key for key, _ in pairs]
    if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
        return dict(pairs)
    return [list(pair) for pair in pairs]


def _plain_extension(array: Any) -> list[Any]:
    storage = array.storage
    if array.type.extension_name == "arrow.uuid":
        values = storage.to_pylist()
        return [None if value is None else str(uuid.UUID(bytes=value)) for value in values]
    return _plain(storage)


def exact_array(values: list[Any]) -> pa.Array | None:
    """Values as an array that gives them back as they are; ``None`` where Parquet has no such type."""
    import pyarrow as pa

    with contextlib.suppress(pa.ArrowException, UnicodeEncodeError, OverflowError, ValueError):
        array = _array(values)
        if not _has_empty_struct(array.type) and _same(array.to_pylist(), values):
            return array
    return None


def _array(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    whole = [value for value in values if value is not None]
    if whole and all(type(value) is int for value in whole) and max(whole) >= 2**63:
        return pa.array(values, pa.uint64())
    return pa.array(values)


def _same(given: Any, values: Any) -> bool:
    """Whether values are the same, of the same types (1 is not 1.0), with NaN like NaN."""
    if isinstance(values, list):
        return isinstance(given, list) and len(given) == len(values) and all(map(_same, given, values))
    if isinstance(values, dict):
        return (
            isinstance(given, dict)
            and given.keys() == values.keys()
            and all(_same(given[k], values[k]) for k in values)
        )
    if isinstance(values, float) or isinstance(given, float):
        # A column of whole numbers and others is one of floats, as in every data frame.
        return (
            isinstance(given, float)
            and isinstance(values, int | float)
            and (given == values or values != values)
        )
    return isinstance(given, bool) == isinstance(values, bool) and given == values


def _has_empty_struct(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_has_empty_struct(field.type) for field in kind)
    return pa.types.is_list(kind) and _has_empty_struct(kind.value_type)
