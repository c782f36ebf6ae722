"""Reads a pickle as data: nothing that it names is looked up, and nothing in it can run.

``torch.load(weights_only=True)`` runs no code of a file either, but calls functions that it knows: 60 bytes make it
fill any memory, and one class in the state of an optimizer makes it refuse the weights beside it. Here ``pickletools``
of the standard library parses the pickle, and every object stays a description.
"""

from __future__ import annotations

import itertools
import pickletools
import warnings
from dataclasses import dataclass, field
from typing import Any, BinaryIO


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """A class or function that a pickle names, such as ``collections.OrderedDict``."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """An object that a pickle would make by a class or a function.

    Attributes:
        by: Name of the class or function; empty if it is none.
        args: Arguments of the call.
        items: Entries that would be put into it, as into a dictionary.
    """

    by: str
    args: list[Any]
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Something that lies beside the pickle, by what the pickle says of it."""

    key: Any


def read_pickle(stream: BinaryIO, stored: list[Stored] | None = None, most_steps: int = 4_000_000) -> Any:
    """Reads one pickle and leaves the stream behind it.

    Tuples and sets come as lists; entries of dictionaries whose keys are not plain are left out.

    Args:
        stream: The pickle.
        stored: Takes all that lies beside the pickle.
        most_steps: Steps of the pickle at most. A checkpoint of 3,000 tensors and their optimizer has a tenth of the
            default.

    Returns:
        Plain data, with `Named`, `Made` and `Stored` in it.

    Raises:
        ValueError, LookupError, TypeError: It is no pickle, or not a whole one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in texts
        return _read(stream, stored, most_steps)


def _read(stream: BinaryIO, stored: list[Stored] | None, most_steps: int) -> Any:
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[int, Any] = {}
    arg: Any
    for opcode, arg, _ in itertools.islice(pickletools.genops(stream), most_steps):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marked.append(stack)
                stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                stack = marked.pop()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_TUPLE" | "EMPTY_SET":
                stack.append([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [stack[-size:]]
            case "TUPLE" | "LIST" | "FROZENSET":
                stack, items = marked.pop(), stack
                stack.append(items)
            case "DICT":
                stack, items = marked.pop(), stack
                stack.append({})
                _put(stack[-1], items)
            case "SETITEM":
                items = [stack.pop(-2), stack.pop()]
                _put(stack[-1], items)
            case "SETITEMS":
                stack, items = marked.pop(), stack
                _put(stack[-1], items)
            case "APPEND":
                _extend(stack[-2], [stack.pop()])
            case "APPENDS" | "ADDITEMS":
                stack, items = marked.pop(), stack
                _extend(stack[-1], items)
            case "GLOBAL":
                stack.append(Named(arg.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                stack[-2:] = [Named(f"{stack[-2]}.{stack[-1]}")]
            case "REDUCE" | "NEWOBJ":
                stack[-2:] = [_made(stack[-2], stack[-1])]
            case "NEWOBJ_EX":
                stack[-3:] = [_made(stack[-3], stack[-2])]
            case "OBJ":
                stack, items = marked.pop(), stack
                stack.append(_made(items[0], items[1:]))
            case "INST":
                stack, items = marked.pop(), stack
                stack.append(Made(arg.replace(" ", ".", 1), items))
            case "BUILD":  # the state of an object that is not made
                stack.pop()
            case "PERSID" | "BINPERSID":
                beside = Stored(stack.pop() if opcode.arg is None else arg)
                stack.append(beside)
                if stored is not None:
                    stored.append(beside)
            case _ if opcode.arg is not None and not opcode.name.startswith("EXT"):
                stack.append(arg)
            case _:
                raise ValueError(f"a pickle with {opcode.name}")
    raise ValueError(f"a pickle of more than {most_steps:,} steps")


def _made(by: Any, args: Any) -> Made:
    if isinstance(by, Stored) and isinstance(by.key, list):  # a module's class, which torch once kept with its source
        by = next((part for part in by.key if isinstance(part, Named)), None)
    return Made(by.name if isinstance(by, Named) else "", args if isinstance(args, list) else [args])


def _put(target: Any, items: list[Any]) -> None:
    """Puts keys and values, in turn, into a dictionary; what is none takes none."""
    into = target.items if isinstance(target, Made) else target
    if isinstance(into, dict):
        plain = (str, int, float, bool, type(None))
        into.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, plain))


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
