from typing import Any

multiplies_packed: int

def product(
    kind: int,
    engine: str | None,
    itemsize: int,
    threads: int,
    N: int,
    n: int,
    c: int,
    columns: int,
    bits: Any,
    factor: Any,
    X: Any,
    scale: Any,
    out: Any,
    /,
) -> None: ...
def packed(
    itemsize: int,
    n: int,
    c: int,
    first: int,
    stop: int,
    shares: int,
    data: Any,
    X: Any,
    Y: Any,
    /,
) -> None: ...
def engines() -> list[str]: ...
