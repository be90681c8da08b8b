"""The question to a GAN about its game: how hard each loss pulls at the generator."""

from __future__ import annotations

from trilemma.cli.query_asked import Asked, Reply
from trilemma.parallel import ranks
from trilemma.queries.saturation import draw_pull, pull


def ask_gradients(asked: Asked) -> Reply:
    model = asked.run.model(ranks(asked.device).device)
    answer = pull(model, batches=8 if asked.flags.n is None else asked.flags.n, seed=asked.seed)
    path = asked.picture("gradients")
    if asked.first:
        draw_pull(answer, path, asked.title("why non-saturating"))
    norms = {name: {"norm": norm, "error": error} for name, (norm, error) in answer.norms.items()}
    record = {"D(G(z))": answer.d, "gradient_norms": norms, "ratio": answer.ratio, "picture": str(path)}
    return Reply(record | {"batches": answer.batches, "batch": answer.batch}, [answer.verdict, str(path)])
