"""The card of an imported checkpoint: whose weights it holds, under which licences, and what became of each tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emova.checkpoint.importing.mapping import Report


@dataclass(frozen=True)
class Licence:
    """Of weights, code or data that a checkpoint stands on.

    Attributes:
        what: whose it is.
        terms: its name.
        note: what is to be looked up or kept in mind.
    """

    what: str
    terms: str
    note: str = ""

    def line(self) -> str:
        """For people."""
        return f"{self.what}: {self.terms}" + (f" ({self.note})" if self.note else "")


CARD_TELLS = "as its model card is quoted; read the card that came with the files"
EMOVA_TOKENIZER = Licence("EMOVA speech tokenizer's weights", "Apache-2.0", CARD_TELLS)
EMOVA_MODEL = Licence("EMOVA's model", "that of its model card", "it stands beside those of its parts below")
QWEN = Licence(
    "Qwen2.5, the language model below it", "7B Apache-2.0, 3B the Qwen Research License, 72B the Qwen License",
    "the 3B one may not be used commercially",
)  # fmt: skip
LLAMA = Licence("Llama, the language model below it", "the Llama Community License of its version")
GLM = Licence("GLM, the language model below it", "the GLM model licence of its version")
GEMMA = Licence("Gemma, the language model below it", "the Gemma Terms of Use")
MISTRAL = Licence("Mistral's language model below it", "Apache-2.0 or Mistral's own, by its version")
OTHER = Licence("the language model below it", "that of its authors", "look it up before any use")
QWEN_VIT = Licence("Qwen2-VL's vision tower", "Apache-2.0")
GLM_VOICE = Licence("GLM-4-Voice's weights", "the GLM-4-Voice Model License", "read it in the release before any use")
SPEECH = Licence("The speech parts", "that of the checkpoint that they were copied from")
FAMILIES = (("qwen", QWEN), ("llama", LLAMA), ("glm", GLM), ("gemma", GEMMA), ("mistral", MISTRAL))
"""By what the kind of a backbone holds. A model of a family's form may be another's: its own card tells more."""
WHISPER = Licence("Whisper's weights, which the tokenizer began with", "MIT or Apache-2.0")


def card(title: str, source: str, licences: Sequence[Licence], report: Report, use: str) -> str:
    """The ``README.md`` of an imported checkpoint."""
    lines = [f"# {title}", "", f"Imported by emova from `{source}`. The weights are those of their authors.", ""]
    lines += ["## Licences", "", *(f"- {licence.line()}" for licence in licences), ""]
    lines += ["## Tensors", "", *(f"- {line}" for line in report.lines()), ""]
    lines += ["Every tensor of the release is in one of these lines; every tensor of each part was filled.", ""]
    return "\n".join([*lines, "## Use", "", "```", use.strip(), "```", ""])


def backbone_licence(kind: str, stated: str = "") -> Licence:
    """The licence of a language model: as its own card states it, else what its family's are.

    Args:
        kind: its ``model_type``.
    """
    usual = next((licence for word, licence in FAMILIES if word in kind), OTHER)
    if stated:
        return Licence("The language model below it", stated, "as its own card states it")
    return usual if usual is OTHER else replace(usual, note=usual.note or "if it is its authors' own; read its card")
