"""``trilemma query [QUESTION] RUN``: a subcommand for each question, its flags made from the question's fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, get_args, get_origin, get_type_hints

from cyclopts import App, Parameter

from trilemma.bars import Bars
from trilemma.cli.errors import refuse_unknown
from trilemma.cli.flags import Device, Json, given, print_json
from trilemma.families import FAMILIES
from trilemma.parallel import join
from trilemma.questions import Answer, Context, Question, answer, build, questions
from trilemma.run import Run, names_run
from trilemma.text import printable
from trilemma.validate import field_texts, parse_fields

app = App(
    name="query",
    help="""Ask a trained run one question; without one, what it can be asked, and log p(x) of held-out images.

    The answer says what it is: exact, a bound, an estimate, or undefined and why. It is kept in the run folder, as
    queries/QUESTION.json with its pictures, where evaluate and compare find it; --out puts it elsewhere.
    """,
    help_epilogue="""Examples:

```
trilemma query zoo/vae
trilemma query complete runs/pixelcnn --keep left --copies 6
trilemma query complete runs/diffusion photos/ --keep mask.png --labels true --guidance 2
trilemma query ood runs/pixelcnn fashion-mnist
trilemma query arithmetic runs/vae 9-4+1
trilemma query curve runs/diffusion -n 2000 --counts 1,2,5,10,20,50
trilemma query receptive runs/pixelrnn --position 14,10 --out field.svg
```
""",
    help_format="markdown",
)


@app.default
def query(run: Path, images: str | None = None, /, *, device: Device = "auto", json: Json = False) -> None:
    """Say what a run can be asked, and ask it for log p(x).

    Parameters
    ----------
    run
        a run folder, or zoo/NAME of one that ships with trilemma
    images
        anything that train takes; by default held-out images of the run's own data
    """
    if images in questions():
        raise ValueError(f"the question comes first: trilemma query {images} {run}")
    if not names_run(run) and not run.exists() and (near := get_close_matches(str(run), list(questions()), 1)):
        raise ValueError(f"{run} is neither a question nor a run folder: did you mean trilemma query {near[0]} RUN?")
    opened = Run.open(run)
    able = {name: cls.able(opened) for name, cls in questions().items()}
    if not json:
        print(f"{printable(run)} can be asked (trilemma query QUESTION {printable(run)}):")
        wide = max(map(len, able))
        for name, cls in questions().items():
            if able[name] is None:
                print(f"  {name:<{wide}}  {cls.sentence}")
        print()
    fields = {} if images is None else {"images": images}
    _ask(questions()["likelihood"], run, fields, {}, 0, None, device, json, {"questions": able})


def _ask(
    cls: type[Question],
    run: Path,
    fields: dict[str, Any],
    options: dict[str, str],
    seed: int,
    out: Path | None,
    device: str,
    json: bool,
    more: dict[str, Any] | None = None,
) -> None:
    """Ask, save, and print the answer."""
    whole = {name: value for name, value in fields.items() if name == cls.argument or isinstance(value, list)}
    texts = {name: str(value) for name, value in fields.items() if name not in whole}
    known = parse_fields(cls, texts, f"the question {cls.name}") | whole
    question = build(cls, known | ({"options": options} if options else {}))
    opened = Run.open(run)
    with join(device) as where, Bars() as bars:
        tell = (lambda done, total: bars.tell(opened.config.family, cls.name, done, total)) if where.first else None
        found = answer(question, Context(opened, seed, device, tell, out or opened.answers))
        if not where.first:
            return
        record = found.save(out)
    if json:
        print_json(record | (more or {}))
        return
    print("\n".join(printable(line) for line in found.lines()))
    for path in _paths(found, record, out):
        print(printable(path))


def _paths(found: Answer, record: dict[str, Any], out: Path | None) -> list[Path]:
    """The pictures and arrays that were written."""
    place = out or found.run.answers
    folder = place.parent if place.suffix else place
    files = [*record["figures"].values(), *([record["file"]] if "file" in record else [])]
    return [folder / name for name in files or [f"{place.stem if place.suffix else found.question.name}.json"]]


def _flags(cls: type[Question]) -> type:
    """A twin of a question in which every field may be left out: the flags that a user can set."""
    hints, texts, fields = get_type_hints(cls), field_texts(cls), []
    for field in dataclasses.fields(cls):
        if field.name in (cls.argument, "options"):
            continue
        names = ["-n", "--n", "--number"] if field.name == "n" else None
        text = texts.get(field.name, "")
        if field.default not in (None, False, "", dataclasses.MISSING):
            text += f" [default: {field.default}]"
        note = Parameter(name=names, help=text, negative=())
        fields.append((field.name, Annotated[Optional[_plain(hints[field.name])], note], None))  # noqa: UP045
    twin = dataclasses.make_dataclass(f"{cls.__name__}Flags", fields, frozen=True)
    twin.__module__ = __name__
    return twin


def _plain(hint: Any) -> Any:
    """The type of a flag for a field: words, numbers and choices as they are, all else as text."""
    options = [option for option in (get_args(hint) or (hint,)) if option is not type(None)]
    if get_origin(hint) is Literal:
        return hint
    if any(get_origin(option) is tuple and str in get_args(option) for option in options):
        return list[str]  # a flag that may be given several times
    if len(options) == 1 and (options[0] in (bool, int, float) or get_origin(options[0]) is Literal):
        return options[0]
    return str


def _command(cls: type[Question]) -> Callable[..., None]:
    """The subcommand of one question."""
    flags, texts = _flags(cls), field_texts(cls)
    word = Parameter(name=cls.argument.upper() or "X", help=texts.get(cls.argument, ""), show=bool(cls.argument))
    Given = Annotated[Optional[flags], Parameter(name="*")]  # type: ignore[valid-type] # noqa: UP045

    def command(
        run: Path,
        word: str | None = None,
        /,
        *,
        choices: Any = None,
        seed: int = 0,
        out: Path | None = None,
        device: Device = "auto",
        json: Json = False,
    ) -> None:
        drawing(run, word, choices=choices, seed=seed, out=out, device=device, json=json)

    def drawing(
        run: Path,
        word: str | None = None,
        /,
        *,
        choices: Any = None,
        seed: int = 0,
        out: Path | None = None,
        device: Device = "auto",
        json: Json = False,
        **options: str,
    ) -> None:
        refuse_unknown("query", app[cls.name], options, _completion_options())
        if word is not None and not cls.argument:
            raise ValueError(f"query {cls.name} asks the run alone: what is {word!r}?")
        fields = given(choices) | ({} if word is None else {cls.argument: word})
        _ask(cls, run, fields, options, seed, out, device, json)

    chosen: Callable[..., None] = drawing if "options" in texts else command
    chosen.__annotations__ |= {"word": Annotated[Optional[str], word], "choices": Given}  # noqa: UP045
    chosen.__doc__ = f"""{cls.sentence}

    {f"Can be asked of {', '.join(cls.families())}." if cls.capabilities else ""} {cls.paper}

    Parameters
    ----------
    run
        a run folder, or zoo/NAME of one that ships with trilemma
    seed
        of all that is random, and of the choice of images
    out
        a folder for the answer, or the path of its picture (.png or .svg); by default in the run folder
    options
        {texts.get("options", "")}
    """
    return chosen


def _completion_options() -> list[str]:
    """Flags of completion that are no sampling options."""
    classes = [getattr(family, "CompletionOptions", None) for family in FAMILIES.values()]
    return [f"--{field.name.replace('_', '-')}" for cls in classes if cls for field in dataclasses.fields(cls)]


for _name, _cls in questions().items():
    app.command(_command(_cls), name=_name, help_epilogue="")
