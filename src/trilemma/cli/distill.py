"""``trilemma distill RUN --out STUDENT``."""

from pathlib import Path
from typing import Annotated, Optional

from cyclopts import App, Parameter

from trilemma.bars import Bars
from trilemma.cli.flags import Device, Json, given, overrides, print_json
from trilemma.cli.interrupts import Interrupted
from trilemma.config import TrainConfig
from trilemma.parallel import join
from trilemma.text import printable
from trilemma.training import distill
from trilemma.training.driver import show

app = App(
    name="distill",
    help_epilogue="""Examples:

```
trilemma distill runs/diffusion --out runs/student --budget 10m
trilemma sample runs/student -n 64 --steps 4
trilemma query curve runs/student
trilemma distill runs/diffusion --out runs/student --budget 20m --resume
```
""",
    help_format="markdown",
)
TrainFlags = overrides(TrainConfig)


@app.default
def distill_run(
    run: Path,
    data: str | None = None,
    /,
    *,
    out: Path,
    budget: str = "10m",
    seed: int | None = None,
    guidance: Annotated[tuple[float, float] | None, Parameter(negative=())] = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
    tensorboard: Annotated[bool, Parameter(negative=())] = False,
    device: Device = "auto",
    json: Json = False,
    training: Annotated[Optional[TrainFlags], Parameter(name="train", group="Training")] = None,  # type: ignore[valid-type]  # noqa: UP045
) -> None:
    """Make a student of a diffusion or flow run, which draws in one to eight evaluations of the network.

    The student begins as the teacher, is trained on its images, and is a run like every other.

    Parameters
    ----------
    run
        the teacher's run folder
    data
        its images, where the run was imported without them
    out
        the student's run folder
    budget
        how long in all: 90s, 2m, 1h, 5000steps, 200kimages
    seed
        decides batches and noise; 0 by default
    guidance
        of a conditional run: the smallest and the largest weight to learn, 1 4 by default
    resume
        continue the student in --out
    tensorboard
        write the log for TensorBoard too (extra: trilemma[tensorboard])
    """
    with join(device) as where, Bars() as bars:
        student = distill(
            run,
            data,
            out=out,
            budget=budget,
            seed=seed,
            guidance=guidance,
            settings=given(training),
            resume=resume,
            tensorboard=tensorboard,
            device=device,
            progress=lambda report: show(bars, "student", report),
            say=bars.say,
        )
    if not where.first:
        return
    progress = student.progress()
    if json:
        print_json({"run": str(student.path), "teacher": str(run), **progress})
    else:
        where_to = printable(student.path)
        print(f"{where_to}: {progress['step']:,} steps, {progress['images']:,} images, {progress['seconds']:.0f} s")
    if student.stopped:
        raise Interrupted(student.stopped)
