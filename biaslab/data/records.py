"""Records of files: JSON in the forms that data sets come in, and tables with some delimiter."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DELIMITERS = ",;\t|"


def json_content(text: str) -> Any:
    r"""Return what JSON holds; of JSON Lines, and of the rows that the hub's server answers with, the list of records.

    Raises:
        ValueError: if the text is neither.

    >>> json_content('{"a": 1}\n{"a": 2}'), json_content('{"rows": [{"row_idx": 0, "row": {"a": 1}}]}')
    ([{'a': 1}, {'a': 2}], [{'a': 1}])
    """
    try:
        content = json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2 or not all(line.lstrip().startswith("{") for line in lines[:2]):
            raise
        content = [json.loads(line) for line in lines]
    if _SURROGATE.search(text):
        json.dumps(content, ensure_ascii=False).encode()  # half a character, which no text has, is a ValueError
    rows = content.get("rows") if isinstance(content, dict) else None
    if isinstance(rows, list) and all(isinstance(row, dict) and "row" in row for row in rows):
        return [row["row"] for row in rows]
    return content


def table_records(text: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the records of a table with a header, each with the number of the line that it ends in.

    The delimiter is the one of comma, semicolon, tab and bar that gives the header most of the columns.

    Raises:
        csv.Error: if a quotation is not closed.
    """
    header = text.partition("\n")[0]
    found = {mark: len(set(next(csv.reader([header], delimiter=mark), [])) & set(columns)) for mark in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda mark: found[mark])
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for record in reader:
        yield reader.line_num, record
