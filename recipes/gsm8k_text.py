"""GSM8K's questions and answers as plain text, for fidelity, sensitivity and dial.

    python recipes/gsm8k_text.py --data test.jsonl --skip 300 --out gsm8k-heldout.txt

Leaves out the questions that an evaluation with ``--n 300`` answers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def text_of(lines: list[str], skip: int) -> str:
    """Question and answer of each line after the first ``skip``, a blank line between them.

    Raises:
        ValueError: no line is left, or one has no question and answer.
    """
    left = [line for line in lines if line.strip()][skip:]
    if not left:
        raise ValueError(f"{len(lines)} lines, and the first {skip} are left out: none is left")
    parts = []
    for number, line in enumerate(left, start=skip + 1):
        row = json.loads(line)
        if not {"question", "answer"} <= set(row):
            raise ValueError(f"line {number} has {sorted(row)}; it should have question and answer")
        parts.append(f"{row['question']}\n{row['answer']}")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's JSON lines")
    parser.add_argument("--skip", type=int, default=0, help="so many questions first")
    parser.add_argument("--out", type=Path, required=True, help="the text file")
    given = parser.parse_args()
    try:
        text = text_of(given.data.read_text(encoding="utf-8").splitlines(), given.skip)
        given.out.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        parser.error(f"{given.data}: {error}")
    print(f"{given.out}: {len(text):,} characters")


if __name__ == "__main__":
    main()
