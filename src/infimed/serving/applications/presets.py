"""What each application says to the model, how long it may answer, and under which version.

A preset is prompt + decoding + post-processing. Its version counts up when any of them changes, and stands in
every result, so that a calibration or a study knows what was asked. Our own checkpoints are asked in the very
words they were trained with (`data.phantom`, `Processor.conversation`); a model behind `--backend` gets the
sentences of `inference.prompting`. Everything is decoded greedily unless the request says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from infimed.data.phantom.narratives import REPORT_PROMPT
from infimed.data.record import ImageRef, Message, Record, question_record
from infimed.inference.prompting import INSTRUCTED, with_sentence
from infimed.serving.media import Shown

if TYPE_CHECKING:
    from infimed.inference.local import LocalModel

Name = Literal["ask", "report", "differential", "consult"]


@dataclass(frozen=True)
class Preset:
    """See the module.

    Attributes:
        new_tokens: of one answer, at most. does: what it is for, in a sentence.
    """

    name: Name
    version: int
    new_tokens: int
    does: str

    @property
    def id(self) -> str:
        """As it stands in results: ``ask/1``."""
        return f"{self.name}/{self.version}"


PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset("ask", 1, 64, "a question about images, answered with a confidence"),
        Preset("report", 1, 256, "Findings and Impression of one to four images"),
        Preset("differential", 1, 48, "candidates ranked by probability, with 'cannot tell'"),
        Preset("consult", 1, 192, "a conversation that asks back and names urgent signs"),
    )
}

REPORT: Final = {"en": REPORT_PROMPT, "zh": "请书写报告，包括所见和印象。"}
CHANGED: Final = {
    "en": "The first image is the prior, the second the current one. What has changed?",
    "zh": "第一张是既往图像，第二张是当前图像。有什么变化？",
}
COMPARISON_TOKENS: Final = 64
WHICH: Final = {"en": "Which of these is present?", "zh": "下列哪一项存在？"}
CANNOT_TELL: Final = {"en": "Cannot tell", "zh": "无法判断"}
SPEAKS_FOR: Final = {"en": "What speaks for {name}?", "zh": "有哪些依据支持{name}？"}
SPEAKS_AGAINST: Final = {"en": "What speaks against {name}?", "zh": "有哪些依据反对{name}？"}
EXPLAINED: Final = 3
"""Of a differential, how many of the likeliest candidates get texts for and against."""
MODEL_TEXT: Final = {
    "en": "written by the model; not evidence and not checked",
    "zh": "由模型生成，并非证据，未经核实",
}
_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")


def language_of(text: str) -> str:
    """``zh`` where there is a Chinese character, else ``en``."""
    return "zh" if _HAN.search(text) else "en"


def question(text: str, images: Sequence[Shown], choices: Sequence[str] = ()) -> Record:
    """A user's question as a record: images first, as in training; the text is content and nothing else."""
    return question_record(
        id="request",
        question=text,
        answer=choices[0] if choices else "",
        images=references(images),
        task="choice" if choices else "open",
        choices=tuple(choices),
    )


def references(images: Sequence[Shown]) -> tuple[ImageRef, ...]:
    """Decoded images as a record refers to them."""
    return tuple(ImageRef("request", image.sha256, *image.size) for image in images)


def turns(record: Record, local: LocalModel | None, order: Sequence[int] | None = None) -> tuple[Message, ...]:  # fmt: skip
    """The turns of a question as the model was taught to see them; None for a model that was not."""
    if local is not None:
        return local.conversation(record, order)
    messages = INSTRUCTED.conversation(record, order)
    return with_sentence(messages, INSTRUCTED.instruction(record.task, messages))
