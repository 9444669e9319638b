import copy
import weakref
from dataclasses import replace

import pytest
import torch
from peft import get_peft_model
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from trl.trainer.utils import add_fused_lm_head

from dataset_scripts.items import DataError
from modeling_seq2time import Seq2TimeConfig
from tests.test_modeling import QWEN, TWO_SEGMENTS, video_inputs
from train.adapter import lora_config, parameter_table
from train.flops import PEAKS, Load, Setup, flops
from train.plan import activations, hours, memory, parameters, report
from train.recipe import Recipe


NO_DROPOUT = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
# Name: preset, overrides, frames.
SHAPES = {
    "three windows, the last one partial": ("timechat", {"window_size": 4, "window_stride": 4}, 10),
    "fewer frames than a window": ("timechat", {}, 7),
    "overlapping windows": ("timechat", {"window_size": 6, "window_stride": 3}, 10),
    "segments of windows, fused": ("temporalvlm", TWO_SEGMENTS | {"aggregator": "transformer"}, 9),
    "segments, each token projected": ("temporalvlm", TWO_SEGMENTS | {"aggregator": "linear"}, 7),
    "segments, averaged": ("temporalvlm", TWO_SEGMENTS | {"aggregator": "average", "num_fusion_layers": 2}, 9),
    "no time sentence, one window over all": ("video_llama", {}, 9),
    "odd sizes": (
        "timechat",
        {
            "vision_config": {"hidden_size": 24, "intermediate_size": 50, "image_size": 70, "num_hidden_layers": 3},
            "qformer_config": {"hidden_size": 36, "intermediate_size": 70, "num_hidden_layers": 5}
            | {"cross_attention_frequency": 3},
            "video_qformer_config": {"hidden_size": 28, "intermediate_size": 30, "num_hidden_layers": 3}
            | {"cross_attention_frequency": 2},
            "text_config": {"hidden_size": 42, "intermediate_size": 52, "num_attention_heads": 6, "head_dim": 10}
            | {"num_hidden_layers": 3},
            "num_query_tokens": 5,
            "num_video_query_tokens": 3,
        },
        11,
    ),
    "tied embeddings": ("timechat", {"text_config": QWEN}, 5),
}


def as_trained(model, checkpointing=False, dtype=torch.float32, **recipe):
    """As `train.sft` has it when it takes a step."""
    model = copy.deepcopy(model).to(dtype)
    add_fused_lm_head(model)
    model = get_peft_model(model, lora_config(Recipe(model="", data=[], **recipe), model))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if not hasattr(head := model.get_output_embeddings(), "bias"):
        head.register_parameter("bias", None)
    if checkpointing:
        model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    return model.train()


def row_of(model, frames, words=9, pictures=None, batch=1):
    """Inputs of rows that are all alike, of which all is learned, and what a `Load` says of them."""
    pictures = pictures or frames
    inputs = video_inputs(model, (frames,) * batch, (words,) * batch)
    size = model.config.vision_config.image_size
    inputs["pixel_values_videos"] = torch.randn(pictures * batch, 3, size, size)
    inputs["video_picture_index"] = torch.arange(frames * batch).reshape(batch, frames) % (pictures * batch)
    inputs["labels"] = inputs["input_ids"].clone()
    tokens = inputs["input_ids"].shape[1]
    # On a CPU, TRL scores every position but the last.
    return inputs, Load("", 1, frames, pictures, tokens, tokens**2, tokens - 1, True, words)


def in_place(accumulated, first, second, **kwargs):
    """FLOPs of `addmm_`, with which TRL's head goes back, and which torch doesn't count."""
    return 2 * first[0] * first[1] * second[1]


# What torch doesn't count by itself; of attention it knows the kernels of GPUs alone.
UNCOUNTED = {
    torch.ops.aten.addmm_: in_place,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **kwargs: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *shapes, **kwargs: sdpa_backward_flop_count(*shapes[:4])
    ),
}


def counted(model, inputs):
    """FLOPs of forward and backward, as torch counts them."""
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        loss = model(**inputs, fused_lm_head=True).loss
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops() - forward


def planned(config, load, setup):
    forward, backward = zip(*flops(config, load, setup).values(), strict=True)
    return sum(forward), sum(backward)


def without_dropout(tiny, preset="timechat", **overrides):
    """Dropout in attention would keep CPUs from the fused kernel that GPUs use."""
    parts = {name: overrides.pop(name, {}) | NO_DROPOUT for name in ("qformer_config", "video_qformer_config")}
    return tiny(preset, **parts, **overrides)[0]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("preset", "overrides", "frames"), SHAPES.values(), ids=SHAPES.keys())
def test_flops_are_those_that_torch_counts_in_a_training_step(tiny, preset, overrides, frames, checkpointing):
    model = without_dropout(tiny, preset, **overrides)
    inputs, load = row_of(model, frames)
    measured = counted(as_trained(model, checkpointing), inputs)
    setup = Setup(checkpointing=checkpointing)
    assert planned(model.config, load, setup) == measured
    # Each of these would be seen.
    for name in ("frames", "pictures", "tokens", "tokens_squared", "answers"):
        wrong = planned(model.config, replace(load, **{name: getattr(load, name) * 1.01}), setup)
        assert wrong[0] > measured[0]
        assert wrong[1] >= measured[1]
    assert planned(model.config, load, replace(setup, checkpointing=not checkpointing))[1] != measured[1]


def test_flops_where_frames_share_pictures_and_where_nothing_is_written_in_tokens_of_its_own(tiny):
    model = copy.deepcopy(without_dropout(tiny))
    model.config.time_token_ids = None
    inputs, load = row_of(model, 10, pictures=6)
    measured = counted(as_trained(model), inputs)
    assert planned(model.config, load, Setup(checkpointing=False, trained_rows=0)) == measured
    assert planned(model.config, replace(load, pictures=10), Setup(checkpointing=False, trained_rows=0)) != measured
    assert planned(model.config, load, Setup(checkpointing=False)) != measured


def test_flops_with_lora_on_all_matrices(tiny):
    """Repeating a layer stops within the last of LoRA's products; here the last but one is counted as the last."""
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    model = without_dropout(tiny)
    inputs, load = row_of(model, 6)
    for checkpointing in (False, True):
        trained = as_trained(model, checkpointing, lora_rank=1, lora_targets=list(targets))
        forward, backward = counted(trained, inputs)
        setup = Setup(checkpointing=checkpointing, lora_rank=1, lora_targets=targets)
        mine = planned(model.config, load, setup)
        text = model.config.text_config
        last = 2 * load.tokens * text.num_hidden_layers * text.hidden_size  # times LoRA's rank of 1
        assert mine == (forward, backward + checkpointing * last)


def timechat_row(**changes):
    return replace(Load("iig", 100_000, 96, 96, 396, 396**2, 396, False), **changes)


def test_flops_of_timechat_are_near_a_figure_worked_out_elsewhere():
    """
    64.5 TF, 69.8 with checkpointing. The plan has more by 0.3 for the gradient of the head, from which PEFT takes the
    rows of tokens, and for attention's scores; with checkpointing by the Q-Formers' 1.5 that are repeated, but less by
    the last product of each layer, which is not.
    """
    config = Seq2TimeConfig.from_preset("timechat")
    plain = flops(config, timechat_row(), Setup(checkpointing=False))
    assert sum(map(sum, plain.values())) == pytest.approx(64.5e12, rel=0.01)
    assert sum(planned(config, timechat_row(), Setup())) == pytest.approx(69.8e12, rel=0.015)
    assert plain["vision tower"][0] / 96 == pytest.approx(520.7e9, rel=1e-3)
    assert plain["image Q-Former"][0] == pytest.approx(1.44e12, rel=0.03)
    assert plain["video Q-Former"][0] == pytest.approx(0.025e12, rel=0.03)
    assert plain["language model"][0] + plain["LoRA"][0] == pytest.approx(5.3e12, rel=0.01)


@pytest.mark.parametrize(("preset", "overrides", "frames"), SHAPES.values(), ids=SHAPES.keys())
def test_parameters_are_those_of_the_model_that_is_trained(tiny, preset, overrides, frames):
    model, _ = tiny(preset, **overrides)
    table = {part: (size, trained) for part, size, trained in parameter_table(as_trained(model))}
    assert parameters(model.config, Setup()) == table


def test_windows_are_whole_where_frames_are_a_mean():
    config = Seq2TimeConfig.from_preset("timechat")
    one, other = (flops(config, timechat_row(frames=frames), Setup())["projector"] for frames in (64.5, 96))
    assert one == other


def test_parameters_of_timechat():
    """As read off the published checkpoint: 241.4 M trained. Its frame positions are counted apart there."""
    found = parameters(Seq2TimeConfig.from_preset("timechat"), Setup())
    assert list(found) == list(flops(Seq2TimeConfig.from_preset("timechat"), timechat_row(), Setup()))
    sizes = {part: round(size / 1e6, 1) for part, (size, _) in found.items()}
    assert sizes == {
        "vision tower": 986.0,
        "image Q-Former": 185.7,
        "video Q-Former": 19.0,
        "projector": 3.1,
        "language model": 6738.4,
        "LoRA": 33.6,
        "time tokens": 0.1,
    }
    assert round(sum(trained for _, trained in found.values()) / 1e6, 1) == 241.5


@pytest.fixture
def like_cuda(monkeypatch):
    """What autocast does on GPUs and not on CPUs: norms in float32, masks of dropout in one byte, fused attention."""
    norm, attention = functional.layer_norm, functional.scaled_dot_product_attention

    def layer_norm(x, shape, weight, bias, eps):
        return norm(x.float(), shape, weight.float(), bias.float(), eps)

    def dropout(x, p, training, inplace):
        return torch.native_dropout(x, p, True)[0] if training and p else x

    def fused(*args, dropout_p=0.0, **kwargs):
        return attention(*args, **kwargs)

    monkeypatch.setattr(functional, "layer_norm", layer_norm)
    monkeypatch.setattr(functional, "dropout", dropout)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", fused)


PARTS = {
    "image_qformer": "image Q-Former",
    "video_qformer": "video Q-Former",
    "aggregator": "aggregator",
    "projector": "projector",
    "language_model": "language model",
}


def saved_bytes(model, inputs):
    """
    Bytes that the forward pass keeps for the backward pass, by the part that is at work: each storage once, without
    parameters and buffers.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept, places = {}, ["head"]

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.setdefault(storage.data_ptr(), (places[-1], storage))
        return tensor

    for name, part in PARTS.items():
        module = getattr(model.get_base_model().model, name)
        if module is None:
            continue
        module.register_forward_pre_hook(lambda *_, part=part: places.append(part))
        module.register_forward_hook(lambda *_: places.pop() and None)

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(**inputs, fused_lm_head=True)
    found = dict.fromkeys([*PARTS.values(), "head"], 0)
    for place, storage in kept.values():
        found[place] += storage.nbytes()
    return found


# Large enough that what grows with neither width nor length (masks, norms' statistics) doesn't matter.
WIDER = {
    "vision_config": {"hidden_size": 64, "intermediate_size": 128, "image_size": 112},
    "qformer_config": {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3},
    "video_qformer_config": {"hidden_size": 80, "intermediate_size": 160},
    "text_config": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_key_value_heads": 4},
    "num_query_tokens": 8,
    "num_video_query_tokens": 8,
    "window_size": 4,
    "window_stride": 4,
}
WIDE = {
    "timechat": ("timechat", WIDER),
    "video_llama": ("video_llama", WIDER | {"window_size": 0, "window_stride": 0}),
    "long texts": ("timechat", WIDER | {"num_video_query_tokens": 64}),
    "temporalvlm": ("temporalvlm", WIDER | TWO_SEGMENTS | {"aggregator": "transformer"}),
    "other heads": (
        "timechat",
        WIDER | {"text_config": WIDER["text_config"] | {"head_dim": 48}},
    ),
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("preset", "overrides"), WIDE.values(), ids=WIDE.keys())
def test_activations_are_the_bytes_that_are_kept(tiny, like_cuda, preset, overrides, checkpointing):
    model, _ = tiny(preset, **overrides)
    inputs, load = row_of(model, 8, batch=2)
    measured = saved_bytes(as_trained(model, checkpointing, dtype=torch.bfloat16), inputs)
    found = activations(model.config, load, Setup(batch=2, checkpointing=checkpointing))
    for part, size in measured.items():  # the head's many small things are not counted
        assert found[part][0] == pytest.approx(size, rel=0.1 if part == "head" else 0.02), part


def test_activations_of_a_cpu_are_others(tiny):
    """Negative control of the test above: its bound can fail."""
    model, _ = tiny("timechat", **WIDER)
    inputs, load = row_of(model, 10, batch=2)
    measured = saved_bytes(as_trained(model, dtype=torch.bfloat16), inputs)
    found = activations(model.config, load, Setup(batch=2, checkpointing=False))
    for part in ("image Q-Former", "video Q-Former", "language model"):
        assert found[part][0] != pytest.approx(measured[part], rel=0.1)


class Live(TorchDispatchMode):
    """The most bytes of tensors that were made inside and alive at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        made = function(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and (key := one.untyped_storage()._cdata) not in self.alive | given:
                self.alive.add(key)
                self.now += (size := one.untyped_storage().nbytes())
                weakref.finalize(one.untyped_storage(), self.free, key, size)
        self.peak = max(self.peak, self.now)
        return made

    def free(self, key, size):
        self.alive.discard(key)
        self.now -= size


@pytest.mark.parametrize("tokens", [8, 400])
def test_the_largest_part_at_work_is_seen_in_the_peak(tiny, like_cuda, tokens):
    """With checkpointing, of the image Q-Former where texts are short, of the language model where they are long."""
    model, _ = tiny("timechat", **WIDER | {"num_video_query_tokens": tokens})
    inputs, load = row_of(model, 10, batch=2)
    del inputs["labels"]
    setup = Setup(batch=2)
    parts = activations(model.config, load, setup)
    work = {part: size for part, (_, size) in parts.items() if part not in ("vision tower", "head")}
    assert max(work, key=work.get) == ("image Q-Former" if tokens == 8 else "language model")
    trained = as_trained(model, checkpointing=True, dtype=torch.bfloat16)
    with Live() as live:
        with torch.autocast("cpu", torch.bfloat16):
            loss = trained.get_base_model().model(**inputs, use_cache=False).last_hidden_state.sum()
        live.peak = 0
        loss.backward()
    gradients = 4 * sum(size for _, size in parameters(model.config, setup).values())
    before = sum(size for part, (size, _) in parts.items() if part not in ("vision tower", "head"))
    assert before + 0.9 * max(work.values()) < live.peak < before + max(work.values()) + gradients


def test_the_vision_tower_at_work(tiny, like_cuda):
    model, _ = tiny("timechat", **WIDER | {"vision_config": WIDER["vision_config"] | {"intermediate_size": 280}})
    inputs, load = row_of(model, 10)
    trained = as_trained(model, dtype=torch.bfloat16)
    with Live() as live, torch.autocast("cpu", torch.bfloat16):
        trained.get_base_model().model._see(inputs["pixel_values_videos"])
    assert activations(model.config, load, Setup())["vision tower"][1] == pytest.approx(live.peak, rel=0.1)


def test_memory_of_timechat():
    config, load = Seq2TimeConfig.from_preset("timechat"), timechat_row()
    ddp, zero2, zero3 = (memory(config, load, Setup(sharding=one)) for one in ("ddp", "zero2", "zero3"))
    trained, in_full = 241_474_304, 207_837_952
    assert (
        ddp["frozen weights"] == zero2["frozen weights"] == 8 * zero3["frozen weights"] == 2 * (985952256 + 6738415616)
    )
    assert ddp["PEFT's untouched copies"] == 8 * zero3["PEFT's untouched copies"] == 2 * in_full
    assert ddp["trained weights"] == zero2["trained weights"] == 8 * zero3["trained weights"] == 4 * trained
    assert ddp["gradients"] == 16 * zero2["gradients"] == 16 * zero3["gradients"] == 8 * trained
    assert ddp["AdamW's moments"] == 8 * zero2["AdamW's moments"] == 8 * zero3["AdamW's moments"] == 8 * trained
    assert ddp["weights gathered"] == zero2["weights gathered"] == 0
    assert zero3["weights gathered"] == 2 * 2 * (202375168 + 32000 * 4096)
    assert (
        ddp["activations kept"]
        == zero3["activations kept"]
        == sum(size for size, _ in activations(config, load, Setup()).values())
    )
    assert sum(ddp.values()) == 2 * ddp["together"]
    assert zero3["together"] < zero2["together"] < ddp["together"]

    alone = memory(config, load, Setup(gpus=1))
    assert alone["gradients"] == 4 * trained  # there is nobody to send them to
    assert memory(config, load, Setup(gpus=1, sharding="zero3")) == alone
    matrices = 32 * 202375168
    for bits, size in ((8, 1), (4, 0.5625)):
        quantized = memory(config, load, Setup(gpus=1, bits=bits))
        assert alone["frozen weights"] - quantized["frozen weights"] == (2 - size) * matrices


def test_memory_at_work_is_the_vision_towers_while_nothing_is_kept():
    config = Seq2TimeConfig.from_preset("timechat")
    few, many = (memory(config, timechat_row(frames=8, pictures=one), Setup()) for one in (8, 2000))
    parts = activations(config, timechat_row(frames=8, pictures=2000), Setup())
    assert many["largest part at work"] == parts["vision tower"][1] - many["activations kept"]
    assert few["largest part at work"] == max(size for part, (_, size) in parts.items() if part != "vision tower")


def test_hours():
    config, setup = Seq2TimeConfig.from_preset("timechat"), Setup(gpus=8, epochs=3, utilisation=0.4)
    one, other = timechat_row(rows=1000), timechat_row(rows=500, pictures=12.5)
    work = 1000 * sum(planned(config, one, setup)) + 500 * sum(planned(config, other, setup))
    for gpu, peak in PEAKS.items():
        expected = 3 * work / (8 * peak * 0.4 * 3600)
        assert hours(config, [one, other], replace(setup, gpu=gpu)) == pytest.approx(expected)


def test_hours_of_the_papers_phases_are_near_those_worked_out_elsewhere():
    """9 to 14 h and 6.5 to 10 h on eight A100 at half their peak, from 64.5 to 101 TF a sample."""
    config = Seq2TimeConfig.from_preset("timechat")
    assert 9 < hours(config, [timechat_row(rows=643_000)], Setup()) < 14
    assert 6.5 < hours(config, [timechat_row(rows=150_000)], Setup(epochs=3)) < 10


def test_the_report_says_it_all(tiny):
    config = Seq2TimeConfig.from_preset("timechat")
    loads = [timechat_row(pictures=12.5), timechat_row(name="timeit", rows=50_000, tokens=900, measured=True)]
    setup = Setup(batch=2, accumulation=2, epochs=3, sharding="zero2", longest=1500)
    text = report(config, loads, setup, "phase 1")
    head, sets, parts, space, assumed = text.strip().split("\n\n")
    first, second, third = head.splitlines()
    assert first == f"phase 1 on 8 × A100 at 50%: about {hours(config, loads, setup):.1f} h"
    assert second == "3 × 150,000 rows, 14,061 updates of 32"
    need = memory(config, loads[1], setup)["together"] / 2**30
    assert third == f"{need:.0f} of 80 GiB with ZeRO-2"
    for table in (sets, parts, space):
        assert len(set(map(len, table.splitlines()))) == 1  # aligned

    row = f"{sum(planned(config, loads[0], setup)) / 1e12:.2f}"
    assert sets.splitlines()[1].split() == [
        *["iig", "100,000", "expected", "96.0", "12.5", "396.0", "396.0", row],
        f"{hours(config, loads[:1], setup):.2f}",
    ]
    assert sets.splitlines()[2].split()[2] == "measured"

    tower = 520.7e9 * (2 / 3 * 12.5 + 1 / 3 * 96) / 1e12
    name, size, trained, forward, backward = parts.splitlines()[1].rsplit(maxsplit=4)
    assert (name.strip(), size, trained, backward) == ("vision tower", "985,952,256", "0", "0.000")
    assert float(forward) == pytest.approx(tower, rel=1e-3)
    total = sum(load.rows / 150_000 * planned(config, load, setup)[1] for load in loads) / 1e12
    assert parts.splitlines()[-1].split() == [
        "together",
        "7,965,842,176",
        "241,474,304",
        *parts.splitlines()[-1].split()[3:],
    ]
    assert float(parts.split()[-1]) == pytest.approx(total, abs=1e-3)

    lines = {line.rsplit(maxsplit=3)[0].strip(): line.split()[-3:] for line in space.splitlines()[1:]}
    assert space.startswith("GiB of a GPU with 2 × timeit")
    assert lines["together"][1] == f"{need:.2f}"
    without = memory(config, loads[1], replace(setup, checkpointing=False, sharding="zero3"))["together"] / 2**30
    assert lines["together, without checkpointing"][2] == f"{without:.2f}"
    longest = replace(loads[1], tokens=1500, tokens_squared=1500**2)
    at_most = memory(config, longest, replace(setup, sharding="ddp"))["together"] / 2**30
    assert lines["together, at 1,500 tokens"][0] == f"{at_most:.2f}"
    assert "together, at 900 tokens" in report(config, loads, replace(setup, longest=None), "phase 1")
    for word in ("share of the GPU's peak", "padding", "NCCL", "ever compared with a real GPU"):
        assert word in " ".join(assumed.split())


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [("gpu", "A200", "A200"), ("sharding", "fsdp", "fsdp"), ("bits", 2, 2), ("lora_targets", ["qkv"], "qkv")],
)
def test_a_wrong_setup_is_one_error(key, value, found):
    with pytest.raises(DataError, match=rf"^--plan, {key}: expected one of .*, found {found!r}$"):
        Setup(**{key: value})
