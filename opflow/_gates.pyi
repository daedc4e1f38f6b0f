from typing import Any

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
def engines() -> list[str]: ...
