import re

import pytest

from dataset_scripts.wording import TEMPLATES, closed, fill, ordinal


@pytest.mark.parametrize(
    ("template", "caption", "text"),
    [
        ("Which image shows {}? Please.", "A dog runs.", "Which image shows A dog runs? Please."),
        ("Find: {}. Please.", "A dog runs.", "Find: A dog runs. Please."),
        ("Find: {}. Please.", "A dog runs!", "Find: A dog runs! Please."),
        ("Find: {}. Please.", 'A sign says "Stop."', 'Find: A sign says "Stop." Please.'),
        ("Find: {}. Please.", "A dog runs...", "Find: A dog runs... Please."),
        ("It shows {}.", "  one. Two.\n", "It shows one. Two."),
        ("It shows {}.", "the U.S", "It shows the U.S."),
        ("It shows {}", "a dog.", "It shows a dog."),
        ("It shows {}; ", "a {} dog.", "It shows a {} dog; "),
    ],
)
def test_a_caption_and_its_template_share_one_sentence_mark(template, caption, text):
    assert fill(template, caption) == text


def test_wrong_numbers_of_values_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        fill("{} and {}", "one")


def test_ordinals_and_closing():
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 102)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd",
    ]  # fmt: skip
    assert closed("What do they show: 1") == "What do they show: 1?"
    assert closed("Describe these: 1") == "Describe these: 1."


def _texts(node):
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _texts(child)


def test_templates_are_the_papers_in_number_and_whole():
    sizes = {
        ("iig", "single"): (10, 10), ("iig", "multi"): (10, 10), ("iic", "single"): (10, 10), ("iic", "multi"): (9, 10),
    }  # fmt: skip
    for (task, form), (questions, answers) in sizes.items():
        words = TEMPLATES[task][form]
        assert (len(set(words["questions"])), len(set(words["answers"]))) == (questions, answers)
    assert len(TEMPLATES["alr"]["answers"]) == 10
    for side in ("before", "after"):
        questions = TEMPLATES["alr"][side]["questions"]
        assert len(set(questions)) == 10 and all(f" {side} the one" in question for question in questions)
    # Every slot is whole, and no sign of the scanning damage is left.
    for text in _texts(TEMPLATES):
        assert not re.search(r"[$§&β\\{}]|\b8\b", text.replace("{}", "").replace("{ordinal}", "")), text
    slots = {"iig": (1, 1), "iic": (1, 2)}
    for task, (asked, told) in slots.items():
        single = TEMPLATES[task]["single"]
        assert all(question.count("{}") == asked for question in single["questions"])
        assert all(answer.count("{}") == told for answer in single["answers"])
    assert all(question.endswith(": ") for task in slots for question in TEMPLATES[task]["multi"]["questions"])
