"""
python examples/ground_event.py --model DIR_OR_REPO --video video.mp4 --query "a red circle crosses the picture"

Asks a model when something happens. Uses transformers alone: the model's code comes from its own folder. The command
`seq2time` does the same, and more, with this package installed.
"""

import argparse

from transformers import AutoModelForImageTextToText, AutoProcessor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub repository")
    parser.add_argument("--video", required=True, help="path or URL")
    parser.add_argument("--query", required=True, help="what to look for")
    parser.add_argument("--top-k", type=int, default=3, help="number of moments")
    args = parser.parse_args()

    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(args.model, trust_remote_code=True).eval()
    moments = model.ground(processor, args.video, args.query, top_k=args.top_k, max_overlap=0.5)
    print(f"{args.video}, {moments.length:.1f} s: {args.query}")
    for moment in moments:
        print(f"  {moment.start:6.2f} – {moment.end:6.2f} s   overlap to expect {moment.score:.2g}")


if __name__ == "__main__":
    main()
