"""Secrets and names: not in what a run writes, not in what is published, wherever they hide."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from amd_hf import AMDFineTuningArguments, AMDFineTuningTrainer, AMDForVideoClassification
from amd_hf.hub.cards import card_problems, write_run_card
from amd_hf.hub.checks import texts_of
from amd_hf.hub.privacy import hide_secrets, is_secret_name, private_parts, redact, secret_parts
from amd_hf.hub.publishing import prepare_folder
from amd_hf.options.parsing import parse_recipe
from tests.helpers.hub import CARD, save_classifier
from tests.helpers.models import tiny_config
from tests.helpers.training import StackRows, finetuning_args, labelled_rows


# Put together here, so that no search for secrets finds one in this file.
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQr" + "StUvWxYz01234567"
SECRETS = {
    "hub": TOKEN,
    "github": "gh" + "p_" + "0123456789abcdefghijABCDEFGHIJ012345",
    "github_fine": "github" + "_pat_" + "11ABCDEFG0abcdefghijkl_0123456789",
    "gitlab": "gl" + "pat-" + "abcdefghij0123456789",
    "aws": "AK" + "IA" + "ABCDEFGHIJKLMNOP",
    "slack": "xox" + "b-" + "123456789012-abcdefghijkl",
    "openai": "sk" + "-proj-" + "abcdefghijklmnopqrstuvwx0123",
    "google": "AI" + "za" + "SyA1234567890abcdefghijklmnopqrstuv",
    "wandb": "WANDB_" + "API_KEY=" + "0123456789abcdef0123456789abcdef01234567",
    "wandb_line": "wandb login " + "0123456789abcdef0123456789abcdef01234567",
    "jwt": "ey" + "JhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + "eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "private_key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEA75\n-----END RSA PRIVATE KEY-----",
    "openssh_key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n",
    "url": "https://alice:hunter2pw@videos.intern.example:8443/a.tar",
    "url_user": "s3://" + "AKEY:SKEYSKEY@bucket.example/x",
    "query": "https://h.example/a.tar?X=1&access_token=abcdefgh1234",
    "environment": "AWS_SECRET_" + "ACCESS_KEY=abcd/efgh+ijkl0123",
    "password": "db_password = 'swordfish99'",
    "json": '{"api_' + 'key": "abcdefgh1234"}',
    "bearer": "Authorization: Bear" + "er abcdefghijklmnop0123",
}
HARMLESS = [
    "use_class_token=True", "`num_input_tokens_seen`: 123456", "key_frames = 1234567", "class_token: abcdefgh",
    "https://arxiv.org/abs/2311.03149", "token=$HF_TOKEN", "commit 0123456789abcdef0123456789abcdef01234567",
    "mail somebody@example.org", "hf_hub_download and hf_transfer", "sk-learn", "top-1 accuracy", "from_pretrained(x)",
    '{"use_class_token": false, "label2id": {"secret": 3}}', "monkey=bananas", "the token of the class, the key of it",
]  # fmt: skip


@pytest.mark.parametrize("kind", SECRETS)
def test_secret_is_found_and_hidden(kind: str) -> None:
    text = f"before {SECRETS[kind]} after"
    assert secret_parts(text, ())
    hidden = hide_secrets(text, ())
    assert secret_parts(hidden, ()) == []
    for word in ("hunter2pw", "alice", "intern.example", "abcdefgh", "swordfish99", TOKEN, "MIIE", "b3Bl", "bucket"):
        assert word not in hidden
    assert hidden.startswith("before ")
    assert "tells" not in str(secret_parts(text, ()))
    assert all(word not in str(secret_parts(text, ())) for word in ("hunter2pw", "swordfish99", TOKEN[3:]))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert secret_parts(text, ()) == []
    assert hide_secrets(text, ()) == text


def test_options_that_are_secrets_are_told_by_their_names() -> None:
    for name in ("--hub_token", "--hub-token", "apiKey", "WANDB_API_KEY", "client_secret", "db.password", "key"):
        assert is_secret_name(name), name
    for name in ("use_class_token", "num_tokens", "monkey", "keyboard", "key_frames", "tokenizer", "keys", "author"):
        assert not is_secret_name(name), name


def test_secrets_of_the_environment_are_known_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TRACKER_TOKEN", "nothing-special-77")
    assert secret_parts("x nothing-special-77 y")
    assert hide_secrets("x nothing-special-77 y") == "x SECRET y"


# ---- What a run writes ----


@dataclass
class _Options:
    data: str | None = None
    api_key: str | None = None
    note: str | None = None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's home folder, where the run is at work."""
    folder = tmp_path / "home" / "marypoppins"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("LOGNAME", "marypoppins")
    return folder


def _said(folder: Path) -> dict[str, str]:
    """Everything that the files of a folder say, read by other means than the check's."""
    said = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix == ".py":
            continue
        data = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                data += b"".join(archive.read(name) for name in archive.namelist())
        said[str(path.relative_to(folder))] = data.decode("latin-1")
    return said


def test_no_file_of_a_run_holds_its_secrets_or_who_ran_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret_address = "https://mary:umbrella77@nanny.example/shards.tar"
    command = [
        "scripts/finetune.py", "--output_dir", str(home / "out"), "--hub_token", TOKEN, f"--api_key={'k' * 30}7",
        "--data", secret_address, "--note", f"HF_TOKEN={TOKEN}",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    config = tiny_config()
    args = finetuning_args(
        home / "out", max_steps=2, per_device_train_batch_size=2, hub_token=TOKEN, save_strategy="steps", save_steps=1,
        run_name="run of marypoppins",
    )  # fmt: skip
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(config), args, data_collator=StackRows(), train_dataset=labelled_rows(config, 4)
    )
    trainer.program_options = (_Options(data=secret_address, api_key="k" * 30 + "7", note=f"HF_TOKEN={TOKEN}"),)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    trainer.finish_run()
    said = _said(home / "out")
    assert {"README.md", "training_args.bin", "trainer_state.json", "checkpoint-2/training_args.bin"} <= said.keys()
    for name, text in said.items():
        for word in (TOKEN, TOKEN[5:], "umbrella77", "nanny.example", "kkkkkkkk", "marypoppins"):
            assert word not in text, (name, word)
    card = (home / "out" / "README.md").read_text()
    assert card_problems(card) == []
    assert private_parts(card) == []
    assert "`--hub_token`" in card  # named, so that somebody who repeats the run knows of it
    # In this process the token is there, for the upload.
    assert args.hub_token == TOKEN


def test_best_checkpoint_is_found_again_without_its_home(home: Path) -> None:
    def trainer(steps: int) -> AMDFineTuningTrainer:
        config = tiny_config()
        args = finetuning_args(
            home / "out", max_steps=steps, per_device_train_batch_size=2, save_strategy="best", eval_strategy="steps",
            eval_steps=1, metric_for_best_model="loss", load_best_model_at_end=True,
        )  # fmt: skip
        return AMDFineTuningTrainer(
            AMDForVideoClassification(config), args, data_collator=StackRows(),
            train_dataset=labelled_rows(config, 4), eval_dataset=labelled_rows(config, 4),
        )  # fmt: skip

    first = trainer(2)
    first.train()
    best = first.state.best_model_checkpoint
    assert best is not None
    assert Path(best).is_dir()
    assert Path(best).parent == home / "out"
    first.save_state()
    for path in (home / "out").rglob("trainer_state.json"):
        assert "marypoppins" not in path.read_text()
    second = trainer(3)
    second.train(resume_from_checkpoint=best)
    assert Path(str(second.state.best_model_checkpoint)).is_dir()


def test_arguments_keep_their_token_in_copies_but_not_in_pickles(home: Path) -> None:
    import copy

    args = AMDFineTuningArguments(output_dir=str(home / "out"), hub_token=TOKEN, use_cpu=True)
    assert copy.copy(args).hub_token == copy.deepcopy(args).hub_token == TOKEN
    pickled = pickle.dumps(args)
    assert TOKEN.encode() not in pickled
    assert b"marypoppins" not in pickled
    assert TOKEN not in args.to_json_string()  # what TensorBoard and other trackers are given
    assert "marypoppins" not in str(args.to_sanitized_dict())


def test_command_line_forgets_its_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trackers write `sys.argv` into their files."""
    words = ["--output_dir", str(tmp_path), "--hub_token", TOKEN, "--use_cpu", "true"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words])
    args, _ = parse_recipe((AMDFineTuningArguments,))
    assert args.hub_token == TOKEN
    assert sys.argv == ["finetune.py", "--output_dir", str(tmp_path), "--use_cpu", "true"]


def test_card_says_what_was_left_out_of_the_command(tmp_path: Path) -> None:
    config = tiny_config()
    trainer = AMDFineTuningTrainer(
        AMDForVideoClassification(config), finetuning_args(tmp_path), data_collator=StackRows(),
        train_dataset=labelled_rows(config, 4),
    )  # fmt: skip
    command = ["scripts/finetune.py", f"--hub_token={TOKEN}", "--data", f"x?token={TOKEN}"]
    card = write_run_card(trainer, command=command, options=[_Options(api_key="abcdefgh")]).read_text()
    assert TOKEN not in card
    assert "abcdefgh" not in card
    assert "python scripts/finetune.py --data" in card
    assert "Left out, because it is a secret: `--hub_token`." in card


def test_names_are_taken_out_of_texts_but_not_of_hub_ids(home: Path) -> None:
    assert redact("by marypoppins, in /srv/marypoppins/x") == "by USER, in PATH/x"
    assert redact("from marypoppins/amd-small on") == "from marypoppins/amd-small on"
    assert private_parts("fine-tuned from marypoppins/other", allowed="marypoppins/amd") == []
    assert private_parts("see ../marypoppins/other", allowed="marypoppins/amd") == ["the user name marypoppins"]


# ---- What is published ----


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    save_classifier(folder)
    (folder / "README.md").write_text(CARD)
    return folder


def _refused(saved: Path) -> str:
    with pytest.raises(ValueError, match="is not fit to be published:") as caught:
        prepare_folder(saved, saved.parent / "ready", "me/model")
    return str(caught.value)


def _picture(path: Path, **options: Any) -> None:
    Image.new("RGB", (8, 8)).save(path, **options)


def _with_text(path: Path, compressed: bool) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", f"made with {TOKEN}", zip=compressed)
    _picture(path, pnginfo=info)


def _with_international_text(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", f"made with {TOKEN}", zip=True)
    _picture(path, pnginfo=info)


def _with_exif(path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = f"token {TOKEN}"
    _picture(path, exif=exif)


def _with_tail(path: Path) -> None:
    _picture(path)
    path.write_bytes(path.read_bytes() + TOKEN.encode())


def _with_archive(path: Path) -> None:
    _picture(path)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", f"{TOKEN}\n" * 20)
    path.write_bytes(path.read_bytes() + packed.getvalue())


PICTURES: dict[str, Any] = {
    "text chunk": lambda path: _with_text(path, False),
    "compressed text chunk": lambda path: _with_text(path, True),
    "international text chunk": _with_international_text,
    "EXIF": _with_exif,
    "behind the end": _with_tail,
    "archive behind the end": _with_archive,
}


@pytest.mark.parametrize("kind", PICTURES)
def test_secret_in_a_picture_is_refused(kind: str, saved: Path) -> None:
    PICTURES[kind](saved / "losses.png")
    message = _refused(saved)
    assert "losses.png" in message
    assert "tells a token of the Hub" in message
    assert TOKEN not in message


def test_place_and_path_in_a_picture_are_refused(saved: Path) -> None:
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    info = PngImagePlugin.PngInfo()
    info.add_text("Source", "/mnt/work/figures/losses.py")
    _picture(saved / "losses.png", exif=exif, pnginfo=info)
    message = _refused(saved)
    assert "the place where it was taken" in message
    assert "the absolute path /mnt/work/figures/losses.py" in message


def _in_card(folder: Path) -> str:
    (folder / "README.md").write_text(CARD + f"\nRepeat: `finetune.py --hub_token {TOKEN}`\n")
    return "README.md"


def _in_config(folder: Path) -> str:
    settings = json.loads((folder / "config.json").read_text())
    settings["id2label"]["0"] = TOKEN
    text = json.dumps(settings).replace("hf_", "\\u0068f_")  # an escape is undone by every reader
    (folder / "config.json").write_text(text)
    return "config.json"


def _in_header(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", {"format": "pt", "made": TOKEN})
    return "model.safetensors"


def _in_weights(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    letters = torch.frombuffer(bytearray(TOKEN[:36].encode()), dtype=torch.float32)
    weights["classifier.weight"].flatten()[: len(letters)] = letters
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return "model.safetensors"


def _in_licence(folder: Path) -> str:
    (folder / "LICENSE").write_text(f"MIT\npassword = swordfish99 {TOKEN}\n", encoding="utf-16")
    return "LICENSE"


def _in_processor(folder: Path) -> str:
    path = folder / "video_preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "api_key": "abcdefgh12"}))
    return "video_preprocessor_config.json"


@pytest.mark.parametrize(
    "hide", [_in_card, _in_config, _in_header, _in_weights, _in_licence, _in_processor], ids=lambda hide: hide.__name__
)
def test_secret_in_any_file_is_refused(hide: Any, saved: Path) -> None:
    name = hide(saved)
    message = _refused(saved)
    assert f"{name} tells " in message
    assert TOKEN not in message


def test_members_of_checkpoints_are_read(tmp_path: Path) -> None:
    """`training_args.bin` and `.pth` are pickles in zip files."""
    for name, value in {"a.bin": {"args": TOKEN}, "b.pth": {TOKEN: torch.zeros(3)}}.items():
        torch.save(value, tmp_path / name)
        assert any(secret_parts(piece.text, ()) for piece in texts_of(tmp_path / name))
    torch.save({"args": TOKEN}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert any(secret_parts(piece.text, ()) for piece in texts_of(tmp_path / "old.pth"))
    with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.bin")
    assert any(secret_parts(piece.text, ()) for piece in texts_of(tmp_path / "outer.zip"))


def test_archive_that_cannot_be_searched_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**26))
    with pytest.raises(ValueError, match="much larger when it is unpacked"):
        list(texts_of(tmp_path / "bomb.zip"))
