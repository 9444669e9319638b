"""The card of a set, README.md: what `load_dataset` needs, what went in, and how it is distributed."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from .files import atomic_writer
from .items import DataError


BUILDERS = ("image_sequences", "clip_sequences", "annotated_videos", "textual_temporal")
SPLITS = ("train", "validation", "test")
ABOUT = {
    "iig": "image index grounding: where are the pictures that these captions describe?",
    "iic": "indexed image captioning: describe the pictures at these places",
    "alr": "adjacent location reasoning: which picture is right before or after this one, and what does it show?",
    "dense_captioning": "what happens when?",
    "grounding": "when does this happen?",
    "video_dense_captioning": "what happens when, in annotated videos?",
    "video_grounding": "when does this happen, in annotated videos?",
    "video_highlights": "which moments of an annotated video stand out for this query?",
    "text_order": "T3, text alone: in which order are these seen?",
    "text_attribute": "T3, text alone: how does this change?",
    "text_referring": "T3, text alone: what is seen at the beginning, in the middle, at the end?",
    "text_grounding": "T3, text alone: at which part is this seen?",
    "text_instruction": "general dialogues without pictures, as T3 mixes them in",
    "image_pool": "the pictures that sequences refer to: where they lie and their captions",
    "clip_pool": "the clips that sequences refer to",
    "video_pool": "the videos that records refer to",
    "caption_pool": "the captions that textual questions quote",
}


def descriptions(folder: Path) -> list[dict]:
    """Of every build in a folder."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in description_files(folder)]


def description_files(folder: Path) -> list[Path]:
    return sorted(file for builder in BUILDERS for file in folder.glob(f"{builder}.*.json"))


def configs(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The Parquet files of each configuration and split."""
    builds = descriptions(folder)
    known = {config for build in builds for config in (*build["configs"].values(), build["pool_config"])}
    found = {}
    for config in sorted(known, key=_order):
        found[config] = {split: sorted((folder / config).glob(f"{split}-*.parquet")) for split in SPLITS}
        found[config] = {split: files for split, files in found[config].items() if files}
    return {config: splits for config, splits in found.items() if splits}


def write_card(folder: Path, repo_id: str = ""):
    """README.md of the set in `folder`, from what lies there."""
    builds, found = descriptions(folder), configs(folder)
    rows = {(config, split): _rows(files) for config, splits in found.items() for split, files in splits.items()}
    head = {
        "pretty_name": repo_id.rpartition("/")[2] or "Seq2Time sequences",
        "license": "other",
        "license_name": "as-the-sources",
        "task_categories": ["video-text-to-text"],
        "language": ["en"],
        "size_categories": [_size(sum(count for (config, _), count in rows.items() if not config.endswith("_pool")))],
        "tags": ["seq2time", "temporal-grounding", "dense-video-captioning", "video"],
        "configs": [
            {
                "config_name": config,
                "data_files": [{"split": split, "path": _pattern(config, split, splits[split])} for split in splits],
            }
            for config, splits in found.items()
        ],
    }
    text = ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]
    text += [f"# {head['pretty_name']}", "", *_introduction(repo_id, found), "", "## Configurations", ""]
    text += ["| configuration | split | rows | what |", "| --- | --- | --- | --- |"]
    text += [
        f"| `{config}` | {split} | {count:,} | {ABOUT.get(config, '')} |" for (config, split), count in rows.items()
    ]
    text += ["", "## Statistics", "", "Records by their number of targets; lengths of texts in characters.", ""]
    text += ["| | records | 1 | 2 | 3 | 4 | 5 | more | mean | asked | answered |", "| --- |" + " ---: |" * 10]
    text += [
        f"| `{config}`, {split} | {_statistics(files)} |"
        for config, splits in found.items()
        if not config.endswith("_pool")
        for split, files in splits.items()
    ]
    text += ["", "## Where it comes from", ""]
    for build in builds:
        text += _provenance(build)
    with atomic_writer(folder / "README.md") as lines:
        lines.write("\n".join(text).rstrip() + "\n")


def _introduction(repo_id: str, found: dict) -> list[str]:
    first, splits = next(iter(found.items()))
    pools = " or ".join(f"`{config}`" for config in found if config.endswith("_pool"))
    call = f'load_dataset("{repo_id or "FOLDER"}", "{first}", split="{next(iter(splits))}")'
    return [
        "Sequences in the manner of [Seq2Time](https://arxiv.org/abs/2411.16932): positions in sequences of pictures",
        "and clips stand for time. Built with the open implementation `seq2time`.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f"records = {call}",
        "```",
        "",
        "A record has `id`, `source`, `group`, `task`, `sequence`, `targets` and `messages`. `sequence` refers to rows",
        f"of {pools} by `id`; pictures and videos themselves stay where they came from, at `media` below their",
        "source's folder. Times in messages are marks: `[[7/96 image]]` is the 7th of 96 pictures, `[[12.3/60.5 s]]`",
        "second 12.3 of 60.5. `targets` are places counted from 1, or fractions of the whole; of text, the right",
        "option's number.",
    ]


def _provenance(build: dict) -> list[str]:
    options = {name: value for name, value in build["options"].items() if name not in ("sources", "seed")}
    lines = [f"### {build['builder']}, {build['split']}", ""]
    lines += [f"- fingerprint `{build['fingerprint']}`, seed {build['seed']}, options `{json.dumps(options)}`"]
    if build["pool"]["skipped"]:
        lines += ["- left out: " + ", ".join(f"{count:,} {kind}" for kind, count in build["pool"]["skipped"].items())]
    lines += ["- made with " + ", ".join(f"{package} {number}" for package, number in build["versions"].items())]
    for source in build["pool"]["inputs"]["sources"]:
        lines += [f"- source `{source['source']}`: {build['pool']['counts'][source['source']]:,} in the pool"]
        if source["repository"]:
            url = f"https://huggingface.co/datasets/{source['repository']}"
            lines += [f"  - [{source['repository']}]({url}) at `{source['revision']}`"]
        if source["checked"]:
            counted = ", ".join(
                f"{count:,} {kind}" for kind, count in source["counts"].get(build["split"], {}).items() if count
            )
            lines += [f"  - examined: {counted}", f"  - lock file `{source['lock'][:16]}`"]
        else:
            lines += ["  - not examined: all that the annotations name went in"]
        lines += [f"  - licence: {source['licence']}"]
        files = list(source["annotations"].items())
        lines += [f"  - `{name}`: `{digest[:16]}`" for name, digest in files[:5]]
        lines += [f"  - and {len(files) - 5} more files"] if len(files) > 5 else []
    return [*lines, ""]


def _statistics(files: list[Path]) -> str:
    """Counts over the targets and the lengths of the texts, without holding the texts."""
    rows, targets, letters, by_count = 0, 0, [0, 0], [0] * 6
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(columns=["targets", "messages"]):
            rows += len(batch)
            for count in pc.value_counts(pc.list_value_length(batch["targets"])).to_pylist():
                targets += count["values"] * count["counts"]
                by_count[min(count["values"], 6) - 1] += count["counts"] if count["values"] else 0
            turns = pc.list_flatten(batch["messages"])
            length = pc.utf8_length(pc.struct_field(turns, "content"))
            for place, role in enumerate(("user", "assistant")):
                mine = pc.equal(pc.struct_field(turns, "role"), role)
                letters[place] += pc.sum(length.filter(mine)).as_py() or 0
    shares = [f"{100 * count / max(rows, 1):.1f} %" for count in by_count]
    means = [f"{targets / max(rows, 1):.2f}", *(f"{total / max(rows, 1):,.0f}" for total in letters)]
    return " | ".join([f"{rows:,}", *shares, *means])


def _pattern(config: str, split: str, files: list[Path]) -> str:
    """
    Of one build's files. `datasets` recognises a set in its cache by what this card says, not by the files: the build's
    fingerprint in here keeps it from serving an earlier one.
    """
    builds = {file.stem.rpartition("-")[2] for file in files}
    if len(builds) > 1:
        raise DataError(f"{files[0].parent}: expected the files of one build, found {', '.join(sorted(builds))}")
    return f"{config}/{split}-*-{builds.pop()}.parquet"


def _rows(files: list[Path]) -> int:
    return sum(pq.ParquetFile(file).metadata.num_rows for file in files)


def _size(rows: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M"


def _order(config: str) -> int:
    names = list(ABOUT)
    return names.index(config) if config in names else len(names)
