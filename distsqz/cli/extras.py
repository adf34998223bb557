"""The optional parts of an installation, and which of them an import lacks."""

from __future__ import annotations

EXTRAS = {
    "ray": ("ray", "grpc", "yaml", "psutil"),
    "lab": ("pyroute2",),
    "figures": ("matplotlib", "tabulate", "jinja2"),
    "weights": ("PIL", "safetensors", "zstandard"),
}
"""Modules that come with each extra of pyproject.toml."""


def missing_extra(error: BaseException | None) -> str | None:
    """The extra that has the module whose import failed; None where the failure has another cause."""
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            module = error.name.partition(".")[0]
            return next((extra for extra, modules in EXTRAS.items() if module in modules), None)
        error = error.__cause__ or error.__context__
    return None


def advice(extra: str) -> str:
    """The line of an error that says what to install."""
    return f"this needs the extra {extra!r}, which is not installed: pip install 'distsqz[{extra}]'"
