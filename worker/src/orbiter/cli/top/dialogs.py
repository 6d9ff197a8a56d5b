"""Dialogs: what the screen asks before it does something, and by which status tasks are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from orbiter.distributed.models import TaskStatus

if TYPE_CHECKING:
    from textual.app import ComposeResult

_ALL = "all"


class Confirm(ModalScreen[bool]):
    """Asks whether something shall be done; only ``y`` does it.

    Args:
        question: What is asked, with the name of what it would be done to.
        effect: What that does.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,q", "dismiss(False)", "No"),
    ]

    def __init__(self, question: str, effect: str) -> None:
        super().__init__()
        self.question = question
        self._effect = effect

    def compose(self) -> ComposeResult:
        """Draw the question."""
        with Vertical():
            yield Static(Text(self.question, style="bold"), markup=False)
            yield Static(Text(f"\n{self._effect}\n\ny yes   n no"), markup=False)


class ChooseStatus(ModalScreen[str]):
    """Asks for a status; gives nothing for all of them.

    Args:
        chosen: The one that is chosen now.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,f", "keep", "Keep")]

    def __init__(self, chosen: str) -> None:
        super().__init__()
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        """Draw the list."""
        names = [_ALL, *TaskStatus]
        with Vertical():
            yield Static("Show which tasks? Enter chooses, Esc keeps.", markup=False)
            found = OptionList(*(Option(name, id=name) for name in names))
            found.highlighted = names.index(self._chosen or _ALL)
            yield found

    def action_keep(self) -> None:
        """Choose nothing else."""
        self.dismiss(self._chosen)

    def on_option_list_option_selected(self, chosen: OptionList.OptionSelected) -> None:
        """Choose."""
        name = chosen.option.id or _ALL
        self.dismiss("" if name == _ALL else name)
