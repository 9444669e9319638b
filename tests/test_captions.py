import pytest

from evaluation.captions import letters_only, tokenize, tokenize_in_order


def test_words_are_those_of_the_penn_treebank():
    expected = {
        "Don't stop; add 1,000 cups (of it)!": "do n't stop add 1,000 cups -lrb- of it -rrb-",
        'the man\'s "best" dish.': "the man 's best dish",
        "a 3.5 oz. can -- half-baked...": "a 3.5 oz can half-baked",
        "sautéing onions": "sautéing onions",
        "日本 の 料理": "日本 の 料理",
        "": "",
        " . ": "",
    }
    assert tokenize(expected) == expected


def test_words_dont_depend_on_the_other_captions():
    """The tokenizer looks into the next line: before a number, the dot of a last "no." isn't the sentence's."""
    alone = tokenize(["say no."])["say no."]
    for company in ("5 cups.", "then eat.", "", "."):
        assert tokenize(["say no.", company])["say no."] == alone
    assert tokenize_in_order([["say no.", "5 cups."]])[0][0] != alone


def test_in_order_they_do_as_in_the_published_scripts():
    """The last caption of a list is followed by nothing, whatever list comes next."""
    lists = [["say no.", "5 cups", "by J.", "Then", "say no."], [], ["5 cups", "by J.", "then"], ["by J."], ["Then"]]
    expected = [["say no.", "5 cups", "by j", "then", "say no"], [], ["5 cups", "by j.", "then"], ["by j."], ["then"]]
    assert tokenize_in_order(lists) == expected


@pytest.mark.parametrize("breaks", ["\n", "\r\n", "\u2028", "\x0b", "\x85"])
def test_a_caption_of_several_lines_is_one_caption(breaks):
    """The published script knows \\n only: whatever else breaks a line moves the captions behind it by one."""
    caption = f"cut bread{breaks}eat it"
    assert tokenize([caption, "drink"]) == {caption: "cut bread eat it", "drink": "drink"}


def test_neither_the_language_of_the_machine_nor_a_missing_java_matters(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert tokenize(["sautéing – “so”"]) == {"sautéing – “so”": "sautéing so"}


def test_nothing_is_asked_about_no_captions():
    assert tokenize([]) == {}


def test_paragraphs_keep_only_letters():
    assert letters_only("Don't add 3 eggs.  Sautéing!") == "don t add eggs saut ing"
