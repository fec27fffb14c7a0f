"""The text of a call that makes a connection or an engine with this library, in the place of another one."""

from __future__ import annotations

import ast

import libcst as cst

from .converting import SIZES

# SQLAlchemy's options, and what a pool calls them.
_SECONDS = {"pool_timeout": "checkout_timeout", "pool_recycle": "max_age"}
_DROPPED = {*SIZES, *_SECONDS, "pool_use_lifo", "connect_args"}


def converted(node: cst.Call, package: str) -> cst.BaseExpression:
    """Return the call that takes the place of another one.

    :param package: how the file calls the library
    """
    func = node.func
    name = func.attr.value if isinstance(func, cst.Attribute) else func.value if isinstance(func, cst.Name) else ""
    if name != "create_engine":
        return node.with_changes(func=cst.parse_expression(f"{package}.connect"))
    given = {arg.keyword.value: _code(arg.value) for arg in node.args if arg.keyword is not None}
    url = next(_code(arg.value) for arg in node.args if arg.keyword is None)
    pool = [f"max_size={_size(given)}"]
    pool += [f"{_SECONDS[name]}={given[name]}" for name in _SECONDS if name in given and not _is_off(given[name])]
    pool.append(f'**sqlalchemy.make_url({url}).translate_connect_args(username="user")')
    pool += [f"**{given['connect_args']}"] if "connect_args" in given else []
    options = [f"{name}={value}" for name, value in given.items() if name not in _DROPPED]
    inner = "".join(f"        {line},\n" for line in pool)  # LibCST indents a block's lines
    outer = "".join(f"    {line},\n" for line in options)
    return cst.parse_expression(
        f"offload_db.contrib.sqlalchemy.create_engine(\n    {package}.OffloadPool.create(\n{inner}    ),\n{outer})"
    )


def _size(given: dict[str, str]) -> str:
    return str(sum(ast.literal_eval(given[name]) if name in given else default for name, default in SIZES.items()))


def _is_off(text: str) -> bool:
    """Tell whether a time means that there is none: ``pool_recycle=-1``."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return value is None or value <= 0


def _code(node: cst.CSTNode) -> str:
    return cst.Module([]).code_for_node(node)
