"""The text of a call that makes a connection, a pool or an engine with this library, in the place of another one."""

from __future__ import annotations

import ast

import libcst as cst

from .converting import OF_CONNECTOR_POOL, SIZES
from .pool_file import FUNCTIONS, NAME

# SQLAlchemy's options, and what a pool calls them.
_SECONDS = {"pool_timeout": "checkout_timeout", "pool_recycle": "max_age"}
_DROPPED = {*SIZES, *_SECONDS, "pool_use_lifo", "poolclass", "connect_args"}


def kept(node: cst.Call, package: str, driver: str) -> cst.BaseExpression:
    """Return what makes a connection that is kept for all callers.

    :param package: how the file calls the library
    """
    if driver == "pymysql":
        return node.with_changes(func=cst.parse_expression(f"{package}.connect"))
    first = [cst.parse_expression(driver), cst.parse_expression("1")]
    names = [None, cst.Name("max_size")]
    arguments = [_argument(*pair) for pair in zip(first, names, strict=True)]
    func = cst.parse_expression(f"{package}.OffloadPool.create")
    made = node.with_changes(func=func, args=[*arguments, *node.args])
    return cst.Call(cst.Attribute(made, cst.Name("connection")))


def each(node: cst.Call, driver: str) -> cst.BaseExpression:
    """Return what takes the place of a call that connects anew for each caller."""
    return node.with_changes(func=cst.parse_expression(f"{NAME}.{FUNCTIONS[driver]}"))


def pool(node: cst.Call, package: str) -> cst.BaseExpression:
    """Return what makes a pool in the place of mysql-connector's."""
    given = {arg.keyword.value: arg.value for arg in node.args if arg.keyword is not None}
    size = given.get("pool_size", cst.Integer("5"))
    first = [_argument(cst.parse_expression("mysql.connector"), None), _argument(size, cst.Name("max_size"))]
    rest = [arg for arg in node.args if arg.keyword is None or arg.keyword.value not in OF_CONNECTOR_POOL]
    args = [*first, *rest]
    args[-1] = args[-1].with_changes(comma=node.args[-1].comma if node.args else cst.MaybeSentinel.DEFAULT)
    return node.with_changes(func=cst.parse_expression(f"{package}.OffloadPool.create"), args=args)


def taken(node: cst.Call) -> cst.BaseExpression:
    """Return what takes a connection from a pool in the place of mysql-connector's ``get_connection()``."""
    assert isinstance(node.func, cst.Attribute)
    return node.with_changes(func=node.func.with_changes(attr=cst.Name("connection")))


def _argument(value: cst.BaseExpression, name: cst.Name | None) -> cst.Arg:
    no_space = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
    return cst.Arg(value, name, equal=no_space) if name is not None else cst.Arg(value)


def engine(node: cst.Call, package: str, *, has_query: bool) -> cst.BaseExpression:
    """Return what makes an engine on a pool.

    :param package: how the file calls the library
    :param has_query: whether the URL has settings, too
    """
    given = {arg.keyword.value: _code(arg.value) for arg in node.args if arg.keyword is not None}
    url = next(_code(arg.value) for arg in node.args if arg.keyword is None)
    pool = [f"max_size={_size(given)}"]
    pool += [f"{_SECONDS[name]}={given[name]}" for name in _SECONDS if name in given and not _is_off(given[name])]
    pool.append(f'**sqlalchemy.make_url({url}).translate_connect_args(username="user")')
    pool += [f"**sqlalchemy.make_url({url}).query"] if has_query else []
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
