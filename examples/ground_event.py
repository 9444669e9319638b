"""
python examples/ground_event.py --model DIR_OR_REPO --video video.mp4 --query "a red circle crosses the picture"

Asks a model when something happens. Uses transformers alone: the model's code comes from its own folder.
"""

import argparse

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub repository")
    parser.add_argument("--video", required=True, help="path or URL")
    parser.add_argument("--query", required=True, help="what to look for")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    args = parser.parse_args()

    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(args.model, trust_remote_code=True).eval()
    question = f"When does this happen: {args.query}? Answer with the start and the end time."
    content = [{"type": "video", "path": args.video}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
    answer = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    video = inputs["video_metadata"][0]
    print(f"video:  {video.duration:.1f} s, {video.fps:g} frames a second, {len(video.times)} frames seen")
    print(f"query:  {args.query}")
    print(f"answer: {answer!r}")
    times = ", ".join(f"{time:.1f} s" for time in processor.times_in(answer, video))
    print(f"times:  {times or 'none in this answer (a model with random weights talks noise)'}")


if __name__ == "__main__":
    main()
