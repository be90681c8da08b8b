import torch

from trilemma.noise import BatchNoise, ImageNoise, derive_seed


def test_a_row_depends_on_seed_and_index_alone() -> None:
    whole = ImageNoise(7, range(6))
    part = ImageNoise(7, [4, 2])
    assert torch.equal(whole.normal(3, 2)[[4, 2]], part.normal(3, 2))
    assert torch.equal(whole.uniform(5)[[4, 2]], part.uniform(5))
    assert not torch.equal(ImageNoise(7, [0]).normal(9), ImageNoise(8, [0]).normal(9))


def test_image_noise_has_the_law_it_names() -> None:
    noise = ImageNoise(0, range(400))
    normal, uniform, integers = noise.normal(100), noise.uniform(100), noise.integers(5, 100)
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert torch.bincount(integers.flatten(), minlength=5).float().div(40000).sub(0.2).abs().max() < 0.01


def test_processes_share_the_noise_of_one_batch() -> None:
    cpu = torch.device("cpu")
    whole = BatchNoise((0, "step", 3), 8, 0, 8, cpu)
    first, second = BatchNoise((0, "step", 3), 8, 0, 4, cpu), BatchNoise((0, "step", 3), 8, 4, 8, cpu)
    for draw in ("normal", "uniform"):
        together = torch.cat([getattr(first, draw)(2, 3), getattr(second, draw)(2, 3)])
        assert torch.equal(getattr(whole, draw)(2, 3), together)


def test_seeds_differ_by_every_part_of_the_key() -> None:
    keys = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a"), (0, "a", 1, 1)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
