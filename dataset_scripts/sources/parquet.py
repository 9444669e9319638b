"""Captioned pictures in Parquet, as data sets on the Hub keep them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..items import DataError, Item, Problems
from .reading import annotation_files, split_of


ROWS = 4_096  # that are held in memory at a time: their text, never their pictures


def read_pictures(
    path: Path,
    problems: Problems,
    image: str,
    caption: str,
    key: str | None,
    caption_of: Callable[[object], str | None] = lambda value: value,
    key_is_optional: bool = False,
) -> Iterator[Item]:
    """An item per row, of which only the columns `caption` and `key` are read. Without `key`, shard and row name it."""
    folder = path if path.is_dir() else path.parent
    for file in annotation_files(path, ("*.parquet",)):
        shard, split, number = file.relative_to(folder).as_posix(), split_of(file.stem), 0
        with parquet_file(file) as rows:
            columns = rows.schema_arrow.names
            names_rows = None if key_is_optional and key not in columns else key
            for column in filter(None, (image, caption, names_rows)):
                if column not in columns:
                    raise DataError(f"{file}: expected a column {column!r}, found {', '.join(columns)}")
            for batch in rows.iter_batches(ROWS, columns=[*filter(None, (caption, names_rows))]):
                keys = batch.column(names_rows).to_pylist() if names_rows else [None] * len(batch)
                for value, own in zip(batch.column(caption).to_pylist(), keys, strict=True):
                    place, media, said = f"{shard}: row {number}", f"{shard}#{image}#{number}", caption_of(value)
                    number += 1
                    if isinstance(said, str):
                        yield Item(media if own is None else str(own), (media,), place, split, said.strip())
                    else:
                        problems.add("malformed", place, f"no caption in {caption!r}: {value!r:.80}", split)


@contextmanager
def parquet_file(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read; what is wrong with it is an error that names it."""
    try:
        with pq.ParquetFile(path) as rows:
            yield rows
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a Parquet file that can be read: {error}") from error
