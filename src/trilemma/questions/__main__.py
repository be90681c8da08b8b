"""``python -m trilemma.questions`` prints docs/questions.md."""

from trilemma.questions.pages import page

print(page(), end="")
