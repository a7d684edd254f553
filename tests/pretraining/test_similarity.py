"""Linear CKA against a plain reference and its known properties, and the comparison of student and teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from amd_hf import AMDForPreTraining, AMDModel, AMDTrainer
from amd_hf.pretraining.similarity import LayerSimilarity, cka_matrix, layer_similarity
from amd_hf.pretraining.visualization import draw_similarity, save_similarity
from amd_hf.teachers.frozen import FrozenTeacher
from tests.helpers.models import randomize, tiny_config, tiny_teacher_config
from tests.helpers.training import StackRows, masked_rows, pretraining_args


def _cka(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(cka_matrix({1: first}, {1: second})[0, 0])


def plain_cka(x: np.ndarray, y: np.ndarray) -> float:
    """By the definition: HSIC of the Gram matrices of all pairs of tokens, centred by H = 1 - 1/n."""
    n = len(x)
    centring = np.eye(n) - np.ones((n, n)) / n

    def hsic(first: np.ndarray, second: np.ndarray) -> float:
        return float(np.trace(first @ first.T @ centring @ second @ second.T @ centring))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def _features(n: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.1, 3, width)
    return torch.randn(n, width, generator=generator) * scales + 5


# ---------------------------------------------------------------------------------------------------------------------
# CKA
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [0.0, 0.5, 2.0])
def test_cka_is_that_of_the_definition(shared: float) -> None:
    x = _features(40, 7, seed=1)
    y = _features(40, 11, seed=2) + shared * x @ torch.randn(7, 11, generator=torch.Generator().manual_seed(3))
    assert _cka(x, y) == pytest.approx(plain_cka(x.double().numpy(), y.double().numpy()), abs=1e-10)
    assert _cka(x, y) == pytest.approx(_cka(y, x), abs=1e-12)


def test_cka_is_1_for_what_is_rotated_scaled_and_moved() -> None:
    x = _features(50, 6, seed=0)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    assert _cka(x, x) == pytest.approx(1, abs=1e-12)
    assert _cka(x, 1e4 * x @ rotation - 3) == pytest.approx(1, abs=1e-5)
    stretched = x * torch.tensor([200.0, 1, 1, 1, 1, 1])  # of one direction more than of the others
    assert _cka(x, stretched) < 0.9


def test_cka_of_unrelated_features_is_near_0_and_of_constant_ones_0() -> None:
    x, y = _features(4000, 5, seed=0), _features(4000, 8, seed=1)
    assert _cka(x, y) < 0.01
    assert _cka(x, torch.full((4000, 3), 0.1)) == 0


def test_cka_of_huge_and_tiny_features_is_exact() -> None:
    x, y = _features(30, 5, seed=0), _features(30, 5, seed=1)
    expected = _cka(x, y)
    assert _cka(x.double() * 1e90, y.double() * 1e-90) == pytest.approx(expected, rel=1e-9)


def test_every_layer_is_compared_with_every_other() -> None:
    first = {number: _features(20, 4, seed=number) for number in (1, 2)}
    second = {number: _features(20, 6, seed=number) for number in (3, 5, 9)}
    found = cka_matrix(first, second)
    assert found.shape == (2, 3)
    for row, x in enumerate(first.values()):
        for column, y in enumerate(second.values()):
            assert found[row, column] == pytest.approx(plain_cka(x.double().numpy(), y.double().numpy()), abs=1e-10)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [(((4, 2), (5, 2)), "of the same tokens"), (((4, 2, 2), (4, 2)), "must be matrices"), (((1, 2), (1, 3)), "one")],
)
def test_features_of_other_tokens_are_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _cka(*(torch.ones(shape) for shape in shapes))


# ---------------------------------------------------------------------------------------------------------------------
# Student and teacher
# ---------------------------------------------------------------------------------------------------------------------


def _make_models(**changes: Any) -> tuple[AMDForPreTraining, AMDModel]:
    torch.manual_seed(0)
    student = randomize(AMDForPreTraining(tiny_config(**changes)))
    teacher = randomize(AMDModel(tiny_teacher_config(use_final_norm=False, **changes)), seed=1)
    return student.eval(), teacher.eval()  # type: ignore[return-value]


@pytest.fixture(scope="module")
def models() -> tuple[AMDForPreTraining, AMDModel]:
    return _make_models()


def _plain_matrix(student: AMDForPreTraining, teacher: AMDModel, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Clip by clip with boolean indices: every block's output on the tokens that both see."""
    ours: list[list[np.ndarray]] = [[] for _ in range(3)]
    theirs: list[list[np.ndarray]] = [[] for _ in range(4)]
    for row in rows:
        clip, hidden, teacher_hidden = (
            row[name][None] for name in ("pixel_values", "bool_masked_pos", "teacher_bool_masked_pos")
        )
        with torch.no_grad():
            student_states = student.amd(clip, hidden, output_hidden_states=True).hidden_states
            teacher_states = teacher(clip, teacher_hidden, output_hidden_states=True).hidden_states
        common = ~hidden[0][~teacher_hidden[0]]
        for layer, kept in enumerate(ours, start=1):
            kept.append(student.amd.patch_tokens(student_states[layer])[0].double().numpy())
        for layer, kept in enumerate(theirs, start=1):
            kept.append(teacher.patch_tokens(teacher_states[layer])[0][common].double().numpy())
    return np.array([[plain_cka(np.concatenate(x), np.concatenate(y)) for y in theirs] for x in ours])


def test_student_and_teacher_are_compared_on_the_tokens_both_see(
    models: tuple[AMDForPreTraining, AMDModel],
) -> None:
    student, teacher = models
    rows = masked_rows(student.config, 5)
    frozen = FrozenTeacher.fit(teacher, student.config)
    found = [
        layer_similarity(student, frozen, rows, StackRows(), Accelerator(cpu=True), batch_size=size) for size in (2, 5)
    ]
    expected = _plain_matrix(student, teacher, rows)
    for similarity in found:
        np.testing.assert_allclose(similarity.cka, expected, atol=1e-5)
    assert len(np.unique(expected.round(4))) == expected.size  # so that a mix-up of layers would show
    assert (found[0].student_layers, found[0].teacher_layers) == ((1, 2, 3), (1, 2, 3, 4))
    assert (found[0].num_clips, found[0].num_tokens) == (5, 5 * 4)
    # `tiny_config` aligns 1-2 and 3-4 directly, 2-1 and 3-4 by generation.
    assert found[0].aligned == ((1, 2), (2, 1), (3, 4))
    assert found[0].metrics() == pytest.approx(
        {
            "cka_student_1_teacher_2": expected[0, 1],
            "cka_student_2_teacher_1": expected[1, 0],
            "cka_student_3_teacher_4": expected[2, 3],
        },
        abs=1e-5,
    )


def test_class_tokens_are_left_out_of_the_comparison() -> None:
    student, teacher = _make_models(use_class_token=True)
    rows = masked_rows(student.config, 3)
    found = layer_similarity(
        student, FrozenTeacher.fit(teacher, student.config), rows, StackRows(), Accelerator(cpu=True)
    )
    np.testing.assert_allclose(found.cka, _plain_matrix(student, teacher, rows), atol=1e-5)
    assert found.num_tokens == 3 * 4


def test_clips_are_spread_over_the_set_and_bad_ones_named(models: tuple[AMDForPreTraining, AMDModel]) -> None:
    student, teacher = models
    frozen = FrozenTeacher.fit(teacher, student.config)
    rows = masked_rows(student.config, 9)
    seen: list[int] = []

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        seen.extend(row["number"] for row in batch)
        good = [row for row in batch if row["number"] != 4]
        report = {"unreadable": [("four", "bad")] if len(good) < len(batch) else []}
        return {**StackRows()(good), **report} if good else {"pixel_values": None, **report}

    options = {"max_clips": 3, "batch_size": 1}
    found = layer_similarity(student, frozen, rows, collate, Accelerator(cpu=True), **options)
    assert seen == [0, 4, 8]
    assert (found.num_clips, found.unreadable) == (2, (("four", "bad"),))
    np.testing.assert_allclose(found.cka, _plain_matrix(student, teacher, [rows[0], rows[8]]), atol=1e-5)
    with pytest.raises(ValueError, match="None of the 1 held-out videos could be read.*four"):
        layer_similarity(student, frozen, [rows[4]], collate, Accelerator(cpu=True))


def test_trained_student_is_more_like_its_teacher(tmp_path: Path) -> None:
    config = tiny_config()
    torch.manual_seed(0)
    teacher = randomize(AMDModel(tiny_teacher_config()), std=0.2)
    rows = masked_rows(config, 8)
    args = pretraining_args(
        tmp_path, per_device_train_batch_size=8, max_steps=60, base_learning_rate=0.3, reconstruction_weight=0.0,
        teacher_feature_norm=True,
    )  # fmt: skip
    trainer = AMDTrainer(
        AMDForPreTraining(config), args, teacher, data_collator=StackRows(), train_dataset=rows, eval_dataset=rows
    )
    before = trainer.compare_features().metrics()
    trainer.train()
    after = trainer.compare_features().metrics()
    assert after["cka_student_3_teacher_4"] > before["cka_student_3_teacher_4"] + 0.05
    assert trainer.compare_features(max_clips=2).num_clips == 2


def test_comparing_needs_a_teacher_its_masks_and_videos(
    tmp_path: Path, models: tuple[AMDForPreTraining, AMDModel]
) -> None:
    student, teacher = models
    rows = masked_rows(student.config, 1)
    trainer = AMDTrainer(student, pretraining_args(tmp_path), data_collator=StackRows(), eval_dataset=rows)
    with pytest.raises(ValueError, match="needs a `teacher_model` and an `eval_dataset`"):
        trainer.compare_features()
    del rows[0]["teacher_bool_masked_pos"]
    frozen = FrozenTeacher.fit(teacher, student.config)
    with pytest.raises(ValueError, match="gives no `teacher_bool_masked_pos`"):
        layer_similarity(student, frozen, rows, StackRows(), Accelerator(cpu=True))


# ---------------------------------------------------------------------------------------------------------------------
# The picture
# ---------------------------------------------------------------------------------------------------------------------


def _similarity() -> LayerSimilarity:
    cka = np.arange(6).reshape(2, 3) / 10
    return LayerSimilarity(cka, (6, 12), (8, 16, 24), ((6, 16), (12, 24)), 4, 640, (("bad.mp4", "truncated"),))


def test_picture_shows_every_pair_and_frames_the_aligned_ones(tmp_path: Path, monkeypatch: Any) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    assert draw_similarity(_similarity(), tmp_path / "similarity.png").read_bytes().startswith(b"\x89PNG")
    axes = drawn[0].axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), _similarity().cka)
    assert [patch.get_xy() for patch in axes.patches] == [(0.5, -0.5), (1.5, 0.5)]
    assert [text.get_text() for text in axes.texts] == ["0.10", "0.50"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["6", "12"]


def test_figures_are_written_with_and_without_matplotlib(tmp_path: Path, monkeypatch: Any) -> None:
    assert save_similarity(_similarity(), tmp_path) == tmp_path / "similarity.png"
    found = json.loads((tmp_path / "similarity.json").read_text())
    assert found["cka"] == [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]]
    assert (found["student_layers"], found["teacher_layers"]) == ([6, 12], [8, 16, 24])
    assert found["unreadable"] == [{"video_id": "bad.mp4", "reason": "truncated"}]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert save_similarity(_similarity(), tmp_path) is None
