"""Captions: from strings to token rows, to conditions, to images that depend on them, and the score of mnist-pairs."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import blobs

from trilemma.cli import main
from trilemma.data import Dataset, load
from trilemma.data import pairs as mnist_pairs
from trilemma.data.captions import Tokens
from trilemma.evaluation import Protocol, evaluate
from trilemma.evaluation.measured import Measured, number_of
from trilemma.evaluation.metric import groups
from trilemma.evaluation.parts.captions import read_pairs, seen
from trilemma.families import FAMILIES
from trilemma.families.diffusion import DiffusionOptions
from trilemma.families.diffusion.exchange import export_diffusers, export_onnx
from trilemma.families.family import Family
from trilemma.images import PADDING, START, Spec
from trilemma.likelihood import log_likelihood
from trilemma.nets import pretrained
from trilemma.nets.text import CrossAttention, TextEncoder
from trilemma.noise import BatchNoise
from trilemma.presets import configure, gflop
from trilemma.run import Run
from trilemma.sampling import sample
from trilemma.training import train

pytest.importorskip("tokenizers")

PLACES = ("top left", "top right", "bottom left")
SPEC = Spec((1, 8, 8), vocabulary=20, length=6)
QUICK = DiffusionOptions(steps=2, precision="fp32")
SETTINGS = {"batch": 8, "precision": "fp32", "pictures": 0}


@pytest.fixture
def told_file(tmp_path: Path) -> Path:
    """Squares with a caption of where they are; every tenth has none."""
    images, labels = blobs(120)
    text = [f"a square at the {PLACES[label]}" if i % 10 else "" for i, label in enumerate(labels)]
    np.savez(tmp_path / "told.npz", images=images, text=np.array(text))
    return tmp_path / "told.npz"


def fitted(data: Path | Dataset, out: Path, budget: str = "3steps", **more: object) -> Run:
    return train("diffusion", data, out=out, budget=budget, text=True, settings=SETTINGS, device="cpu", **more)  # type: ignore[arg-type]


def awake(family: str = "diffusion", spec: Spec = SPEC) -> Family:
    """A model in which nothing is zero any more, so that every input shows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FAMILIES[family](configure(family, "tiny", spec)[0], spec)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def test_a_class_is_no_caption(told_file: Path, tmp_path: Path) -> None:
    run = fitted(told_file, tmp_path / "run", "1steps")
    images = load(told_file).batch([0, 1])
    with pytest.raises(ValueError, match="reads captions, not classes"):
        log_likelihood(run, images, labels=torch.tensor([1, 2]), device="cpu")


def test_captions_that_are_all_empty_are_none(tmp_path: Path) -> None:
    images, _ = blobs(40)
    np.savez(tmp_path / "mute.npz", images=images, text=np.array([""] * 40))
    assert load(tmp_path / "mute.npz").captions is None


# Strings to rows


def test_rows_begin_with_the_start_and_end_in_padding() -> None:
    tokens = Tokens.train(["a red apple", "a green apple", "two dogs", ""])
    rows = tokens.rows(["a red apple", "", "a red apple"])
    assert rows.dtype == torch.int64
    assert rows.shape == (3, tokens.length)
    assert (rows[:, 0] == START).all()
    assert (rows[1, 1:] == PADDING).all()
    assert torch.equal(rows[0], rows[2])
    assert int(rows.max()) < tokens.vocabulary
    assert not torch.equal(rows[0], tokens.rows(["a green apple"])[0])
    assert torch.equal(rows[0], tokens.rows(["A Red apple"])[0])  # case says nothing
    # The empty caption is "no label".
    assert torch.equal(rows[1:2], Spec((1, 8, 8), vocabulary=tokens.vocabulary, length=tokens.length).unlabelled(1))


def test_the_same_captions_give_the_same_tokenizer_and_files_bring_it_back(tmp_path: Path) -> None:
    captions = [f"{a} {b} on a {c}" for a in ("red", "blue") for b in ("cat", "chat") for c in ("hat", "mat")]
    one, other = Tokens.train(captions), Tokens.train(list(captions))
    assert one.files() == other.files()
    for name, text in one.files().items():
        (tmp_path / name).write_text(text)
    back = Tokens.read(tmp_path, one.length)
    texts = [*captions, "naïve 猫 \N{RED APPLE}", ""]  # no text is unknown to bytes
    assert torch.equal(back.rows(texts), one.rows(texts))
    assert back.words == {"red", "blue", "cat", "chat", "on", "a", "hat", "mat"}
    assert back.unknown(["A red DOG on a zebra", "dog"]) == ["dog", "zebra"]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer.json"):
        Tokens.read(tmp_path, one.length)


def test_long_captions_are_cut() -> None:
    tokens = Tokens.train(["word " * 200, "short"])
    assert tokens.length == 64
    assert tokens.too_long(["word " * 200, "short"]) == 1
    assert (tokens.rows(["word " * 200]) != PADDING).all()


def test_spec_takes_classes_or_captions() -> None:
    with pytest.raises(ValueError, match="not on both"):
        Spec((1, 8, 8), classes=3, vocabulary=20, length=5)
    with pytest.raises(ValueError, match="a vocabulary and a length"):
        Spec((1, 8, 8), vocabulary=20)
    assert Spec((1, 8, 8), classes=3).unlabelled(2).tolist() == [3, 3]
    assert SPEC.unlabelled(1).tolist() == [[START, 0, 0, 0, 0, 0]]
    assert (SPEC.conditional, Spec((1, 8, 8)).conditional) == (True, False)


# The network


def test_the_encoder_is_blind_to_padding() -> None:
    encoder = TextEncoder(20, 8, 64, 2).eval()
    rows = torch.tensor([[1, 5, 7, 0, 0, 0, 0, 0], [1, 5, 7, 9, 3, 4, 6, 8]])
    attention = CrossAttention(32, 64)
    torch.nn.init.normal_(attention.out.weight)
    pixels = torch.randn(2, 32, 3, 3)
    with torch.no_grad():
        before = encoder(rows)
        read = attention(pixels, before)
        encoder.token.weight[PADDING] += 10
        encoder.position[3:] += 10
        after = encoder(rows)
        assert torch.equal(before.pooled[0], after.pooled[0])
        assert torch.equal(before.tokens[0, :3], after.tokens[0, :3])
        assert torch.equal(read[0], attention(pixels, after)[0])
        assert not torch.equal(read[1], attention(pixels, after)[1])
    # A longer row of padding changes nothing but the rounding.
    longer = TextEncoder(20, 12, 64, 2).eval()
    longer.load_state_dict(encoder.state_dict() | {"position": torch.cat([encoder.position, torch.randn(4, 64)])})
    with torch.no_grad():
        wide = longer(torch.cat([rows[:1], torch.zeros(1, 4, dtype=torch.int64)], 1))
    assert torch.allclose(wide.pooled[0], after.pooled[0], atol=1e-5)


@pytest.mark.parametrize("family", ["diffusion", "flow"])
def test_every_parameter_gets_a_gradient(family: str) -> None:
    model = awake(family).train()
    rows = torch.tensor([[1, 5, 7, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    x = torch.randint(256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for objective in model.objectives():
        objective.loss(x, rows, BatchNoise((0,), 2, 0, 2, torch.device("cpu"))).total.backward()
        assert {id(p) for p in objective.parameters} == {id(p) for p in model.parameters()}
    assert all(p.grad is not None for p in model.parameters())


def test_images_depend_on_their_caption_and_the_empty_one_is_none() -> None:
    model = awake()
    rows = torch.tensor([[1, 5, 7, 0, 0, 0], [1, 7, 5, 0, 0, 0]])  # the order of the words counts
    apart = [sample(model, 2, labels=rows[i : i + 1], options=QUICK, block=4).images for i in (0, 1)]
    assert not torch.equal(*apart)
    nothing = sample(model, 2, options=QUICK, block=4)
    assert torch.equal(nothing.images, sample(model, 2, labels=SPEC.unlabelled(1), options=QUICK, block=4).images)
    assert nothing.labels is None
    # Guidance: 0 is unconditional, 1 conditional, u + w(c - u).
    with pytest.raises(ValueError, match="guidance 4 has nothing to lean to"):
        sample(model, 2, options=replace(QUICK, guidance=4), block=4)
    zero = sample(model, 2, labels=rows[:1], options=replace(QUICK, guidance=0), block=4).images
    assert (zero.int() - nothing.images.int()).abs().max() <= 1
    strong = sample(model, 2, labels=rows[:1], options=replace(QUICK, guidance=4), block=4).images
    assert not torch.equal(strong, apart[0])
    x = apart[0]
    with torch.no_grad():
        bound = [model.log_likelihood(x, given, BatchNoise((0,), 2, 0, 2, torch.device("cpu")), 4).nats for given in
                 (None, SPEC.unlabelled(2), rows)]  # fmt: skip
    assert torch.equal(bound[0], bound[1])  # type: ignore[arg-type]
    assert not torch.equal(bound[0], bound[2])  # type: ignore[arg-type]


def test_image_i_depends_on_seed_i_and_its_text() -> None:
    model = awake()
    one, other = torch.tensor([[1, 5, 7, 0, 0, 0]]), torch.tensor([[1, 3, 2, 4, 9, 9]])
    mixed = sample(model, 4, labels=torch.cat([one, other]), options=QUICK, block=4).images
    alone = sample(model, 7, labels=one, options=QUICK, block=4).images
    assert torch.equal(mixed[0], alone[0])
    assert torch.equal(mixed[2], alone[2])
    assert not torch.equal(mixed[1], alone[1])
    with pytest.raises(ValueError, match="takes no labels"):
        sample(model, 4, labels=[1], options=QUICK)


def test_the_arithmetic_of_the_text_is_counted() -> None:
    spec = replace(SPEC, shape=(1, 28, 28))
    with_text, without = (gflop("diffusion", configure("diffusion", "tiny")[0], s) for s in (spec, Spec((1, 28, 28))))
    assert 1.01 < with_text / without < 1.3


# Runs


def test_a_run_learns_from_captions_and_keeps_how_it_reads_them(told_file: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = fitted(told_file, tmp_path / "run", say=said.append)
    assert any("have no caption" in line for line in said)
    assert run.config.spec.classes == 0
    again = Run.open(tmp_path / "run")
    tokens = again.tokens()
    assert tokens is not None
    assert tokens.vocabulary == run.config.spec.vocabulary
    drawn = sample(again, 5, text=["a square at the top left", "top right"], options=QUICK)
    assert drawn.text is not None
    assert drawn.text[:3] == ("a square at the top left", "top right", "a square at the top left")
    rows = tokens.rows(["a square at the top left", "top right"])
    assert torch.equal(drawn.images, sample(again, 5, labels=rows, options=QUICK).images)
    with pytest.warns(UserWarning, match="no training caption has the word circle"):
        sample(again, 1, text="a circle", options=QUICK)
    with pytest.raises(ValueError, match="labels or text"):
        sample(again, 1, text="square", labels=[0], options=QUICK)
    with pytest.raises(ValueError, match="empty"):
        sample(again, 1, text=[], options=QUICK)
    with pytest.raises(ValueError, match="cannot read text"):
        sample(again.model(), 1, text="square", options=QUICK)


def test_a_resumed_run_equals_the_uninterrupted_one(told_file: Path, tmp_path: Path) -> None:
    whole = fitted(told_file, tmp_path / "whole", "4steps").load()
    fitted(told_file, tmp_path / "parts", "2steps")
    parts = fitted(told_file, tmp_path / "parts", "4steps", resume=True).load()
    for name, value in whole.model.items():
        assert torch.equal(value, parts.model[name]), name


def test_who_cannot_read_says_so(told_file: Path, blobs_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gan reads no captions, diffusion, flow and consistency do"):
        train("gan", told_file, out=tmp_path / "gan", text=True)
    with pytest.raises(ValueError, match="no captions to condition on"):
        train("diffusion", blobs_file, out=tmp_path / "blobs", text=True)
    data = load("mnist-pairs", limit=64, progress=False)
    with pytest.raises(ValueError, match="not on both"):
        train("diffusion", data, out=tmp_path / "both", text=True, conditional=True)
    with pytest.raises(ValueError, match="ddpm reads no captions"):
        train("diffusion", told_file, out=tmp_path / "ddpm", text=True, model={"network": "ddpm"})
    for export in (export_diffusers, export_onnx):
        with pytest.raises(ValueError, match="cannot be exported"):
            export(awake(), tmp_path / "out.onnx")  # type: ignore[arg-type]


def test_the_command_draws_a_row_for_each_text(
    told_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:

    def call(*arguments: str) -> str:
        with contextlib.suppress(SystemExit):
            main(list(arguments))
        return capsys.readouterr().out

    run = str(tmp_path / "run")
    flags = ("--train.batch", "8", "--device", "cpu", "--text")
    call("train", "flow", str(told_file), "--out", run, "--budget", "2steps", *flags)
    texts = ("--text", "a square at the top left", "--text", "top right")
    record = json.loads(call("sample", run, *texts, "--steps", "2", "--guidance", "2", "--json"))
    assert record["n"] == 16
    assert Path(record["out"]).stat().st_size > 1000
    call("sample", run, *texts, "-n", "4", "--steps", "2", "--out", str(tmp_path / "folder"))
    drawn = load(tmp_path / "folder", split=False, progress=False)
    assert drawn.captions == ["a square at the top left", "top right"] * 2
    call("sample", run, *texts, "-n", "4", "--steps", "2", "--out", str(tmp_path / "drawn.npz"))
    assert load(tmp_path / "drawn.npz", split=False, progress=False).captions == drawn.captions
    few = ("--guidance", "2", "-n", "2", "--steps", "2", "--repeats", "1")
    answer = json.loads(call("query", "complete", run, *texts, *few, "--json"))
    assert answer["question"] == "complete"
    # One answer for another caption is another number.
    kinds = ((), texts, ("--labels", "true"))
    scores = [json.loads(call("query", "likelihood", run, "-n", "4", *more, "--json")) for more in kinds]
    assert len({json.dumps(score["values"]["bits_per_dim"]) for score in scores}) == 3


# A pretrained encoder


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of whole words between marks, as those of pretrained encoders are."""
    tokenizers = pytest.importorskip("tokenizers")
    names = ["<pad>", "<s>", "</s>", "<unk>", "a", "square", "at", "the", "top", "bottom", "left", "right"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(names)}, "<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def check_pretrained(told_file: Path, folder: Path, out: Path, size: int) -> None:
    model = {"text_encoder": str(folder), "text_width": 64}
    run = fitted(told_file, out, model=model)
    assert run.config.spec.vocabulary == 12 + 2
    weights = run.load().model
    assert weights["net.text.project.weight"].shape == (64, size)
    assert not any("frozen" in name for name in weights)  # nothing of the encoder is saved, nor trained
    loaded = Run.open(out).model()
    assert sum(p.numel() for n, p in loaded.named_parameters() if ".text." in n) == 64 * size + 4 * 64
    texts = ["a square at the top left", "a square at the bottom left", ""]
    tokens = run.tokens()
    assert tokens is not None
    rows = tokens.rows(texts)
    assert rows[0, :4].tolist() == [START, 1 + 2, 4 + 2, 5 + 2]
    with torch.no_grad():
        encoded = loaded.net.text(rows)  # type: ignore[union-attr, operator]
        twice = loaded.net.text(rows)  # type: ignore[union-attr, operator]
        others = loaded.net.text(torch.cat([rows[1:2], rows[2:]]))  # type: ignore[union-attr, operator]
    assert torch.equal(encoded.tokens, twice.tokens)
    assert not torch.equal(encoded.pooled[0], encoded.pooled[1])
    assert torch.allclose(encoded.pooled[1:], others.pooled, atol=1e-5)
    assert encoded.padding[2].tolist() == [False] + [True] * (rows.shape[1] - 1)
    assert torch.isfinite(encoded.tokens).all()


def test_a_pretrained_encoder_stays_as_it_is(told_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake(torch.nn.Module):
        """In the place of a Hub model: embeddings, and the mean over what the mask shows."""

        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(12, 24).requires_grad_(False)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
            states = self.table(input_ids)
            mask = attention_mask[:, :, None]
            return SimpleNamespace(last_hidden_state=states + (states * mask).sum(1, True) / mask.sum(1, True))

    network = Fake()
    before = network.table.weight.clone()
    monkeypatch.setattr(pretrained, "_load", lambda name, revision: (network, 24))
    check_pretrained(told_file, write_tokenizer(tmp_path / "encoder"), tmp_path / "run", 24)
    assert torch.equal(before, network.table.weight)


def test_a_run_names_the_commit_of_its_encoder(
    told_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest revision on the Hub when the run is made; it stays when there are newer ones."""
    commits, loaded = ["a" * 40, "b" * 40], []

    class Reader(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=input_ids[:, :, None].expand(-1, -1, 8).float())

    def config(name: str) -> SimpleNamespace:
        assert name == "someone/encoder"
        return SimpleNamespace(_commit_hash=commits.pop(0))

    def load_encoder(name: str, revision: str) -> tuple[torch.nn.Module, int]:
        loaded.append(revision)
        return Reader(), 8

    folder = write_tokenizer(tmp_path / "encoder")
    here = Tokens.pretrained
    library = SimpleNamespace(AutoConfig=SimpleNamespace(from_pretrained=config))
    monkeypatch.setitem(sys.modules, "transformers", library)
    monkeypatch.setattr(pretrained, "_load", load_encoder)
    monkeypatch.setattr(Tokens, "pretrained", lambda name, revision, captions: here(str(folder), revision, captions))
    model = {"text_encoder": "someone/encoder", "text_width": 64}
    run = fitted(told_file, tmp_path / "run", "1steps", model=model)
    assert run.config.model.text_revision == "a" * 40 == Run.open(run.path).config.model.text_revision
    fitted(told_file, tmp_path / "run", "2steps", model=model, resume=True)
    assert commits == ["b" * 40] and set(loaded) == {"a" * 40}
    own = fitted(told_file, tmp_path / "own", "1steps", model=model | {"text_revision": "main"})
    assert own.config.model.text_revision == "main"
    # A folder has no commit, and neither has what nobody can load.
    assert pretrained.newest(str(folder)) == "" and pretrained.newest("nobody/nothing") == ""


def test_clip_reads_captions(told_file: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_tokenizer(tmp_path / "clip")
    config = transformers.CLIPTextConfig(
        vocab_size=12, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(folder)
    check_pretrained(told_file, folder, tmp_path / "run", 32)


def test_what_a_pretrained_encoder_needs(told_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot load the tokenizer"):
        fitted(told_file, tmp_path / "run", model={"text_encoder": str(tmp_path)})
    write_tokenizer(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"trilemma\[transformers\]|cannot load the text encoder"):
        fitted(told_file, tmp_path / "run", model={"text_encoder": str(tmp_path / "empty")})


# mnist-pairs


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("mnist-pairs", progress=False)


def test_pairs_show_what_their_captions_say(digits: Dataset) -> None:
    assert digits.images.shape == (70_000, 1, 28, 56)
    assert (len(digits.train), len(digits.test)) == (60_000, 10_000)
    assert digits.labels is not None
    assert digits.captions is not None
    mnist = load("mnist", progress=False)
    assert mnist.labels is not None
    known = {image.tobytes(): label for image, label in zip(mnist.images, mnist.labels.tolist(), strict=True)}
    test = {mnist.images[i].tobytes() for i in mnist.test}
    names = [word.split()[1] for word in mnist_pairs.WORDS]
    for i in [*digits.train[:200].tolist(), *digits.test[:200].tolist()]:
        halves = [digits.images[i][:, :, side].tobytes() for side in (slice(28), slice(28, 56))]
        left, right = (known[half] for half in halves)
        assert digits.labels[i] == 10 * left + right
        assert all((half in test) == (i in digits.test) for half in halves)
        words = [word for word in digits.captions[i].split() if word in names]
        first, second = (names.index(word) for word in words)
        reverse = digits.captions[i].split(words[0])[1].startswith((" to the right", " on the right"))
        assert (first, second) == ((right, left) if reverse else (left, right)), digits.captions[i]


def test_ten_pairs_are_kept_from_training(digits: Dataset) -> None:
    assert digits.labels is not None
    train, test = (set(digits.labels[rows].tolist()) for rows in (digits.train, digits.test))
    assert len(mnist_pairs.UNSEEN) == 10
    assert test - train == set(mnist_pairs.UNSEEN)
    assert len(test) == 100
    assert {pair // 10 for pair in mnist_pairs.UNSEEN} == {pair % 10 for pair in mnist_pairs.UNSEEN} == set(range(10))
    assert seen(digits, torch.tensor([7, 8])).tolist() == [False, True]
    again = load("mnist-pairs", progress=False)
    assert again.fingerprint == digits.fingerprint


class Knowing:
    """In the place of a trained classifier: it knows every digit of MNIST by heart."""

    def __init__(self, mnist: Dataset) -> None:
        assert mnist.labels is not None
        self.known = {image.tobytes(): int(label) for image, label in zip(mnist.images, mnist.labels, strict=True)}

    def labels(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self.known[image.numpy().tobytes()] for image in images])


def test_the_score_of_pictures_by_an_exact_reader(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pictures asked for by the captions in turn: right ones, exchanged ones and wrong ones are counted as such."""
    monkeypatch.setattr("trilemma.evaluation.parts.captions.trained_classifier", Knowing)
    assert digits.labels is not None
    chosen = digits.test[:300]
    asked = torch.from_numpy(digits.labels[chosen])
    images = digits.batch(chosen)
    assert torch.equal(read_pairs(images), asked)
    left, right = images.split(28, 3)
    exchanged = torch.cat([right, left], 3)
    drawn = torch.cat([images[:200], exchanged[200:], images[1:101]])  # the last hundred are those of their neighbours
    real = SimpleNamespace(protocol=Protocol(metrics="captions"), dataset=digits, held_out_indices=chosen)
    pool = SimpleNamespace(images=drawn)
    told, silent = (Measured(real, pool, SimpleNamespace(captioned=c)) for c in (True, False))  # type: ignore[arg-type]
    found = {metric.name: number_of(metric, told) for metric in groups()["captions"]}
    wanted = torch.cat([asked, asked[:100]])
    shown = torch.cat([asked[:200], 10 * (asked[200:] % 10) + asked[200:] // 10, asked[1:101]])
    hit, known = shown == wanted, torch.tensor([int(pair) not in mnist_pairs.UNSEEN for pair in wanted])
    assert 200 <= int(hit.sum()) < 260 and 0 < int((~known).sum()) < 100
    for key, rows in (("text_accuracy", known | ~known), ("text_seen", known), ("text_unseen", ~known)):
        assert found[key].value == pytest.approx(float(hit[rows].double().mean())) and found[key].n == int(rows.sum())
    swapped = (shown == 10 * (wanted % 10) + wanted // 10) & ~hit
    share = f"{100 * float(swapped.double().mean()):.1f} %"
    assert f"the two digits are exchanged in {share}" in found["text_seen"].protocol
    assert [number_of(metric, silent) for metric in groups()["captions"]] == [None] * 3


@pytest.mark.slow
def test_the_score_of_real_pairs_and_of_wrong_ones(tmp_path: Path, digits: Dataset) -> None:
    """Held-out pairs obey their own captions, exchanged halves do not, and an untrained run is near chance."""
    assert digits.labels is not None
    chosen = digits.test[:500]
    right = torch.from_numpy(digits.labels[chosen])
    images = digits.batch(chosen)
    found = read_pairs(images)
    assert (found == right).float().mean() > 0.94
    left, other = images.split(28, 3)
    swapped = read_pairs(torch.cat([other, left], 3))
    assert (swapped == 10 * (right % 10) + right // 10).float().mean() > 0.94
    small = load("mnist-pairs", limit=640, progress=False)
    run = fitted(small, tmp_path / "run")
    protocol = Protocol(n=64, reference=64, metrics="captions", ladder="no")
    record = evaluate(run, protocol=protocol, options=QUICK, device="cpu")
    assert set(record["metrics"]) == set(record["floor"]) == {"text_accuracy", "text_seen", "text_unseen"}
    assert record["metrics"]["text_accuracy"]["value"] < 0.2
    assert record["floor"]["text_accuracy"]["value"] > 0.9
    assert record["metrics"]["text_seen"]["n"] + record["metrics"]["text_unseen"]["n"] == 64
