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
    machine = _Machine([] if stored is None else stored)
    for opcode, arg, _ in itertools.islice(pickletools.genops(stream), most_steps):
        if opcode.name == "STOP":
            return machine.stack.pop()
        if machine.moves(opcode.name, arg) or machine.collects(opcode.name) or machine.makes(opcode.name, arg):
            continue
        if opcode.arg is None or opcode.name.startswith("EXT"):
            raise ValueError(f"a pickle with {opcode.name}")
        machine.stack.append(arg)  # plain data
    raise ValueError(f"a pickle of more than {most_steps:,} steps")


class _Machine:
    """The stack that a pickle works on. Each kind of step returns whether it knows an opcode.

    Attributes:
        stack: Values since the last mark.
        stored: Takes all that lies beside the pickle.
    """

    def __init__(self, stored: list[Stored]) -> None:
        self.stack: list[Any] = []
        self.stored = stored
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def moves(self, name: str, arg: Any) -> bool:
        """Moves what is on the stack, or puts a constant there."""
        stack, memo = self.stack, self._memo
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marked.append(stack)
                self.stack = []
            case "POP" | "BUILD":  # BUILD takes the state of an object, which is not made
                stack.pop()
            case "POP_MARK":
                self._since_mark()
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
                stack.append(name == "NEWTRUE")
            case _:
                return False
        return True

    def collects(self, name: str) -> bool:
        """Makes or fills a dictionary or a list."""
        stack = self.stack
        match name:
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_TUPLE" | "EMPTY_SET":
                stack.append([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                stack[-size:] = [stack[-size:]]
            case "TUPLE" | "LIST" | "FROZENSET":
                items = self._since_mark()
                self.stack.append(items)
            case "DICT":
                items = self._since_mark()
                self.stack.append({})
                _put(self.stack[-1], items)
            case "SETITEM":
                items = [stack.pop(-2), stack.pop()]
                _put(stack[-1], items)
            case "SETITEMS":
                items = self._since_mark()
                _put(self.stack[-1], items)
            case "APPEND":
                _extend(stack[-2], [stack.pop()])
            case "APPENDS" | "ADDITEMS":
                items = self._since_mark()
                _extend(self.stack[-1], items)
            case _:
                return False
        return True

    def makes(self, name: str, arg: Any) -> bool:
        """Describes a class, an object, or something that lies beside the pickle."""
        stack = self.stack
        match name:
            case "GLOBAL":
                stack.append(Named(arg.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                stack[-2:] = [Named(f"{stack[-2]}.{stack[-1]}")]
            case "REDUCE" | "NEWOBJ":
                stack[-2:] = [_made(stack[-2], stack[-1])]
            case "NEWOBJ_EX":
                stack[-3:] = [_made(stack[-3], stack[-2])]
            case "OBJ":
                items = self._since_mark()
                self.stack.append(_made(items[0], items[1:]))
            case "INST":
                items = self._since_mark()
                self.stack.append(Made(arg.replace(" ", ".", 1), items))
            case "PERSID" | "BINPERSID":
                beside = Stored(arg if name == "PERSID" else stack.pop())
                stack.append(beside)
                self.stored.append(beside)
            case _:
                return False
        return True

    def _since_mark(self) -> list[Any]:
        """Takes the values since the last mark from the stack."""
        items, self.stack = self.stack, self._marked.pop()
        return items


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
