"""An extension of griffe: methods of nouns, such as `reset = reset_limits`, and their filters."""

from __future__ import annotations

from typing import Any

import griffe

NOUNS = ("api.nouns", "api.operator")
"""Modules whose classes list functions of a store."""


class Nouns(griffe.Extension):  # type: ignore[misc]
    """Replace each attribute of a class that is a function by the function without its store."""

    def on_package(self, *, pkg: griffe.Module, **_options: Any) -> None:
        """Replace the attributes once all modules are read."""
        classes = (item for name in NOUNS for item in pkg[name].classes.values())
        for noun in (item for item in classes if not item.is_alias):
            for name, item in list(noun.members.items()):
                found = self._function(pkg, item) if item.is_attribute else None
                if found is not None:
                    self._show_filters(pkg, found)
                    method = griffe.Function(
                        name,
                        lineno=item.lineno,
                        parameters=griffe.Parameters(
                            griffe.Parameter("self", kind=griffe.ParameterKind.positional_only),
                            *list(found.parameters)[1:],
                        ),
                        returns=found.returns,
                        docstring=found.docstring,
                    )
                    noun.set_member(name, method)

    @staticmethod
    def _show_filters(pkg: griffe.Module, function: Any) -> None:
        """Show the fields of `**filters: Unpack[Filters]` as parameters."""
        *parameters, last = list(function.parameters) or [None]
        if last is None or last.kind is not griffe.ParameterKind.var_keyword:
            return
        path = last.annotation.slice.canonical_path
        fields = pkg[path.removeprefix(f"{pkg.name}.")].all_members.values()
        function.parameters = griffe.Parameters(
            *parameters,
            *(
                griffe.Parameter(
                    item.name,
                    annotation=item.annotation,
                    kind=griffe.ParameterKind.keyword_only,
                    default="None",
                )
                for item in fields
                if item.is_attribute
            ),
        )

    @staticmethod
    def _function(pkg: griffe.Module, item: Any) -> griffe.Function | None:
        if not isinstance(item.value, griffe.ExprName | griffe.ExprAttribute):
            return None
        path = item.value.canonical_path
        found = pkg[path.removeprefix(f"{pkg.name}.")]
        found = found.final_target if found.is_alias else found
        if found.is_attribute and isinstance(found.value, griffe.ExprCall):
            # A function that is declared where it is not defined: `operation()(read_active)`.
            path = found.value.arguments[0].canonical_path
            found = pkg[path.removeprefix(f"{pkg.name}.")]
        return found if found.is_function else None
