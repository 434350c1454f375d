"""Files for people: they say the version that is installed, and parse."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == importlib.metadata.version("kullback")


@pytest.mark.parametrize("form", [*FORMS, ROOT / "CITATION.cff"], ids=lambda path: path.name)
def test_yaml_parses(form):
    yaml = pytest.importorskip("yaml")
    tree = yaml.safe_load(form.read_text(encoding="utf-8"))
    json.dumps(tree)
    if form in FORMS:
        assert {"name", "description", "labels", "body"} == tree.keys()
        fields = [field["id"] for field in tree["body"]]
        assert len(set(fields)) == len(fields) >= 2
