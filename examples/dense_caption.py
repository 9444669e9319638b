"""
python examples/dense_caption.py --model DIR_OR_REPO --video video.mp4

Asks a model what happens in a video, and when. Uses transformers alone: the model's code comes from its own folder.
"""

import argparse

from transformers import AutoModelForImageTextToText, AutoProcessor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub repository")
    parser.add_argument("--video", required=True, help="path or URL")
    args = parser.parse_args()

    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(args.model, trust_remote_code=True).eval()
    events = model.dense_caption(processor, args.video)
    print(f"{args.video}, {events.length:.1f} s")
    for event in events:
        print(f"  {event.start:6.2f} – {event.end:6.2f} s   {event.text}")


if __name__ == "__main__":
    main()
