"""
python -m dataset_scripts.publish DIR --repo-id OWNER/NAME [--dry-run]

Checks every record of a set, writes its card, and uploads it: Parquet, card and the descriptions of the builds. Media
are uploaded only with --with-media (a rendered miniworld, or pictures that are yours to publish). An interrupted
upload goes on where it stopped. --dry-run does all but the upload and lists what would go.
"""

import argparse
from glob import escape
from pathlib import Path

import pyarrow.parquet as pq
from huggingface_hub import HfApi
from tqdm import tqdm

from .card import configs, description_files, descriptions, write_card
from .command import run
from .items import DataError
from .record import check


def check_set(folder: Path) -> int:
    """Checks every record against its pool; how many there are."""
    unfinished = [path.name for path in folder.glob(".*.unfinished")]
    if unfinished:
        raise DataError(f"{folder}: a build was interrupted ({', '.join(unfinished)}); run it again to finish it")
    found = configs(folder)
    if not found:
        raise DataError(f"{folder}: expected a set that the builders wrote, found no Parquet with its description")
    sizes = {}
    for build in descriptions(folder):
        for task, count in build["counts"].items():
            sizes[build["configs"][task], build["split"]] = (count, build["pool"]["rows"])
    checked = 0
    with tqdm(desc="records", total=sum(count for count, _ in sizes.values()), unit_scale=True, disable=None) as bar:
        for (config, split), (count, pool_size) in sizes.items():
            ids: set[str] = set()
            for file in found.get(config, {}).get(split, []):
                for batch in pq.ParquetFile(file).iter_batches(1_000):
                    for record in batch.to_pylist():
                        check(record, pool_size)
                        ids.add(record["id"])
                    bar.update(len(batch))
            if len(ids) != count:
                raise DataError(f"{folder / config}: expected {count} records with ids of their own, found {len(ids)}")
            checked += count
    return checked


def main(arguments: list[str] | None = None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, metavar="DIR")
    options.add_argument("--repo-id", required=True)
    options.add_argument("--private", action="store_true")
    options.add_argument(
        "--with-media", action="append", default=[], metavar="FOLDER", help="of the set, to upload too"
    )
    options.add_argument("--dry-run", action="store_true")
    args = options.parse_args(arguments)
    for name in args.with_media:
        if not (args.folder / name).is_dir():
            raise DataError(f"--with-media {name}: there is no such folder in {args.folder}")
    records = check_set(args.folder)
    write_card(args.folder, args.repo_id)
    files = [args.folder / "README.md", *description_files(args.folder)]
    files += [file for splits in configs(args.folder).values() for shards in splits.values() for file in shards]
    files += [file for name in args.with_media for file in (args.folder / name).rglob("*") if file.is_file()]
    files = sorted(set(files))
    size = sum(file.stat().st_size for file in files)
    print(f"{args.repo_id}: {records:,} records checked, {len(files):,} files, {size / 1e6:,.1f} MB")
    if args.dry_run:
        for file in files:
            print(f"  {file.stat().st_size:>14,}  {file.relative_to(args.folder)}")
        print("dry run: nothing was uploaded")
        return
    api = HfApi()
    api.create_repo(args.repo_id, repo_type="dataset", private=args.private, exist_ok=True)
    exactly = [escape(file.relative_to(args.folder).as_posix()) for file in files]
    api.upload_large_folder(args.repo_id, args.folder, repo_type="dataset", allow_patterns=exactly)
    print(f"https://huggingface.co/datasets/{args.repo_id}")


if __name__ == "__main__":
    run(main)
