"""
python -m benchmarks.image_sequences [--pictures 3700000 --instances 300000]

Builds image sequences over a pool of synthetic captions in LLaVA-ReCap's format, on two processes:
seconds of the pool and of the sequences, the anonymous memory of all processes at its peak (the mapped captions aside),
and the time per sequence of a small set relative to the whole one's.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_scripts.building import Shard, numbering, shares
from dataset_scripts.image_sequences import make_shard
from dataset_scripts.pools import Ingredient, build_pool
from dataset_scripts.record import IMAGE_TASKS
from dataset_scripts.sources import parse_source


SHARD = 100_000
CAPTION_WORDS = 180  # of 5.5 letters on average, 1.2 KB: our guess at LLaVA-ReCap's length


def write_source(folder: Path, pictures: int):
    """Parquet shards with `id`, `image` and `conversations`; the pictures are empty, nothing looks at them."""
    rng = np.random.default_rng(0)
    words = np.array(
        ["".join(chr(97 + letter) for letter in rng.integers(26, size=rng.integers(2, 10))) for _ in range(20_000)]
    )
    for number, start in enumerate(range(0, pictures, SHARD)):
        rows = min(SHARD, pictures - start)
        lengths = rng.poisson(CAPTION_WORDS, rows)
        drawn = words[rng.integers(len(words), size=lengths.sum())]
        captions = [" ".join(own) + "." for own in np.split(drawn, np.cumsum(lengths)[:-1])]
        turns = [
            [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": text}] for text in captions
        ]
        columns = {"id": [f"{start + row:09d}" for row in range(rows)], "image": [{"bytes": b"", "path": None}] * rows}
        pq.write_table(
            pa.table(columns | {"conversations": turns}), folder / f"train-{number:05d}.parquet", compression="zstd"
        )


def anonymous_memory(process: int) -> int:
    """Bytes of a process and all it started that are no mapped files; what forked processes share counts once."""
    total, todo = 0, [process]
    while todo:
        number = todo.pop()
        try:
            shares = Path(f"/proc/{number}/smaps_rollup").read_text()
            tasks = Path(f"/proc/{number}/task").iterdir()
            todo += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except (OSError, ValueError):  # it ended meanwhile
            continue
        total += sum(int(line.split()[1]) * 1024 for line in shares.splitlines() if line.startswith("Pss_Anon"))
    return total


def measure(source: Path, output: Path, instances: int, num_proc: int) -> tuple[float, float, int]:
    """Seconds until the pool is there, seconds after that, and the peak of anonymous memory."""
    command = [
        sys.executable,
        "-m",
        "dataset_scripts.image_sequences",
        "--source",
        f"llava_recap={source}",
        "--unchecked",
    ]
    command += ["--num-instances", str(instances), "--output", str(output), "--num-proc", str(num_proc)]
    begin, pool_ready, peak = time.perf_counter(), None, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
        reader.start()
        while process.poll() is None:
            time.sleep(0.2)
            peak = max(peak, anonymous_memory(process.pid))
            if pool_ready is None and (output / ".work" / "images.train" / "pool.json").exists():
                pool_ready = time.perf_counter()
        reader.join()
    if process.returncode:
        sys.exit(errors[0])
    return pool_ready - begin, time.perf_counter() - pool_ready, peak


def growth(source: Path, work: Path, instances: int, rounds: int = 7) -> float:
    """CPU time of a sequence of the whole set relative to one of a hundredth of it, medians of interleaved rounds."""
    pool = build_pool(
        [Ingredient(parse_source(f"llava_recap={source}"), source, None)], "pictures", "train", work, "stop"
    )
    options = {
        "sequence_length": 96,
        "max_targets": 5,
        "questions": 1,
        "seed": 0,
        "sources": "llava_recap",
        "shared_pool": 0,
    }
    times: dict[int, list[float]] = {instances // 100: [], instances: []}
    for _ in range(rounds):
        for total, spent in times.items():
            numbers = numbering(shares(dict.fromkeys(IMAGE_TASKS, 1.0), total))["iic"]
            some = numbers[np.linspace(0, len(numbers) - 1, 500).astype(int)]
            begin = time.process_time()
            make_shard(pool.work, Shard(work, "iic", some, 0), options)
            spent.append(time.process_time() - begin)
    few, all_of_them = (statistics.median(spent) for spent in times.values())
    return all_of_them / few


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=370_000)
    parser.add_argument("--instances", type=int, default=30_000)
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (folder / "source").mkdir()
        write_source(folder / "source", args.pictures)
        pool, seconds, peak = measure(folder / "source", folder / "set", args.instances, args.num_proc)
        ratio = growth(folder / "source", folder / "work", args.instances)
    print(f"{args.pictures:,} pictures, {args.instances:,} sequences, {args.num_proc} processes")
    print(f"  pool                               {pool:8.1f} s")
    print(f"  sequences, Parquet and card        {seconds:8.1f} s")
    print(f"  anonymous memory at its peak       {peak / 2**30:8.2f} GiB")
    print(f"  time of one among {args.instances:,} relative to one among {args.instances // 100:,}: {ratio:.2f}")


if __name__ == "__main__":
    main()
