"""All questions as a page of documentation, made from their classes."""

from __future__ import annotations

import dataclasses

from trilemma.families import FAMILIES
from trilemma.questions.question import Question
from trilemma.validate import field_texts

HEAD = """# Questions

What a trained run can be asked. On the command line `trilemma query RUN` lists what this run can be asked, and
`trilemma query QUESTION RUN` asks; in Python `trilemma.ask(run, "question", field=value)` or `run.ask(…)` returns an
`Answer` with numbers, sentences, tables, arrays and figures. This page is made from the questions themselves
(`python -m trilemma.questions > docs/questions.md`).
"""


def page() -> str:
    """Markdown: each question with its sentence, who can be asked, its paper and its fields."""
    from trilemma.questions import questions

    return HEAD + "".join(_entry(cls) for cls in questions().values())


def _entry(cls: type[Question]) -> str:
    able = cls.families()
    who = "any family" if len(able) == len(FAMILIES) else ", ".join(able)
    word = f" {cls.argument.upper()}" if cls.argument else ""
    drawn = " and ".join(kind for kind, fits in (("images", cls.images_too), ("vectors", cls.vectors_too)) if fits)
    lines = [
        f"\n## `{cls.name}`: {cls.title}\n",
        f"{cls.sentence}\n",
        f"    trilemma query {cls.name} RUN{word}\n",
        f"Of {who}; {drawn}." + (f" {cls.paper}." if cls.paper else "") + "\n",
    ]
    texts = field_texts(cls)
    for field in dataclasses.fields(cls):
        plain = field.default in (None, "", False, dataclasses.MISSING)
        lines.append(f"- `{field.name}`{'' if plain else f' ({field.default})'}: {texts.get(field.name, '')}")
    return "\n".join(lines) + "\n"
