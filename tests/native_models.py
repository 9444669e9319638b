"""Video language models of transformers at toy size, as whole folders; chat templates are like the published ones."""

from pathlib import Path

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from examples.make_tiny_model import make_tokenizer


QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A space behind the role, which isn't there where an answer is asked for.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}{{ '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "bos_token_id": 1, "initializer_range": 0.1}
VISION = {"hidden_size": 32, "intermediate_size": 64}
QWEN_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def _tokenizer(*tokens: str) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", *tokens]})
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def _text(tokenizer, **more) -> dict:
    # More rows than the tokenizer has words, as published models have.
    return TEXT | {"vocab_size": len(tokenizer) + 4, "eos_token_id": tokenizer.eos_token_id} | more


def _qwen(config, model, processor, video_processor, vision: dict, **text):
    tokenizer = _tokenizer(*QWEN_TOKENS)
    ids = dict(zip(("vision_start", "vision_end", "image", "video"), QWEN_TOKENS, strict=True))
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in ids.items()}
    made = model(config(text_config=_text(tokenizer, **text), vision_config=VISION | vision, **ids))
    size = {"shortest_edge": 28 * 28, "longest_edge": 1 << 20}
    patch = {"patch_size": vision["patch_size"], "size": size}
    parts = (Qwen2VLImageProcessor(**patch), tokenizer, video_processor(**patch))
    return made, processor(*parts, chat_template=QWEN_TEMPLATE)


def qwen2_5_vl():
    vision = {"depth": 2, "num_heads": 2, "patch_size": 14, "out_hidden_size": 32, "window_size": 56}
    vision |= {"fullatt_block_indexes": [1], "tokens_per_second": 2, "initializer_range": 0.1}
    classes = (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    return _qwen(*classes, vision, rope_parameters=rope)


def qwen3_vl():
    vision = {"depth": 2, "num_heads": 2, "patch_size": 16, "out_hidden_size": 32, "num_position_embeddings": 64}
    vision |= {"deepstack_visual_indexes": [0, 1], "initializer_range": 0.1}
    classes = (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    return _qwen(*classes, vision, rope_parameters=rope, head_dim=8)


def llava_onevision():
    tokenizer = _tokenizer("<image>", "<video>")
    vision = {"model_type": "siglip_vision_model", "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 14}
    config = LlavaOnevisionConfig(
        text_config=_text(tokenizer, model_type="qwen2"),
        vision_config=VISION | vision | {"image_size": 56, "vision_use_head": False},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )
    size = {"height": 56, "width": 56}
    parts = (LlavaOnevisionImageProcessor(size=size), tokenizer, LlavaOnevisionVideoProcessor(size=size))
    more = {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "chat_template": LLAVA_TEMPLATE}
    return LlavaOnevisionForConditionalGeneration(config), LlavaOnevisionProcessor(*parts, **more)


MODELS = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl, "llava_onevision": llava_onevision}


def write(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model, processor = MODELS[name]()
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, 2]
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
