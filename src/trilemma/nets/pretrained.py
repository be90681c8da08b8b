"""A pretrained text encoder of the Hugging Face Hub, which stays as it is, through the optional ``transformers``.

As in Imagen (Saharia et al. 2022, section 2.1) the words are read by a network that has read far more of them than
there are captions, and only a projection is trained. Its weights are no part of a checkpoint: the config of the run
names it and its revision, which is the commit that was the newest when the run was made, unless one was asked for. Of
an encoder in a folder the config has the path alone: what lies there is for its owner to keep.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trilemma.images import PADDING
from trilemma.nets.text import Encoded, Encoder

OWN = 2
"""Tokens that stand before those of the encoder's own vocabulary: the padding and the start."""


class PretrainedText(Encoder):
    """The last hidden states of a frozen encoder, projected; a trained vector stands for the start, and alone for the
    empty caption.

    Args:
        name: a Hub id or a folder with ``config.json`` and ``model.safetensors``: CLIP, T5 or another encoder.
        revision: on the Hub; "" for the newest.
        length: tokens in a row; row entries are `OWN` above the ids of the encoder's tokenizer.
        size: of the vectors given.

    Raises:
        ValueError: ``transformers`` is not installed, or the encoder cannot be loaded.
    """

    def __init__(self, name: str, revision: str, length: int, size: int) -> None:
        super().__init__(length, size)
        self._frozen = Frozen(name, revision)
        self.project = nn.Linear(self._frozen.size, size)
        self.start = nn.Parameter(torch.randn(size))
        self.norm = nn.LayerNorm(size)

    def forward(self, rows: Tensor) -> Encoded:
        padding = rows == PADDING
        states = self.project(self._frozen.read(rows[:, 1:]).to(self.project.weight.dtype))
        x = self.norm(torch.cat([self.start.to(states).expand(len(rows), 1, -1), states], 1))
        there = (~padding)[:, :, None].to(x)
        return Encoded(x, padding, (x * there).sum(1) / there.sum(1))


class Frozen:
    """A pretrained network outside of the modules: nothing moves, saves, copies or trains its weights."""

    def __init__(self, name: str, revision: str) -> None:
        self.network, self.size = _load(name, revision)
        self._last: tuple[Tensor, Tensor] | None = None

    def __deepcopy__(self, memo: object) -> Frozen:
        return self

    @torch.no_grad()
    def read(self, rows: Tensor) -> Tensor:
        """int64 [N, L], with padding → the last hidden states, float [N, L, size]."""
        if rows.device.type == "meta":
            return torch.empty(*rows.shape, self.size, device="meta")
        # A sampler asks for the same captions at every step.
        if self._last is not None and self._last[0].device == rows.device and torch.equal(self._last[0], rows):
            return self._last[1]
        mask = rows != PADDING
        mask[:, 0] |= ~mask.any(1)  # an empty row must look at something; nobody looks at what comes of it
        with torch.autocast(rows.device.type, enabled=False):
            output = self.network.to(rows.device)(input_ids=(rows - OWN).clamp(min=0), attention_mask=mask.long())
        states: Tensor = output.last_hidden_state.float()
        self._last = rows.clone(), states
        return states


def newest(name: str) -> str:
    """The commit that an encoder's newest revision on the Hub is now; "" of a folder, or where nobody can tell.

    What is wrong with a name or a network is said by whoever loads the encoder.
    """
    if Path(name).exists():
        return ""
    try:
        import transformers

        return str(transformers.AutoConfig.from_pretrained(name)._commit_hash or "")
    except Exception:  # from half a dozen libraries below it
        return ""


@functools.lru_cache(maxsize=1)
def _load(name: str, revision: str) -> tuple[Any, int]:
    """The encoder and the length of its hidden states; kept, because a run builds its model several times."""
    try:
        import transformers
    except ImportError:
        raise ValueError(
            f'the text encoder {name} needs the transformers package: pip install "trilemma[transformers]"'
        ) from None
    source: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **source)
        # Of models with an image side or a decoder only the part that reads is loaded.
        kinds = {"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel", "t5": "T5EncoderModel"}
        kind = getattr(transformers, kinds.get(config.model_type, "AutoModel"))
        # Weights as safetensors only: nothing is unpickled.
        with torch.random.fork_rng(devices=[]):  # or the weights built next would depend on what was kept
            network = kind.from_pretrained(name, use_safetensors=True, **source)
    except Exception as error:  # from half a dozen libraries below it
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"cannot load the text encoder {name!r} from the Hub ({said[0]}): check the name; on a machine without a "
            "network give a folder that holds its config.json, model.safetensors and tokenizer.json"
        ) from error
    return network.eval().requires_grad_(False), int(network.config.hidden_size)
