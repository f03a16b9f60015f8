"""Markdown tables, printed line by line as results come in."""


def heading(*names: str) -> None:
    """The first two lines of a table."""
    row(*names)
    row(*["---"] * len(names))


def row(*cells: object) -> None:
    """A line of a table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
