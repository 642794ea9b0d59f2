"""What FlashInfer's functions take, from the text of its sources (FLASHINFER_SOURCE)."""

import ast
import functools
import os
import types

SOURCE = os.environ["FLASHINFER_SOURCE"]


@functools.cache
def tree(path):
    with open(os.path.join(SOURCE, "flashinfer", path), encoding="utf8") as file:
        return ast.parse(file.read())


def function(path, name):
    """The definition of a function or of a method; of several the last, which has the body."""
    body = tree(path).body
    for part in name.split("."):
        node = [each for each in body if getattr(each, "name", None) == part][-1]
        body = node.body
    return node


@functools.cache
def parameters(path, name):
    """Names of positional parameters, and defaults by name, None where they are no literal."""
    node = function(path, name)
    spec = node.args

    def literal(value):
        try:
            return ast.literal_eval(value)
        except ValueError:
            return None

    positional = [arg.arg for arg in spec.posonlyargs + spec.args]
    defaults = dict(zip(positional[len(positional) - len(spec.defaults) :], spec.defaults))
    keywords = [arg.arg for arg in spec.kwonlyargs]
    defaults.update(zip(keywords, spec.kw_defaults))
    # Parameters that were positional once are handed on by a decorator, and lie in its call.
    for decorator in node.decorator_list:
        for each in ast.walk(decorator):
            if isinstance(each, ast.List) and all(isinstance(x, ast.Constant) for x in each.elts):
                positional += [x.value for x in each.elts if x.value not in positional]
    known = positional + keywords
    values = {key: literal(value) for key, value in defaults.items() if value is not None}
    return positional, {**dict.fromkeys(known), **values}, spec.vararg


def said(path, name):
    """Calls a function of ours with everything that a call of theirs says, by name."""

    def decorate(ours):
        @functools.wraps(ours)
        def call(*args, **kwargs):
            positional, defaults, vararg = parameters(path, name)
            names = [each for each in positional if each != "self"]
            own, args = (args[:1], args[1:]) if "self" in positional else ((), args)
            extra = args[len(names) :]
            if extra and vararg is None:
                raise TypeError(f"{name}: too many arguments")
            values = {**defaults, **dict(zip(names, args)), **kwargs}
            values.pop("self", None)
            return ours(*own, types.SimpleNamespace(**values, extra=extra))

        return call

    return decorate
