"""Read records from files: JSON in the formats used for data sets, and delimited tables."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_DELIMITERS = ",;\t|"


def json_content(text: str) -> Any:
    r"""Return the content of JSON; for JSON Lines and responses of the hub's rows API, the list of records.

    Raises:
        ValueError: if the text has none of these formats.

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
        json.dumps(content, ensure_ascii=False).encode()  # a lone surrogate raises a ValueError
    rows = content.get("rows") if isinstance(content, dict) else None
    if isinstance(rows, list) and all(isinstance(row, dict) and "row" in row for row in rows):
        return [row["row"] for row in rows]
    return content


def table_records(text: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the records of a table with a header, each with the number of the line in which it ends.

    The delimiter (comma, semicolon, tab or bar) is the one with which the header has most of the columns.

    Raises:
        csv.Error: if a quotation mark is not closed.
    """
    header = text.partition("\n")[0]
    found = {mark: len(set(next(csv.reader([header], delimiter=mark), [])) & set(columns)) for mark in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda mark: found[mark])
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for record in reader:
        yield reader.line_num, record
