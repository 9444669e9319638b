"""Captioned pictures in Parquet, as data sets on the Hub keep them."""

from collections.abc import Callable, Iterator
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
) -> Iterator[Item]:
    """An item per row, of which only the columns `caption` and `key` are read. Without `key`, shard and row name it."""
    folder = path if path.is_dir() else path.parent
    for file in annotation_files(path, ("*.parquet",)):
        shard = file.relative_to(folder).as_posix()
        try:
            rows = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file}: expected a Parquet file: {error}") from error
        columns = rows.schema_arrow.names
        for column in filter(None, (image, caption, key)):
            if column not in columns:
                raise DataError(f"{file}: expected a column {column!r}, found {', '.join(columns)}")
        split, number = split_of(file.stem), 0
        for batch in rows.iter_batches(ROWS, columns=[column for column in (caption, key) if column]):
            keys = batch.column(key).to_pylist() if key else [None] * len(batch)
            for value, own in zip(batch.column(caption).to_pylist(), keys, strict=True):
                text = caption_of(value)
                if isinstance(text, str):
                    media = f"{shard}#{image}#{number}"
                    name = media if own is None else str(own)
                    yield Item(name, (media,), f"{shard}: row {number}", split, text.strip())
                else:
                    problems.add("malformed", f"{shard}: row {number}", f"no caption in {caption!r}: {value!r:.80}")
                number += 1
