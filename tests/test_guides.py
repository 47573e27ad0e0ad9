"""What the README and the guides name is there, and the list of keys is that of the code."""

import re

import pytest

from scripts import config_guide
from tests.pages import PAGES, ROOT
from tests.promises.keys import all_keys

each_page = pytest.mark.parametrize("page", PAGES)
FILES = {"tokenizer.json", "tokenizer.model", "model.gguf"}  # and no keys


def written(page):
    """A page without the list of keys."""
    return PAGES[page].partition(config_guide.BEGIN)[0]


def test_the_list_of_keys_is_that_of_the_code():
    text = PAGES["configs/README.md"]
    assert text == config_guide.page(config_guide.GUIDE), "run `python -m scripts.config_guide`"
    for key in all_keys():
        section, _, name = key.rpartition(".")
        kind = key.partition(":")[2]
        assert (f"| `{name}` |" if section or not kind else f"**`type: {kind}`**") in text, key


@each_page
def test_the_keys_that_are_named_exist(page):
    known = {re.sub(r":\w+", "", key) for key in all_keys()}
    sections = {key.partition(".")[0] for key in known if "." in key}
    named = set(re.findall(r"`([a-z_]+\.[a-z_][a-z_.]*)[`=:]", written(page))) - FILES
    of_config = {word for word in named if word.partition(".")[0] in sections}
    assert {word for word in of_config if word not in known and not word.endswith(".type")} == set()


@each_page
def test_what_is_linked_exists(page):
    prose = re.sub(r"```.*?```", "", written(page), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#]+)\)", prose):
        assert ((ROOT / page).parent / link).exists(), link


def test_the_front_door_is_one_screen_and_shows_every_room():
    text = PAGES["README.md"]
    assert len(text.splitlines()) <= 80
    for path in sorted((ROOT / "tfllm").glob("*/__init__.py")):
        assert f"\n  {path.parent.name}/ " in text, path.parent.name
    assert all(f"]({guide})" in text for guide in PAGES if guide != "README.md")
