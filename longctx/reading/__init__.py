"""Texts out of what people have: text in any encoding, Markdown, HTML, PDF, folders, stdin.

    document = read_document(Path("report.pdf"))
    document.text, document.notes, document.place(1200)

Knows no model and no tokens. What is hostile (HTML, PDF) is read by processes that may be ended.
"""

from longctx.reading.document import Place, ReadDocument, ReadingError
from longctx.reading.read import read_document, read_word

__all__ = ["Place", "ReadDocument", "ReadingError", "read_document", "read_word"]
