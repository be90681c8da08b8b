from dataclasses import dataclass
from typing import Literal

import pytest

from trilemma.config import TrainConfig, decode, parse_text, to_dict


@dataclass(frozen=True)
class Inner:
    a: int = 1


@dataclass(frozen=True)
class Outer:
    inner: Inner
    rate: float = 0.5
    mode: Literal["x", "y"] = "x"
    pair: tuple[int, int] | None = None
    flag: bool = False
    names: tuple[str, ...] = ()


def test_what_is_written_reads_back() -> None:
    config = Outer(Inner(3), 2.0, "y", (4, 5), True, ("p", "q"))
    assert decode(Outer, to_dict(config), "here") == config


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"inner": {"b": 1}}, "unknown key 'b'"),
        ({"inner": {"a": "1"}}, "a must be int"),
        ({"inner": {}, "mode": "z"}, "one of x, y"),
        ({"inner": {}, "pair": [1]}, "2 values"),
        ({"inner": {}, "flag": 1}, "flag must be bool"),
        ({"inner": 3}, "must be a table"),
        ({}, "incomplete"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_place(record: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        decode(Outer, record, "config.json")
    assert "config.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_options_come_from_text() -> None:
    @dataclass(frozen=True)
    class Options:
        steps: int = 50
        eta: float = 0.0
        clip: bool = True

    assert parse_text(Options, {"steps": "20", "eta": "1", "clip": "no"}, "diffusion") == Options(20, 1.0, False)
    with pytest.raises(ValueError, match="no option --stops; it has: --steps, --eta, --clip"):
        parse_text(Options, {"stops": "20"}, "diffusion")
    with pytest.raises(ValueError, match="steps must be int, not '2.5'"):
        parse_text(Options, {"steps": "2.5"}, "diffusion")


@pytest.mark.parametrize("fields", [{"lr": 0.0}, {"batch": 0}, {"ema": 1.0}, {"clip": -1.0}, {"betas": (0.9, 1.0)}])
def test_training_settings_have_ranges(fields: dict) -> None:
    with pytest.raises(ValueError, match=f"train.{next(iter(fields))} must be"):
        TrainConfig(**fields)
