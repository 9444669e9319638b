from copy import deepcopy

import pytest

from dataset_scripts.items import DataError
from dataset_scripts.record import check, clip_features, image_features


IMAGES = {
    "id": "iig-0000001",
    "source": "folder",
    "group": "all",
    "task": "iig",
    "sequence": [7, 3, 5, 9],
    "targets": [4, 2],
    "messages": [
        {"role": "user", "content": "Which images: the 1st caption is a; the 2nd caption is b."},
        {"role": "assistant", "content": "They are [[4/4 image]], [[2/4 image]]."},
    ],
}
CLIPS = {
    "id": "grounding-0000001",
    "source": "folder",
    "group": "all",
    "task": "grounding",
    "sequence": [{"clip": 1, "rate": 0.5}, {"clip": 2, "rate": 2.0}],
    "targets": [{"start": 0.25, "end": 0.5}],
    "messages": [
        {"role": "user", "content": "When does he fall?"},
        {"role": "assistant", "content": "The given query happens in [[5/20 s]] - [[10/20 s]] seconds."},
    ],
}


def changed(record, path, value):
    record = deepcopy(record)
    *way, last = path
    inside = record
    for step in way:
        inside = inside[step]
    inside[last] = value
    return record


def test_good_records_pass_and_fit_their_columns():
    for record, features in ((IMAGES, image_features(4)), (CLIPS, clip_features())):
        check(record, 10)
        assert features.encode_example(record) == record
        assert list(features) == list(record)
    starts_only = changed(CLIPS, ["targets"], [{"start": 0.25, "end": 0.25}])
    check(changed(starts_only, ["messages", 1, "content"], "[[5/20 s]] seconds, intro."))


@pytest.mark.parametrize(
    ("record", "path", "value", "field"),
    [
        (IMAGES, ["id"], "", "id"),
        (IMAGES, ["task"], "iik", "task"),
        (IMAGES, ["sequence", 0], 10, "sequence"),
        (IMAGES, ["sequence", 0], -1, "sequence"),
        (IMAGES, ["sequence", 0], 3, "sequence"),
        (IMAGES, ["targets"], [], "targets"),
        (IMAGES, ["targets"], [4, 5], "targets"),
        (IMAGES, ["targets"], [0, 2], "targets"),
        (IMAGES, ["targets"], [4, 4], "targets"),
        (IMAGES, ["targets"], [2, 4], "messages"),
        (IMAGES, ["messages", 1, "content"], "They are [[4/96 image]], [[2/96 image]].", "messages"),
        (IMAGES, ["messages", 1, "content"], "They are 4, 2.", "messages"),
        (IMAGES, ["messages", 0, "content"], " ", "messages"),
        (IMAGES, ["messages", 0, "role"], "system", "messages"),
        (IMAGES, ["messages"], IMAGES["messages"][:1], "messages"),
        (CLIPS, ["sequence", 0, "rate"], 0.0, "sequence"),
        (CLIPS, ["targets", 0, "end"], 1.01, "targets"),
        (CLIPS, ["targets", 0, "start"], 0.6, "targets"),
        (CLIPS, ["targets", 0, "start"], 0.2, "messages"),
        (CLIPS, ["messages", 1, "content"], "In [[5/20 s]] - [[10/21 s]] seconds.", "messages"),
        (CLIPS, ["messages", 1, "content"], "In [[5/20 image]] - [[10/20 image]].", "messages"),
    ],
)
def test_what_is_wrong_is_named(record, path, value, field):
    with pytest.raises(DataError, match=f"record .*, {field}: expected "):
        check(changed(record, path, value), 10)


def test_targets_are_those_of_all_questions_in_order():
    def turns(*places):
        asked = [{"role": "user", "content": f"Describe [[{place}/4 image]]."} for place in places]
        told = [{"role": "assistant", "content": f"[[{place}/4 image]]: a."} for place in places]
        return {"messages": [turn for pair in zip(asked, told, strict=True) for turn in pair]}

    for task in ("iic", "iig"):
        check(IMAGES | {"task": task} | turns(4, 2))
        for wrong in (turns(2, 4), turns(4), turns(4, 2, 3)):
            with pytest.raises(DataError, match="messages"):
                check(IMAGES | {"task": task} | wrong)
    for place, text in ((0, "Describe [[2/4 image]]."), (0, "Describe [[4/4 image]], [[2/4 image]]."), (2, "And now?")):
        others = turns(4, 2)
        others["messages"][place]["content"] = text
        with pytest.raises(DataError, match="marks in each question as in its answer"):
            check(IMAGES | {"task": "iic"} | others)
    for one, other in (("[[4/4 image]], [[2/4 image]]", "A dog."), ("A dog.", "[[4/4 image]], [[2/4 image]]")):
        others = turns(4, 2)
        others["messages"][1]["content"], others["messages"][3]["content"] = one, other
        with pytest.raises(DataError, match="marks of targets .* in answers"):
            check(IMAGES | {"task": "iig"} | others)


def test_a_question_about_places_has_their_marks():
    iic = IMAGES | {"task": "iic"}
    question = {"role": "user", "content": "Describe [[4/4 image]], [[2/4 image]]."}
    answer = {"role": "assistant", "content": "At [[4/4 image]]: a. At [[2/4 image]]: b."}
    check(iic | {"messages": [question, answer]})
    with pytest.raises(DataError, match="messages"):
        check(iic | {"messages": [IMAGES["messages"][0], answer]})
