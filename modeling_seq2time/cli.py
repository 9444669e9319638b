"""
seq2time ground VIDEO... QUERY --model DIR_OR_REPO
seq2time caption VIDEO... --model DIR_OR_REPO

Says when something happens in a video, or what happens when: as a table with a timeline, JSON, subtitles or a picture.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import logging

from . import Answer, Moment, Seq2TimeProcessor, native_video
from .native_video import NativeProcessor
from .temporal_answers import TemporalAnswers
from .video_decoding import READERS


TIMELINE = 32  # characters
HOUR = 3600
SHORTEST_CUE = 0.5  # seconds
PICTURES = (".png", ".jpg", ".pdf", ".svg")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", required=True, metavar="DIR_OR_REPO", help="folder or Hub repository of a model")
    common.add_argument("--window", type=float, metavar="SECONDS", help="see longer videos in windows of this length")
    common.add_argument("--num-frames", type=int, help="frames per video or window; the model's own if not given")
    common.add_argument("--prompt", metavar="TEXT", help="question, {query} for QUERY; the package's own if not given")
    common.add_argument("--decoder", choices=READERS, help="what decodes video files")
    common.add_argument("--device", help="such as cpu or cuda:1; a GPU if there is one")
    form = common.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON list")
    form.add_argument("--vtt", action="store_true", help="print WebVTT subtitles")
    form.add_argument("--srt", action="store_true", help="print SubRip subtitles")
    common.add_argument("--output", type=Path, metavar="DIR", help="write .json, .vtt or .srt there, a file per video")
    common.add_argument("--plot", type=Path, metavar="PNG", help="draw the moments on a timeline, with their scores")

    parser = argparse.ArgumentParser(
        "seq2time", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ground = commands.add_parser("ground", parents=[common], help="when does something happen?")
    ground.add_argument("videos", nargs="+", metavar="VIDEO", help="path or URL")
    ground.add_argument("query", metavar="QUERY", help="what to look for")
    ground.add_argument("--top-k", type=int, default=1, help="number of moments (default: 1)")
    ground.add_argument("--max-overlap", type=float, default=0.5, help="of two moments, as a fraction (default: 0.5)")
    ground.add_argument("--min-score", type=float, default=0.0, help="leave out moments with a smaller score")
    caption = commands.add_parser("caption", parents=[common], help="what happens when?")
    caption.add_argument("videos", nargs="+", metavar="VIDEO", help="path or URL")
    caption.add_argument("--max-new-tokens", type=int, default=512, help="length of the answer (default: 512)")
    args = parser.parse_args(arguments)
    if args.output and not (args.json or args.vtt or args.srt):
        parser.error("--output needs one of --json, --vtt and --srt")
    if (args.vtt or args.srt) and len(args.videos) > 1 and not args.output:
        parser.error("subtitles of several videos need --output DIR")
    if args.command == "ground" and args.prompt is not None and "{query}" not in args.prompt:
        parser.error(f"--prompt: expected {{query}} where QUERY is to stand, found {args.prompt!r}")
    stems = [Path(video).stem for video in args.videos]
    if args.output and (twice := sorted({stem for stem in stems if stems.count(stem) > 1})):
        parser.error(f"--output names its files after the videos, but several are called {', '.join(twice)}")
    if args.plot and args.plot.suffix.lower() not in PICTURES:
        parser.error(f"--plot draws {', '.join(PICTURES)}, found {args.plot}")
    return args


def load(args) -> tuple[TemporalAnswers, Seq2TimeProcessor | NativeProcessor]:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        PreTrainedConfig.get_config_dict(args.model)
    except (OSError, ValueError) as error:
        raise OSError(
            f"{args.model}: expected a model's folder or a repository that can be reached, found neither: "
            f"{_one_line(error)}"
        ) from error
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return native_video.load(args.model, device_map={"": device})


def ask(args, model, processor, video: str) -> Answer:
    given = {"num_frames": args.num_frames, "decoder": args.decoder}
    settings = {
        "window": args.window,
        "video_kwargs": {name: value for name, value in given.items() if value is not None},
        "progress": sys.stderr.isatty(),
    }
    settings |= {} if args.prompt is None else {"prompt": args.prompt}
    if args.command == "caption":
        answer = model.dense_caption(processor, video, max_new_tokens=args.max_new_tokens, **settings)
    else:
        settings |= {"top_k": args.top_k, "max_overlap": args.max_overlap, "min_score": args.min_score}
        answer = model.ground(processor, video, args.query, **settings)
    if answer.unit != "s":
        raise ValueError(f"{video}: expected a video, found an image")
    return answer


def clock(seconds: float, decimal: str = ".") -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 1000 * HOUR)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{decimal}{rest % 1000:03d}"


def short_clock(seconds: float, length: float) -> str:
    if length < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds * 10), 600)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest / 10:04.1f}" if length >= HOUR else f"{minutes}:{rest / 10:04.1f}"


def timeline(moment: Moment) -> str:
    first = min(int(moment.position[0] * TIMELINE), TIMELINE - 1)
    last = max(first + 1, round(moment.position[1] * TIMELINE))
    return "─" * first + "█" * (last - first) + "─" * (TIMELINE - last)


def table(video: str, answer: Answer, args) -> str:
    length = answer.length
    title = f"{video} · {short_clock(length, length)}"
    if args.command == "ground":
        title += f" · {args.query}"
    if not answer:
        return f"{title}\n  no moment" + (
            f" with a score of {args.min_score} or more" if vars(args).get("min_score") else ""
        )
    end = short_clock(length, length)
    lines = [title, f"  {'start':>9} {'end':>9} {'score':>8}  0{end:>{TIMELINE - 1}}"]
    for moment in answer:
        start, stop = (short_clock(time, length) for time in (moment.start, moment.end))
        text = f"  {moment.text}" if args.command == "caption" else ""
        lines.append(f"  {start:>9} {stop:>9} {moment.score:>8.2g}  {timeline(moment)}{text}")
    return "\n".join(lines)


def as_json(video: str, answer: Answer, args) -> dict:
    """One video's answer, for `json.dumps`."""
    asked = {"query": args.query, "proven": answer.proven} if args.command == "ground" else {"text": answer.text}
    moments = [
        {"start": one.start, "end": one.end, "text": one.text, "score": one.score, "position": list(one.position)}
        for one in answer
    ]
    return {"video": video, "duration": answer.length, **asked, "moments": moments}


def subtitles(answer: Answer, webvtt: bool) -> str:
    """Cues in order of time; each stays for half a second at least, or nobody could read it."""
    decimal, cues = ("." if webvtt else ","), []
    for number, moment in enumerate(sorted(answer, key=lambda one: (one.start, one.end)), 1):
        text = " ".join(moment.text.replace("-->", "→").split()) or "–"
        if webvtt:
            text = text.replace("&", "&amp;").replace("<", "&lt;")
        end = max(moment.end, moment.start + SHORTEST_CUE)
        cues.append(f"{number}\n{clock(moment.start, decimal)} --> {clock(end, decimal)}\n{text}\n")
    return "\n".join((["WEBVTT\n"] if webvtt else []) + cues)


def plot(path: Path, answers: list[tuple[str, Answer]], title: str):
    """The moments of each video on its timeline, coloured by score."""
    import matplotlib  # noqa: PLC0415 (takes a second, and only pictures need it)

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    rows = [max(len(answer), 1) for _, answer in answers]
    figure, panels = pyplot.subplots(
        len(rows), 1, squeeze=False, height_ratios=rows, figsize=(9, 1.0 + sum(0.9 + 0.32 * row for row in rows)),
        layout="constrained",
    )  # fmt: skip
    for panel, (video, answer) in zip(panels[:, 0], answers, strict=True):
        best = max((moment.score for moment in answer), default=1.0) or 1.0
        for row, moment in enumerate(answer):
            colour = pyplot.get_cmap("YlGnBu")(0.25 + 0.7 * moment.score / best)
            width = max(moment.end - moment.start, answer.length / 400)
            panel.barh(row, width, left=moment.start, height=0.7, color=colour, edgecolor="#334")
            label = f"{moment.score:.2g}" + (f"  {moment.text:.60}" if moment.text and moment.text not in title else "")
            left = moment.start > answer.length / 2
            panel.annotate(
                label, (moment.start if left else moment.start + width, row), xytext=(-4 if left else 4, 0),
                textcoords="offset points", va="center", ha="right" if left else "left", fontsize=8, parse_math=False,
            )  # fmt: skip
        panel.set(xlim=(0, answer.length), ylim=(max(len(answer), 1) - 0.4, -0.6), yticks=[])
        panel.set_title(
            os.path.basename(video) + ("" if answer else " · no moment"), loc="left", fontsize=9, parse_math=False
        )
        panel.spines[["top", "left", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel("seconds · labels and colours: score")
    figure.suptitle(title, fontsize=11, parse_math=False)
    partial = path.with_name(f".{path.name}.part")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # shown as a box
        figure.savefig(partial, dpi=150, format=path.suffix[1:] or "png")
    partial.replace(path)
    pyplot.close(figure)


def run(args) -> int:
    if args.plot and not args.plot.absolute().parent.is_dir():
        raise FileNotFoundError(f"{args.plot.absolute().parent}: there is no such folder for the picture")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
    model, processor = load(args)
    answers, failed = [], 0
    for video in args.videos:
        try:
            answers.append((video, ask(args, model, processor, video)))
        except (ValueError, OSError) as error:
            print(f"error: {_one_line(error)}", file=sys.stderr)
            failed += 1
            continue
        if not (args.json or args.vtt or args.srt):
            print(table(*answers[-1], args), flush=True)
    for video, answer in answers if args.output or args.vtt or args.srt else ():
        suffix = "json" if args.json else "vtt" if args.vtt else "srt"
        content = json.dumps(as_json(video, answer, args), indent=1) if args.json else subtitles(answer, args.vtt)
        if args.output:
            file = args.output / f"{Path(video).stem}.{suffix}"
            file.write_text(content + "\n" * args.json, encoding="utf-8")
            print(file)
        else:
            print(content, end="")
    if args.json and not args.output:
        print(json.dumps([as_json(video, answer, args) for video, answer in answers], indent=1))
    if args.plot and answers:
        plot(args.plot, answers, args.query if args.command == "ground" else "events")
    return 1 if failed else 0


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    sys.stdout.reconfigure(errors="replace")  # a terminal that can't show a timeline gets question marks
    try:
        code = run(args)
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, OSError, ImportError, RuntimeError, SafetensorError) as error:
        sys.exit(f"error: {_one_line(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
