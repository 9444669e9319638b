"""`--plan`: of what isn't there, by the recipe's expectation; of what is, measured."""

import pytest

from dataset_scripts.items import DataError
from tests.test_sft import recipe, sets  # noqa: F401  (fixtures)
from train import sft


PAPER = "train/recipes/seq2time_phase1.yaml"


def plan(capsys, *arguments: str) -> str:
    sft.main([*arguments, "--plan"])
    return capsys.readouterr().out


def test_the_papers_recipe_without_weights_or_data(capsys):
    page = plan(capsys, PAPER)
    assert page.startswith(
        "runs/seq2time/phase1 on 8 × A100 at 50%: about 14.5 h\n1 × 643,000 rows, 80,375 updates of 8"
    )
    assert page.count("expected") == 5 and "measured" not in page
    assert "video-llama-7b-as-timechat isn't there: the preset timechat is assumed" in page
    two = plan(capsys, PAPER, "--gpus", "16xH100", "--sharding", "zero3")
    assert "on 16 × H100" in two and "updates of 16" in two and "of 80 GiB with FSDP2, ZeRO-3" in two


def test_two_streams(capsys):
    """Stage 1 has no LoRA, so that its targets, which Phi-3 hasn't, don't matter; elsewhere they do."""
    stages = "train/recipes/grounded_videollm_stage"
    page = plan(capsys, f"{stages}1.yaml")
    assert "the preset grounded_videollm is assumed" in page and "363 updates of 256" in page
    lines = {line.rsplit(maxsplit=4)[0].strip(): line.split()[-4:] for line in page.splitlines() if line}
    assert lines["video encoder"][:2] == ["1,010,782,848", "0"] and lines["LoRA"][:2] == ["0", "0"]
    assert "4,920 updates of 128" in plan(capsys, f"{stages}2.yaml")
    with pytest.raises(DataError, match="lora_targets: expected some of qkv_proj, .*, found q_proj"):
        plan(capsys, f"{stages}2.yaml", "lora_targets=[q_proj]")


def test_lengths_of_what_is_there_are_measured(recipe, sets, capsys, tmp_path):  # noqa: F811
    page = plan(capsys, recipe(), "--gpus", "1xL40S")
    images, clips = (line.split() for line in page.splitlines() if "measured" in line)
    assert images[1:3] == ["24", "measured"] and images[3] == "8.0"
    assert float(images[4]) < 4, "groups of 4 sequences of 8 pictures share pools of 12"
    assert clips[3:5] == ["8.0", "8.0"] and "isn't there" not in page
    assert not (tmp_path / "run").exists(), "nothing is trained or written"
    alone = plan(capsys, recipe(), "per_device_train_batch_size=1")
    assert next(line.split() for line in alone.splitlines() if "measured" in line)[4] == "8.0"


def test_what_can_be_neither_measured_nor_expected_is_named(recipe, tmp_path):  # noqa: F811
    nowhere = [{"path": str(tmp_path / "nowhere"), "config": "iig"}]
    with pytest.raises(DataError, match=r"nowhere\+iig can't be measured: .*`expect` may say"):
        sft.main([recipe(data=nowhere), "--plan"])
    with pytest.raises(DataError, match="--gpus many: expected a number and a kind"):
        sft.main([PAPER, "--plan", "--gpus", "many"])
    with pytest.raises(DataError, match="--plan, gpu: expected one of A100"):
        sft.main([PAPER, "--plan", "--gpus", "8xT4"])
