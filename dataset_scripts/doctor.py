"""
python -m dataset_scripts.doctor SOURCE PATH [--media DIR] [--output DIR]

Examines a source: which of the pictures, clips and videos that its annotations name are there and can be read, and
which annotations can be used. Writes SOURCE.report.txt, every problem with its place, and SOURCE.lock.jsonl, the
usable ids with their files and durations. The builders read the lock file, so a published set states exactly what
went in.

PATH is the folder with the annotations, or the annotation file, or OWNER/NAME of a data set on the Hub. What was
examined once isn't examined again unless the file changed, so an interrupted run goes on where it stopped.
"""

import argparse
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from modeling_seq2time.video_decoding import open_video

from .command import run
from .files import atomic_writer
from .items import DataError, Problems
from .judging import Judge, locate
from .media import BAD_PICTURE, PICTURES, Finder, parquet_cell, picture_bytes, read_picture
from .parallel import each
from .sources import Source, names, open_source
from .sources.parquet import parquet_file


VERSION = 1


def examine(
    source: Source,
    output: Path,
    media: Path | None = None,
    num_proc: int = 2,
    thorough: bool = False,
    name: str = "",
) -> Path:
    """Writes report and lock file of this name into `output`, prints the counts, returns the lock file."""
    name = name or source.name
    output.mkdir(parents=True, exist_ok=True)
    folder = media or source.folder
    finder = Finder(folder)
    checked = _check_files(source, finder, output / f"{name}.checked.jsonl", num_proc, thorough)

    problems = Problems()
    finder.counts.clear()  # it counted while the files were gathered, too
    judge = Judge(source, finder, checked, problems)
    lock, report = output / f"{name}.lock.jsonl", output / f"{name}.report.txt"
    entries = output / f"{name}.lock.part"
    with entries.open("w", encoding="utf-8") as lines:
        for item in source.read(problems):
            entry = judge.entry(item)
            if entry:
                lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
    header = {"source": source.name, "version": VERSION, "repository": source.repository, "revision": source.revision}
    header |= {"options": source.options, "annotations": source.annotations, "counts": judge.all_counts()}
    with atomic_writer(lock) as lines, entries.open(encoding="utf-8") as parts:
        lines.write(json.dumps(header, ensure_ascii=False) + "\n")
        lines.writelines(parts)
    entries.unlink()

    summary = _summary(source, header["counts"], finder)
    with atomic_writer(report) as lines:
        lines.write(summary + "\n")
        lines.writelines(f"{kind}\t{place}\t{detail}\n" for kind, place, detail, _ in sorted(problems.found))
    print(f"{summary}\n{report}\n{lock}")
    return lock


def lock_header(lock: Path) -> dict:
    return next(lock_lines(lock))


def lock_lines(lock: Path) -> Iterator[dict]:
    """The header and the entries of a lock file."""
    number = 0
    with lock.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{lock}: line {number}: expected what the doctor writes: {error}") from error
    if not number:
        raise DataError(f"{lock}: expected what the doctor writes, found an empty file")


def _check_files(source: Source, finder: Finder, cache: Path, num_proc: int, thorough: bool) -> dict[str, dict]:
    """What checking each file gave, by its path below the folder, of Parquet `shard#column`."""
    files: dict[str, Path] = {}
    aside = Problems()
    for item in source.read(aside):
        found = locate(item, finder, aside)
        if found:
            cell = parquet_cell(found.media)
            files["#".join(cell[:2]) if cell else found.media] = finder.folder / (cell[0] if cell else found.media)
    known, stamps = _read_cache(cache), {}
    for file, path in files.items():
        stat = path.stat()
        stamps[file] = [stat.st_size, stat.st_mtime_ns, thorough]
    todo = [file for file in files if known.get(file, {}).get("stamp") != stamps[file]]
    jobs = [(str(files[file]), file, thorough) for file in todo]
    with cache.open("a", encoding="utf-8") as lines, tqdm(total=len(files), desc="files", disable=None) as bar:
        bar.update(len(files) - len(todo))
        for file, result in zip(todo, each(check_file, jobs, num_proc), strict=True):
            known[file] = {"file": file, "stamp": stamps[file], **result}
            lines.write(json.dumps(known[file], ensure_ascii=False) + "\n")
            lines.flush()
            bar.update()
    return {file: known[file] for file in files}


def check_file(job: tuple[str, str, bool]) -> dict:
    """`error`, or a video's `duration`, or of Parquet the `bad` rows with their errors."""
    path, file, thorough = Path(job[0]), job[1], job[2]
    if path.suffix == ".parquet":
        return {"bad": dict(_bad_rows(path, file.rpartition("#")[2]))}
    if path.suffix.lower() in PICTURES:
        try:
            read_picture(path.parent, path.name)
        except DataError as error:
            return {"error": str(error)}
        return {}
    try:
        reader = open_video(str(path))
        last = reader.num_frames - 1
        reader.read(range(last + 1) if thorough else sorted({0, last // 2, last}))
    except (ValueError, OSError) as error:
        return {"error": str(error)}
    return {"duration": reader.duration, "frames": reader.num_frames}


def _bad_rows(shard: Path, column: str) -> Iterator[tuple[str, str]]:
    number = 0
    with parquet_file(shard) as rows:
        for batch in rows.iter_batches(64, columns=[column]):
            for cell in batch.column(column).to_pylist():
                try:
                    with Image.open(io.BytesIO(picture_bytes(cell))) as picture:
                        picture.load()
                except BAD_PICTURE as error:
                    yield str(number), str(error)
                number += 1


def _read_cache(cache: Path) -> dict[str, dict]:
    known = {}
    if cache.exists():
        for line in cache.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the line at which an earlier run was killed
                continue
            known[row["file"]] = row
    return known


def _summary(source: Source, counts: dict[str, dict[str, int]], finder: Finder) -> str:
    lines = [f"{source.name}: {source.path}, media below {finder.folder}"]
    for split, found in counts.items():
        lines.append(f"  {split or 'rows of no split'}")
        lines += [f"    {name:<20} {count:>10,}" for name, count in found.items() if count or name == "usable"]
    lines += [f"  found by: {rule:<24} {count:>8,}" for rule, count in sorted(finder.counts.items())]
    return "\n".join(lines)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help=", ".join(names()))
    parser.add_argument("path", help="folder, annotation file, or OWNER/NAME[@REVISION] on the Hub")
    parser.add_argument("--media", type=Path, help="folder of the videos or pictures, if they aren't below PATH")
    parser.add_argument("--output", type=Path, help="where report and lock file go (default: beside the annotations)")
    parser.add_argument("--num-proc", type=int, default=os.cpu_count())
    parser.add_argument("--thorough", action="store_true", help="decode every frame of every video")
    args = parser.parse_args(arguments)
    source = open_source(args.source, args.path)
    examine(source, args.output or source.folder, args.media, args.num_proc, args.thorough)


if __name__ == "__main__":
    run(main)
