"""Names of others in cards: shown as what they are, and neither Markdown, HTML, YAML, Jinja nor Python."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load

from amd_hf import AMDFineTuningTrainer, AMDForVideoClassification
from amd_hf.hub.cards import card_problems, code_block, escape_markdown, python_string, write_run_card
from studies import report as ablation_report
from tests.helpers.models import tiny_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows


NAMES = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![x](http://a.example/x.png)",
    "a | b | c",
    "a \\| b",
    "```\n# Heading\n```",
    "`code` *bold* _it_ ~~no~~ $$x$$",
    "x\n---\nlicense: mit\n---\n",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;b&gt; &amp; &copy;",
    "# title",
    "q\"uo'te\\",
    "a: b # c",
    "!!python/object/apply:os.system [x]",
    "naïve 动作 🎬 \u202egnp.exe",
    "plain name",
]


@dataclass
class _Options:
    data: str | None = None
    note: str | None = None
    class_names: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> AMDFineTuningTrainer:
    config = tiny_config()
    args = finetuning_args(tmp_path_factory.mktemp("run"), max_steps=1, per_device_train_batch_size=2)
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(config), args, data_collator=StackRows(), train_dataset=labelled_rows(config, 4)
    )
    trainer.train()
    return trainer


def _tokens(text: str) -> list[Any]:
    """What CommonMark with tables makes of a text, by a library that is not ours."""
    markdown_it = pytest.importorskip("markdown_it")
    parsed = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [part for token in parsed for part in [token, *(token.children or [])]]


def _shown(name: str) -> str:
    """A name as it is to be seen: in one line, and no character that turns others round."""
    return re.sub(r"\s+", " ", name).replace("\u202e", "\\u202e")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("around", ["{}\n", "- {}\n", "| a | b |\n|---|---|\n| {} | end |\n", "before {} after\n"])
def test_escaped_name_is_text_and_nothing_else(name: str, around: str) -> None:
    tokens = _tokens(around.format(escape_markdown(name)))
    kinds = {token.type for token in tokens}
    assert kinds <= {
        "paragraph_open", "paragraph_close", "inline", "text", "text_special", "bullet_list_open", "bullet_list_close",
        "list_item_open", "list_item_close", "table_open", "table_close", "thead_open", "thead_close", "tbody_open",
        "tbody_close", "tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close",
    }  # fmt: skip
    seen = "".join(token.content for token in tokens if token.type in ("text", "text_special"))
    assert _shown(name).strip() in seen
    assert sum(token.type == "td_open" for token in tokens) == (2 if around.startswith("|") else 0)


@pytest.mark.parametrize("name", NAMES)
def test_card_of_a_run_holds_names_as_they_are(name: str, trainer: AMDFineTuningTrainer, tmp_path: Path) -> None:
    data = name.replace("/", "∕")  # a name has no slash: its folders are left out
    options = _Options(data=data, note=name, class_names=[name])
    command = ["scripts/finetune.py", "--note", name, "--output_dir", "out"]
    metrics = {"accuracy": 0.5, name: 1.0}
    path = write_run_card(trainer, tmp_path, options=[options], test_metrics=metrics, command=command)
    text = path.read_text(encoding="utf-8")

    assert card_problems(text) == []
    # The metadata, by the Hub's own function and as plain YAML: the exact text.
    loaded = metadata_load(path)
    assert loaded == yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert loaded.keys() == {"library_name", "pipeline_tag", "tags", "model-index"}
    dataset = loaded["model-index"][0]["results"][0]["dataset"]
    assert (dataset["name"], dataset["type"]) == (data, data)
    assert ModelCard(text).data.eval_results[0].dataset_name == data

    tokens = _tokens(ModelCard(text).text)
    assert not {token.type for token in tokens} & {"html_block", "html_inline", "s_open", "em_open", "strong_open"}
    addresses = [token.attrs["href"] for token in tokens if token.type == "link_open"]
    assert all(address.startswith("https://arxiv.org/") for address in addresses)
    assert [token.attrs["src"] for token in tokens if token.type == "image"] == ["losses.png"]
    headings = [token.content for before, token in zip(tokens, tokens[1:], strict=False)
                if before.type == "heading_open"]  # fmt: skip
    assert headings[1:] == [
        "Results", "Use", "Data", "Model", "Training", "Repeat it", "Versions", "Licences",
    ]  # fmt: skip
    seen = "".join(token.content for token in tokens if token.type in ("text", "text_special", "softbreak"))
    assert seen.count(_shown(name).strip()) >= 3  # metric, note, class names
    blocks = {token.info: token.content for token in tokens if token.type == "fence"}
    assert blocks.keys() == {"python", "bash"}
    ast.parse(blocks["python"])


@pytest.mark.parametrize("name", NAMES)
def test_name_of_the_folder_is_a_string_in_the_example(
    name: str, trainer: AMDFineTuningTrainer, tmp_path: Path
) -> None:
    folder = tmp_path / name.replace("/", "∕")
    text = write_run_card(trainer, folder).read_text(encoding="utf-8")
    assert card_problems(text) == []
    (code,) = [token.content for token in _tokens(ModelCard(text).text) if token.info == "python"]
    strings = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert _visible(folder.name) in strings


def _visible(name: str) -> str:
    return "".join(f"\\u{ord(c):04x}" if c in "\n\u202e" else c for c in name)


@pytest.mark.parametrize("text", ["a", "``` b", "x\n````\ny", "`"])
def test_block_of_code_cannot_be_left(text: str) -> None:
    (fence,) = _tokens(code_block(text, "bash"))
    assert (fence.type, fence.info, fence.content) == ("fence", "bash", f"{text}\n")


def test_literal_of_python_is_the_text() -> None:
    assert ast.literal_eval(python_string('a"b\\c')) == 'a"b\\c'


@pytest.mark.parametrize("name", NAMES)
def test_titles_of_a_study_are_text_in_its_report(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = SimpleNamespace(title=name, curve=None, x=None)
    grid: Any = SimpleNamespace(title=name, seeds=(0,), arms={"a": arm, "b": arm}, comparisons=[("a", "b")])
    outcome = ablation_report.ArmOutcome([0.5], [0.25], [0.1], [1.0], [1.0], [0.5])
    monkeypatch.setattr(ablation_report, "collect", lambda *_: {"a": outcome, "b": outcome})
    monkeypatch.setattr(ablation_report, "_draw_bars", lambda *_: None)
    store: Any = None
    tokens = _tokens(ablation_report.write_report(grid, store, tmp_path))
    assert not {token.type for token in tokens} & {"html_block", "html_inline", "link_open", "image", "code_inline"}
    assert sum(token.type == "td_open" for token in tokens) == 2 * 6 + 4
    assert json.loads((tmp_path / "report.json").read_text())["title"] == name
