"""The contract that every family keeps, over all families."""

from __future__ import annotations

import pytest
import torch

from trilemma.contract import CHECKS, VECTORS, Check, built, quick, shown, specs_of
from trilemma.families import FAMILIES
from trilemma.images import Spec
from trilemma.presets import PRESETS, SIZES, configure
from trilemma.sampling import sample

VECTOR_NAMES = [name for name, cls in FAMILIES.items() if cls.vectors]
names = pytest.mark.parametrize("name", list(FAMILIES))


everything = pytest.mark.parametrize(
    ("name", "spec"),
    [pytest.param(name, spec, id=f"{name}-{shown(spec)}") for name in FAMILIES for spec in specs_of(FAMILIES[name])],
)


@names
def test_has_presets_of_every_size(name: str) -> None:
    assert set(SIZES) <= set(vars(PRESETS[name]))


@everything
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(name: str, spec: Spec, check: Check) -> None:
    check(FAMILIES[name], spec)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in VECTOR_NAMES])
def test_a_family_of_pixels_refuses_vectors_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"^an autoregressive family predicts .*: use vae, gan, diffusion or flow$"):
        configure(name, "tiny", VECTORS[0])


@names
def test_labels_reach_the_samples(name: str) -> None:
    """Moving the embedding of one class changes its images and no other's."""
    model = built(FAMILIES[name], Spec((1, 8, 8), classes=3)).eval()
    embeddings = [m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.num_embeddings == 4]
    assert embeddings, "labels are embedded with one row for 'no class'"
    with torch.no_grad():
        for parameter in model.parameters():  # zero-initialised outputs would hide every input
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        before = [sample(model, 4, labels=[k], options=quick(FAMILIES[name]), block=4).images for k in (1, 2)]
        for embedding in embeddings:
            embedding.weight[1] += 3.0
        after = [sample(model, 4, labels=[k], options=quick(FAMILIES[name]), block=4).images for k in (1, 2)]
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
