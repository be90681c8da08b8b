"""``trilemma check-family FAMILY``."""

from __future__ import annotations

from typing import Any

from cyclopts import App

from trilemma.cli.flags import Json, print_json
from trilemma.contract import check_family, shown
from trilemma.families import FAMILIES
from trilemma.families.family import Family
from trilemma.plugins import load_class
from trilemma.text import printable

app = App(
    name="check-family",
    help_epilogue="""Examples:

```
trilemma check-family mine.py:Mine
trilemma train mine.py:Mine photos/ --out runs/mine
trilemma compare photos/ --families mine.py:Mine,vae,gan --out report
trilemma sample runs/mine --family mine.py:Mine
```
""",
    help_format="markdown",
)


@app.default
def check(family: str, /, *, json: Json = False) -> None:
    """Check a family of your own against the contract that every family keeps.

    It says what it is; every parameter gets a gradient; samples have the right shape, type, levels and classes; image i
    depends on the seed and i alone; log p(x) is what it says it is. Each on small images and, where it takes them,
    vectors.

    Parameters
    ----------
    family
        path.py:Class, or the name of a family that is known
    """
    if family in FAMILIES:
        cls: Any = FAMILIES[family]
    elif ":" in family:
        cls = load_class(family)
    else:
        raise ValueError(f"there is no family {family!r}: write path.py:Class, or one of {', '.join(FAMILIES)}")
    if not issubclass(cls, Family) or "name" not in vars(cls):
        raise ValueError(f"{family} is no family: it must be a Family with a name")
    found = []
    for result in check_family(cls):
        where = f" ({shown(result.spec)})" if result.spec and result.check != "says what it is" else ""
        found.append({"check": result.check, "data": where.strip(" ()"), "fault": result.fault})
        if not json:
            print(printable(f"{'FAILS' if result.fault else 'ok   '} {result.check}{where}"), flush=True)
            if result.fault:
                print(printable(f"      {result.fault}"), flush=True)
    faults = [each for each in found if each["fault"]]
    if json:
        print_json({"family": cls.name, "checks": found})
    else:
        print(f"{cls.name} keeps the contract" if not faults else f"{len(faults)} of {len(found)} checks fail")
    if faults:
        raise SystemExit(1)
