"""Files about the project: its citation, its security policy, and its workflows on GitHub."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import mspipe_triton

ROOT = Path(__file__).resolve().parent.parent
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SECRETS = re.compile(r"secrets\.|github\.event\.|pull_request_target")


def test_the_citation_has_what_its_format_asks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["message"]
    assert CITATION["type"] == "software"
    assert CITATION["title"].partition(":")[0] == project["name"]
    assert CITATION["version"] == project["version"] == mspipe_triton.__version__
    assert CITATION["license"] == project["license"]
    assert CITATION["authors"] == [{"name": "The mspipe-triton authors"}]


def test_the_papers_of_the_readme_are_cited() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    end = " ".join(readme[readme.rindex("TGN: Rossi") :].split())
    papers = re.findall(r"(?:^|[.] )[\w-]+: (\w+) et al[.] (\d{4}), (?:arXiv )?(\d{4}[.]\d{5})", end)
    assert len(papers) >= 7
    cited = {
        (each["authors"][0]["family-names"], str(each["year"]), identifier["value"].removeprefix("arXiv:"))
        for each in CITATION["references"]
        for identifier in each["identifiers"]
    }
    assert cited == set(papers)


@pytest.mark.parametrize("paper", CITATION["references"], ids=lambda paper: paper["identifiers"][0]["value"])
def test_a_reference_is_complete(paper: dict[str, Any]) -> None:
    assert paper["type"] in ("article", "conference-paper")
    assert paper["title"]
    assert all(author.keys() == {"given-names", "family-names"} for author in paper["authors"])
    assert ("conference" in paper) == (paper["type"] == "conference-paper")
    (identifier,) = paper["identifiers"]
    assert identifier["type"] == "other"


def test_files_of_others_are_read_without_pickle() -> None:
    calls = []
    for folder in ("mspipe_triton", "kernels", "tuning"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "pickle.load"):
                    options = {each.arg: ast.unparse(each.value) for each in node.keywords}
                    calls.append((ast.unparse(node.func), options.get("weights_only"), options.get("allow_pickle")))
    assert set(calls) == {("torch.load", "True", None), ("np.load", None, "False")}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_targets_of_make_with_few_rights(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not SECRETS.search(text)
    content: dict[Any, Any] = yaml.safe_load(text)
    assert set(content[True]) == {"push", "pull_request"}, "YAML reads `on` as true"
    assert content["permissions"] == {"contents": "read"}
    assert content["concurrency"]["cancel-in-progress"] is True
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for job in content["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 60
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
        commands = [step["run"].split() for step in job["steps"] if "run" in step]
        assert commands
        for program, target, *arguments in commands:
            assert program == "make"
            assert target in targets
            folders = re.findall(r"tests[\w/.]*", " ".join(arguments))
            assert all((ROOT / folder).exists() for folder in folders)


def test_the_workflows_test_every_version_of_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    assert f">={versions[0]}" == project["requires-python"]
    assert versions == ["3.11", "3.12", "3.13"]
    run = [step["run"] for job in ("lint", "test") for step in jobs[job]["steps"] if "run" in step]
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert " ".join(each.removeprefix("make ") for each in run) == checks.removeprefix("make ")
