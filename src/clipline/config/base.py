"""Read a YAML file into strict settings. Every error names the file, the key, what was found and what is allowed."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML, YAMLError

from clipline.config.old_keys import translate
from clipline.errors import UsageError, shorten

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Frozen, strict settings; an unknown key is an error that names the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values
        values = translate(cls.__name__, values, rename=bool(info.context))
        for key in values:
            if key not in cls.model_fields:
                raise unknown_key(str(key), list(cls.model_fields))
        return values

    def require(self, condition: bool, message: str) -> None:
        """Inside a validator: fail with `message` unless `condition` holds."""
        if not condition:
            raise PydanticCustomError("combination", "{message}", {"message": message})

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read `path` into these settings. Raises UsageError that names the file and the key."""
        return validate(cls, read_yaml(path), str(path))


def unknown_key(key: str, allowed: list[str]) -> PydanticCustomError:
    """The error for a key that is not in `allowed`; it suggests the most similar allowed key, if one is similar."""
    key = shorten(key)
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f" (did you mean `{near[0]}`?)" if near else ""
    message = f"unknown key `{key}`{hint}; allowed: {', '.join(allowed) or 'none'}"
    return PydanticCustomError("unknown_key", "{message}", {"message": message})


# What ruamel raises beside YAMLError: for a 13th month, a mapping as a key, bytes that are not UTF-8.
_YAML_FAULTS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError)


def read_yaml(path: Path) -> Any:
    """Parse YAML 1.2 as DVC does, so that both read the same numbers. Raises UsageError that names the file."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except YAMLError as error:
        raise UsageError(f"{path}{_yaml_fault(error)}") from None
    except RecursionError:
        raise UsageError(f"{path}: not valid YAML: lists or mappings are nested too deep") from None
    except _YAML_FAULTS as error:
        raise UsageError(f"{path}: not valid YAML: {shorten(' '.join(str(error).split()))}") from None


def _yaml_fault(error: YAMLError) -> str:
    """The line and the problem; the rest of ruamel's message quotes the line and addresses programmers."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    line = f": line {mark.line + 1}" if mark else ""
    return f"{line}: not valid YAML: {shorten(' '.join(str(problem or error).split()))}"


def validate(kind: Any, values: Any, where: str, *, from_earlier_version: bool = False) -> Any:
    """Check `values` against `kind`, a Settings class or a union of them, and return an instance of it.

    where: the file, for error messages. from_earlier_version: read renamed keys under their old names too (`old_keys`);
    by default they are an error, so that people update their files.
    Raises UsageError with one line per fault: `where`, the key, what was found and what is allowed.
    """
    try:
        return TypeAdapter(kind).validate_python(values, context={"rename": True} if from_earlier_version else None)
    except ValidationError as error:
        faults = [(_key(fault["loc"], values, fault["type"] == "missing"), fault) for fault in error.errors()]
        raise UsageError(*(_line(key, fault, where) for key, fault in _one_per_key(faults))) from None


def _one_per_key(faults: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """One fault for each key: the first one, and none for a mapping if there is one for a key inside it.

    Where a value may be of two kinds, pydantic reports the faults under each kind.
    """
    first: dict[str, Any] = {}
    for key, fault in faults:
        first.setdefault(key, fault)
    return [(key, fault) for key, fault in first.items() if not any(other.startswith(f"{key}.") for other in first)]


def _line(key: str, fault: Any, where: str) -> str:
    location = f"{where}: {key}" if key else where
    if fault["type"] == "missing":
        return f"{location}: this key is required and missing"
    if fault["type"] in {"unknown_key", "combination"}:
        return f"{location}: {fault['msg']}"
    if fault["type"].startswith("union_tag"):
        context = fault["ctx"]
        tag, value = context["discriminator"].strip("'"), context.get("tag")
        wanted = "is required and missing"
        if value:
            wanted = f"should be one of {context['expected_tags']}, found {_shown(value)}"
        return f"{location}{'.' if key else ': '}{tag}: {wanted}"
    message = fault["msg"].replace("Input should be", "should be").replace("should be None", "should be null")
    if fault["type"] in {"model_type", "model_attributes_type"}:
        message = "should be a mapping (`key: value` lines)"
    return f"{location}: {message}, found {_shown(fault['input'])}"


def _shown(value: Any) -> str:
    """A value as YAML writes it, or its kind."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except ValueError:
        return "a number of too many digits"
    return shorten(text)


def _key(loc: tuple, values: Any, missing: bool) -> str:
    """The key's path as the file has it: pydantic's location also holds tags of unions, which the file lacks."""
    parts = []
    for position, part in enumerate(loc):
        in_mapping = isinstance(values, dict) and part in values
        inside = in_mapping or (isinstance(values, list) and isinstance(part, int))
        if inside:
            values = values[part]
        if inside or (missing and position == len(loc) - 1):
            parts.append(str(part))
    return ".".join(parts)


def repository_root() -> Path:
    """The folder that relative paths in settings start from: DVC_ROOT in a DVC stage, else the current folder.

    `dvc exp run --temp` works in a copy elsewhere, but DVC_ROOT stays the repository.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


def resolve(path: str | Path) -> Path:
    """`path` from settings as an absolute path; a leading `~` is the home folder.

    Raises UsageError for what cannot be a path, such as `~` before an unknown user, a NUL character or a too long name.
    """
    try:
        resolved = (repository_root() / Path(path).expanduser()).resolve()
        resolved.exists()
    except (RuntimeError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"'{shorten(path)}': not a path on this machine: {reason}") from None
    return resolved
