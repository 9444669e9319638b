"""
Run by test_remote_code.py in a process of its own, where the package can't be imported: what a user does who has
transformers and a model's folder. Writes what it found as JSON.
"""

import copy
import json
import sys
from pathlib import Path

import torch


sys.modules["modeling_seq2time"] = None  # as if it were not installed

from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)


folder, video, resaved, report_file = sys.argv[1:]
remote = {"trust_remote_code": True}
torch.set_num_threads(1)
config = AutoConfig.from_pretrained(folder, **remote)
processor = AutoProcessor.from_pretrained(folder, **remote)
model = AutoModelForImageTextToText.from_pretrained(folder, **remote).eval()
other = AutoModelForMultimodalLM.from_pretrained(folder, **remote).eval()
base = AutoModel.from_pretrained(folder, **remote).eval()
chat = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": "When?"}]}]
inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
settings = {"max_new_tokens": 6, "do_sample": False}
with torch.no_grad():
    logits = model(**inputs).logits
    report = {
        "model": type(model).__module__.split(".")[0],
        "model_type": config.model_type,
        "logits": logits[0, -1].tolist(),
        "greedy": model.generate(**inputs, **settings)[0, -6:].tolist(),
        "multimodal is the same": torch.equal(other(**inputs).logits, logits),
        "base is the same": torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state),
        "beams": list(model.generate(**inputs, max_new_tokens=4, num_beams=2).shape),
        "frozen": not any(parameter.requires_grad for parameter in model.model.vision_tower.parameters()),
        "time tokens": AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(
            [processor.notation.tokens[0], processor.notation.tokens[-1]]
        ),
        "duration": inputs["video_metadata"][0].duration,
    }
for task in ("image-text-to-text", "any-to-any"):
    answer = pipeline(task, model=folder, **remote)(text=chat, return_full_text=False, generate_kwargs=settings)
    report[task] = answer[0]["generated_text"]
moment = model.ground(processor, video, ["a door"], search_steps=32)[0][0]
events = model.dense_caption(processor, video, max_new_tokens=60)
report["ground"] = [type(moment).__name__, moment.start, moment.end]
report["caption"] = [[event.start, event.end, event.text] for event in events]
report["highlights"] = len(model.highlights(processor, video, "a door", window=3.0, max_new_tokens=80))
report["decoded"] = processor.decode(report["greedy"], skip_special_tokens=True)
placed = AutoModelForImageTextToText.from_pretrained(folder, **remote, dtype=torch.bfloat16, device_map="cpu").eval()
report["bfloat16"] = str(placed(**copy.deepcopy(inputs).to(torch.bfloat16)).logits.dtype)
model.save_pretrained(resaved, max_shard_size="100KB")
processor.save_pretrained(resaved)
again = AutoModelForImageTextToText.from_pretrained(resaved, **remote).eval()
report["sharded and resaved is the same"] = torch.equal(again(**inputs).logits, logits)
Path(report_file).write_text(json.dumps(report))
