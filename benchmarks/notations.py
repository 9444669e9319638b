"""
What each notation costs and loses: tokens per time, and the error of writing a time and reading it back.

    python -m benchmarks.notations

Seconds are measured on 100 001 evenly spaced instants of a video, images on all places of a sequence. Characters of
notations in plain text are counted as tokens, which is what tokenizers with single digits (LLaMA, Qwen) make of them.
"""

import statistics

from modeling_seq2time.time_notation import NOTATIONS, get_notation


LENGTHS = {"30 s": 30.0, "1 min": 60.0, "10 min": 600.0, "1 h": 3600.0}
INSTANTS = 100_000
OPTIONS = {"bins": [{}, {"rounding": "floor"}]}


def errors(notation, length: float) -> list[float]:
    """Of instants of a video, in seconds."""
    positions = [place / INSTANTS for place in range(INSTANTS + 1)]
    codes = [notation.code(position, length) for position in positions]
    read = {code: notation.fraction(code, length) for code in set(codes)}
    return [abs(read[code] - position) * length for code, position in zip(codes, positions, strict=True)]


def wrong_places(notation, count: int) -> int:
    """Of an image sequence: how many images are read back as another one."""
    return sum(
        notation.decode(notation.encode(place / count, count, "image"), count, "image") != [place / count]
        for place in range(1, count + 1)
    )


def main():
    print("| notation | tokens added | tokens per time | " + " | ".join(LENGTHS) + " | 96 images read as another |")
    print("|---|---|---|" + "---|" * (len(LENGTHS) + 1))
    for name in NOTATIONS:
        for options in OPTIONS.get(name, [{}]):
            notation = get_notation(name, **options)
            sizes = {len(notation.symbols(notation.code(0.999, length))) for length in LENGTHS.values()}
            size = f"{min(sizes)}–{max(sizes)}" if len(sizes) > 1 else str(*sizes)
            cells = []
            for length in LENGTHS.values():
                found = errors(notation, length)
                cells.append(f"{statistics.fmean(found):.2g} / {max(found):.2g}")
            label = f"`{name}`" + (f", {options['rounding']}" if options else "")
            print(
                f"| {label} | {len(notation.tokens)} | {size} | "
                + " | ".join(cells)
                + f" | {wrong_places(notation, 96)} |"
            )

    rpt = get_notation("rpt")
    digits = statistics.fmean(errors(rpt, 60.0)) / 60.0
    frames = statistics.fmean(
        min(
            abs(place / INSTANTS - frame / 96) for frame in (int(96 * place / INSTANTS), int(96 * place / INSTANTS) + 1)
        )
        for place in range(INSTANTS)
    )
    print(f"\nOf a minute, mean: four digits {digits:.4%}, the nearest of 96 evenly spaced frames {frames:.4%}")


if __name__ == "__main__":
    main()
