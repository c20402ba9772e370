"""Documents with vectors: an index and SQLite in one folder.

:class:`Store` is what ``vecidx.langchain``, ``vecidx.llama_index`` and
``vecidx.haystack`` are thin layers over; it needs none of them.
"""

from vecidx.stores.conditions import And, Compare, Not, Or
from vecidx.stores.documents import Document
from vecidx.stores.store import Hit, Store

__all__ = ["And", "Compare", "Document", "Hit", "Not", "Or", "Store"]
