"""Limits that several rooms share: of what goes through a model together, and of what is held in memory."""

from __future__ import annotations

#: Merged weights take the place of those that they are made of, which wait in the host's memory, where the merged ones
#: take more than this share of what is free (`lilora.adapters.adapters.Adapters.merge`).
MERGED_SHARE = 0.5
#: Pictures that go through the tower together. Fixed, so that features do not depend on who asks for them.
CHUNK = 32
#: Files below this size are held in memory, and so are pictures' features; larger ones are read as they are needed.
MEMO_BYTES = 512 * 2**20
#: Rows of a task that are embedded, at most, to know the task by; our choice.
EMBEDDED_ROWS = 1000
