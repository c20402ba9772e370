"""Row groups of Parquet files that fsspec opens: vectors, and ids beside them."""

import numpy as np

from vecidx.readers import ReaderError, _first_line, _is_vector_type, _lists_to_matrix, _only


def _pyarrow(path):
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ReaderError(f"{path}: reading Parquet needs pyarrow: "
                          'pip install "vecidx[ray]"') from None
    return pa, pq


def _open(file, path):
    pa, pq = _pyarrow(path)
    try:
        return pa, pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as err:
        raise ReaderError(f"{path}: not a readable Parquet file: {_first_line(err)}") from err


def layout(file, path, column, id_column):
    """(name of the vector column, rows of each row group)."""
    pa, parquet = _open(file, path)
    schema = parquet.schema_arrow
    if column is None:
        column = _only(path, "column", [f.name for f in schema if _is_vector_type(pa, f.type)])
    for name in (column, id_column):
        if name is not None and name not in schema.names:
            raise ReaderError(f"{path}: no column {name!r}; it has {', '.join(schema.names)}")
    if not _is_vector_type(pa, schema.field(column).type):
        raise ReaderError(f"{path}: column {column!r} is {schema.field(column).type}; expected "
                          "lists of numbers")
    if id_column is not None and not pa.types.is_integer(schema.field(id_column).type):
        raise ReaderError(f"{path}: column {id_column!r} is {schema.field(id_column).type}; "
                          "expected integers")
    meta = parquet.metadata
    return column, [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]


def read_group(file, path, group, column, id_column, first_row):
    """(rows, ids or None) of one row group; `first_row` is for messages."""
    pa, parquet = _open(file, path)
    names = [column] if id_column is None else [column, id_column]
    try:
        table = parquet.read_row_group(group, columns=names)
    except (pa.ArrowException, OSError) as err:
        raise ReaderError(f"{path}: damaged Parquet file: {_first_line(err)}") from err
    rows = _lists_to_matrix(pa, path, column, table.column(column).combine_chunks(), first_row)
    if id_column is None:
        return rows, None
    ids = table.column(id_column)
    if ids.null_count:
        raise ReaderError(f"{path}: column {id_column!r} has nulls after row {first_row}")
    return rows, np.asarray(ids.to_numpy())
