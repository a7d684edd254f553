"""What a Trainer writes of its run and publishes: its card, and the checked folder instead of everything it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState

from ..hub.cards.privacy import hide_identity
from ..hub.cards.runs import write_run_card
from ..hub.publishing import PreparedFolder, prepare_folder, upload
from .resuming.run_folders import RunLock


class RunState(TrainerState):
    """A Trainer's state whose file does not tell whose home folder it lies in.

    The best checkpoint is written by its name alone where its path tells; the Trainer looks for it in its output
    folder when it reads the state again.
    """

    best_model_checkpoint: str | None

    def save_to_json(self, json_path: str) -> None:
        """Writes the state to a file."""
        best = self.best_model_checkpoint
        if best is not None and hide_identity(str(best)) != str(best):
            self.best_model_checkpoint = Path(best).name
        try:
            super().save_to_json(json_path)
        finally:
            self.best_model_checkpoint = best


class PublishingTrainer(Trainer):
    """Base of [`VideoTrainer`]; not used by itself.

    `save_model` writes the card of the run beside the model. With `push_to_hub` the Hub is not asked for anything
    before [`push_to_hub`] is called, which the programs do last: a run needs no network, and what is published is the
    model as it was tested.
    """

    program_options: Sequence[Any] = ()
    """Dataclasses of options beside the arguments, which the card names too."""
    test_metrics: Mapping[str, float] | None = None
    """Metrics of the last multi-view test."""
    run_lock: RunLock

    @property
    def state(self) -> TrainerState:
        """Of the run; see [`RunState`]."""
        return self._state

    @state.setter
    def state(self, state: TrainerState) -> None:
        # The Trainer makes its states itself, new and from files, and gives no other place to choose their class.
        self._state = RunState(**vars(state))
        best = state.best_model_checkpoint
        if best is not None and Path(best).name == best and not Path(best).is_dir():
            self._state.best_model_checkpoint = str(Path(self.args.output_dir, best))

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Takes note of the name of the repository; it is made when the model is published."""
        self.hub_model_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.push_in_progress = None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes the card of the run into the output folder; see [`~amd_hf.hub.cards.runs.write_run_card`]."""
        if self.is_world_process_zero():
            write_run_card(self, options=self.program_options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As for [`~transformers.Trainer`], with the card of the run in the output folder; publishes nothing."""
        super().save_model(output_dir, _internal_call=True)
        if self.args.should_save and Path(output_dir or self.args.output_dir) == Path(self.args.output_dir):
            self.create_model_card()

    def finish_run(self) -> None:
        """Last of all: the card with every result, and with `push_to_hub` the publication."""
        self.create_model_card()
        if self.args.push_to_hub:
            self.push_to_hub()
        self.run_lock.release()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Checkpoints stay here."""

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Saves the model, checks its folder, prints what will be uploaded, and uploads it; see [`prepare_folder`].

        It always waits for the end of the upload; the other arguments are those of [`~transformers.Trainer`].

        Returns:
            The address of the commit; `None` on processes other than the first.

        Raises:
            ValueError: If the folder is not fit to be published.
            ConnectionError: If the Hub cannot be reached; everything is then ready on disk.
        """
        if self.hub_model_id is None:
            self.init_hf_repo()
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        args = self.args
        folder = Path(args.output_dir)
        prepared: PreparedFolder = prepare_folder(folder, f"{folder}-hub", self.hub_model_id)
        print(f"To be uploaded to {self.hub_model_id}:\n{prepared}", flush=True)  # noqa: T201
        private = args.hub_private_repo if private is None else private
        return upload(
            prepared,
            self.hub_model_id,
            private=private,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            commit_message=commit_message,
        )
