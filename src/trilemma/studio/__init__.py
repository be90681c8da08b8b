"""The studio: a page on this machine where one trains, watches, plays, asks, compares and judges.

It stands on top of the house like `cli/` and could be deleted without loss. ``server.py`` puts the rooms together
behind one ``guard.py``; each room is a file of routes here and modules in ``static``. What is trained here is trained
by the command line's own verbs in processes of their own (``jobs.py``), so that either goes on with what the other
began.

The pages are plain modules and one style sheet, without a build step or a framework. A strict policy (no script or
style inside a page, nothing from elsewhere), frames of a latent plane as fast as they are drawn, the keyboard and the
exact timing of a study are easier held by a few files that one can read than through a framework's widgets.
"""
