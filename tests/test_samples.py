import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from dataset_scripts import image_sequences, preview
from dataset_scripts.items import DataError
from dataset_scripts.samples import Samples
from tests.sources import is_colour, write_pictures


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("sources") / "folder", 20)


def build(source, output, name="folder"):
    arguments = ["--source", f"{name}={source}", "--num-instances", "12", "--sequence-length", "8", "--num-proc", "1"]
    image_sequences.main([*arguments, "--output", str(output)])
    return output


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    return build(source, tmp_path_factory.mktemp("set"))


def test_pictures_are_those_of_the_sequence(built, source):
    samples = Samples.load(built, "iic", folders={"folder": source})
    assert len(samples) == 4
    for sample in (samples[number] for number in range(4)):
        for one, frame in zip(sample["sequence"], sample["frames"], strict=True):
            assert is_colour(frame, one)
        assert sample["metadata"] == {}


def test_workers_give_what_one_process_gives(built, source):
    samples = Samples.load(built, "iig", folders={"folder": source})
    loader = DataLoader(samples, batch_size=None, num_workers=2)
    for sample, again in zip((samples[number] for number in range(len(samples))), loader, strict=True):
        assert sample["messages"] == again["messages"]
        assert all(
            (np.asarray(a) == np.asarray(b)).all() for a, b in zip(sample["frames"], again["frames"], strict=True)
        )


def test_the_processor_takes_a_sample(built, source, tiny):
    _, processor = tiny("timechat")
    sample = Samples.load(built, "iig", folders={"folder": source})[0]
    inputs = processor(
        text="<video>Where?",
        videos=[sample["frames"]],
        video_metadata=[sample["metadata"]],
        do_sample_frames=False,
        return_tensors="pt",
    )
    metadata = inputs["video_metadata"][0]
    assert metadata.unit == "image" and metadata.length == 8
    assert metadata.positions == [place / 8 for place in range(1, 9)]


def test_pictures_in_parquet(source, tmp_path):
    pictures = [{"bytes": (source / f"{number}.png").read_bytes(), "path": None} for number in range(20)]
    turns = [
        [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": f"Thing {number}."}]
        for number in range(20)
    ]
    (tmp_path / "recap").mkdir()
    for shard in range(2):
        rows = slice(10 * shard, 10 * shard + 10)
        columns = {
            "id": [str(number) for number in range(20)][rows],
            "image": pictures[rows],
            "conversations": turns[rows],
        }
        pq.write_table(pa.table(columns), tmp_path / "recap" / f"train-0000{shard}-of-00002.parquet")
    build(tmp_path / "recap", tmp_path / "set", "llava_recap")
    samples = Samples.load(tmp_path / "set", "alr", folders={"llava_recap": tmp_path / "recap"})
    assert samples.pool[13]["media"] == "train-00001-of-00002.parquet#image#3"
    for one, frame in zip(samples[0]["sequence"], samples[0]["frames"], strict=True):
        assert is_colour(frame, one) and samples.pool[one]["caption"] == f"Thing {one}."


def test_missing_media_are_an_error_that_names_them(built, source, tmp_path):
    with pytest.raises(DataError, match="where do the media of 'folder' lie"):
        Samples.load(built, "iig")[0]
    with pytest.raises(DataError, match=r"\.png: expected a readable picture"):
        Samples.load(built, "iig", folders={"folder": tmp_path})[0]


def test_records_that_are_not_there(built, source):
    samples = Samples.load(built, "iig", folders={"folder": source})
    assert samples[-1]["id"] == samples[3]["id"]
    with pytest.raises(IndexError, match="expected a record from 0 to 3, found 4"):
        samples[4]
    for config, message in (("xyz", "BuilderConfig 'xyz' not found"), ("image_pool", "expected a configuration of")):
        with pytest.raises(DataError, match=message):
            Samples.load(built, config)
    with pytest.raises(DataError, match="test"):
        Samples.load(built, "iig", split="test")


def test_a_spoilt_record_is_an_error(built, source):
    samples = Samples.load(built, "iig", folders={"folder": source})
    samples.records = samples.records.map(lambda row: row | {"targets": [9]}, load_from_cache_file=False)
    with pytest.raises(DataError, match="targets: expected distinct places"):
        samples[0]


def test_the_preview_frames_the_targets(built, source, tmp_path):
    arguments = ["--number", "1", "--media", f"folder={source}", "--output", str(tmp_path / "sheet.png")]
    preview.main([str(built), "iig", *arguments])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    record = Samples.load(built, "iig").records[1]
    step = preview.THUMB + preview.GAP
    for place in range(1, 9):
        corner = tuple(int(value) for value in sheet[preview.GAP + 1, preview.GAP + (place - 1) * step + 1])
        assert (corner == (0xD1, 0x49, 0x5B)) == (place in record["targets"])
    with pytest.raises(DataError, match="--number 99: iig has records 0 to 3"):
        preview.main([str(built), "iig", "--number", "99", "--output", str(tmp_path / "no.png")])
