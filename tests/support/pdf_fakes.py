"""PDFs written by hand, so that each test knows every byte of what it reads."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

import pypdf


def pdf(pages: Sequence[str], *, contents: bytes | None = None) -> bytes:
    """One line of text a page; '' is a page without text. `contents` is what every page draws."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for index, text in enumerate(pages):
        drawn = contents
        if drawn is None:
            escaped = text.encode("cp1252").replace(b"(", rb"\(").replace(b")", rb"\)")
            drawn = b"BT /F1 12 Tf 72 720 Td (" + escaped + b") Tj ET" if text else b""
        packed = zlib.compress(drawn, 9)
        objects += [
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            b"/Resources << /Font << /F1 3 0 R >> >> "
            + f"/Contents {5 + 2 * index} 0 R >>".encode(),
            f"<< /Length {len(packed)} /Filter /FlateDecode >>\nstream\n".encode()
            + packed
            + b"\nendstream",
        ]
    written, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(written))
        written += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = len(written)
    size = len(objects) + 1
    written += f"xref\n0 {size}\n0000000000 65535 f \n".encode()
    written += b"".join(f"{place:010} 00000 n \n".encode() for place in places)
    return written + (
        f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n".encode()
    )


def encrypted(pages: Sequence[str], password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(pages)))
    writer.encrypt(password, algorithm="RC4-128")
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()
