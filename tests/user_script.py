"""A user's script that touches every public name; it must pass pyright in strict mode."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import trilemma

pictures = np.zeros((100, 32, 32, 3), np.uint8)
data: trilemma.Dataset = trilemma.load("mnist", size=(32, 32), limit=1000)
own = trilemma.load(pictures, labels=[0, 1] * 50)
shown = trilemma.load([Image.new("L", (8, 8)) for _ in range(20)], split=False)
batches = trilemma.load(torch.rand(8, 1, 32, 32) for _ in range(4))
spec: trilemma.Spec = data.spec(conditional=True)
names = list(trilemma.FAMILIES)

run: trilemma.Run = trilemma.train(
    "diffusion",
    own,
    out=Path("runs") / "diffusion",
    budget=timedelta(minutes=5),
    model={"width": 32},
    settings={"batch": 16},
    progress="bar",
    say=lambda line: print(line),
)
drawn = trilemma.sample("runs/diffusion", 16, options={"steps": 20}, progress=lambda done, total: print(done / total))
print(run, drawn, drawn.images.shape, drawn.images_per_second, spec.dims, names)
trilemma.save_png(trilemma.grid(drawn.images, levels=drawn.spec.levels), "samples.png")

student: trilemma.Run = trilemma.distill(run, out=Path("runs") / "student", budget="5m", progress="bar")
print(trilemma.sample(student, 16, options={"steps": 4}))

found = trilemma.log_likelihood(run, drawn.images.float() / 255, progress="bar")
if found.nats is not None and found.mean is not None:
    print(found.kind, float(found.nats.mean()), found.mean[0], batches, shown)

record = trilemma.evaluate(run, protocol={"n": 500}, options={"steps": 20}, progress="bar")
print(record["metrics"]["frechet"]["value"])
trilemma.evaluate(pictures, own, protocol=trilemma.Protocol(n=100))

answer: trilemma.Answer = trilemma.ask(run, "complete", keep="top")
print(answer, trilemma.__version__)

number = trilemma.fid("generated/", "photos/", preprocessing="pytorch-fid")
print(number.value, number.error, number.flag)


def mine(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


trilemma.evaluate(mine, data)
beside = trilemma.compare(runs=["runs/vae", run], samples={"mine": mine, "others": "x.npz"}, against=data, out="page")
for row in trilemma.overview(beside.parent).rows:
    print(row.title, row.sentence, row.marks["quality"].number.value)

page: Path = trilemma.compare(data, out="report", families="vae, gan", budget=60, protocol={"n": 500})
print(page.read_text("utf-8")[:100])

shipped: trilemma.Run = trilemma.zoo("vae")
print(trilemma.zoo()[0], shipped.pack("packed").path)
