"""Operators 25-28: the text cannot be read, or the image cannot be seen."""

from __future__ import annotations

from typing import Final

import numpy as np

from infimed.curation.corruption.base import (
    CAPTION_LIKE,
    Context,
    Corrupted,
    Operator,
    Pixels,
    chinese,
    first_question,
    image_number,
    last_answer,
    pick,
    with_turn,
)
from infimed.data.record import Record

_TAGS: Final = (
    "<b>{}</b>",
    "<sup>{}</sup>",
    "{}<br/>",
    "<p>{}</p>",
    '<span class="x">{}</span>',
    "{}&nbsp;",
    "&quot;{}&quot;",
    "{}&amp;",
)
_MISREAD: Final = (
    ("\u2019", "patient\u2019s"), ("\u2013", "\u2013"), ("µ", "5 µm"), ("°", "37 °C"), ("é", "Ménière"), ("\u2265", "\u2265"),
)  # fmt: skip
_CONFUSED: Final = {
    "l": "1I|i", "i": "l1!", "o": "0c", "O": "0", "e": "c", "c": "e", "a": "o@", "s": "5", "S": "5", "B": "8",
    "m": "rn", "n": "r", "u": "v", "v": "u", "h": "b", "b": "h6", "t": "f", "f": "t", "g": "q9", "d": "cl", "r": "n",
    "y": "v", "p": "n", "w": "vv", "z": "2", "I": "l", "T": "7", "k": "lc",
}  # fmt: skip
_ZH_CONFUSED: Final = {
    "肺": "胏", "右": "石", "左": "佐", "部": "陪", "未": "末", "见": "贝", "影": "彭", "像": "象", "的": "旳", "是": "昰",
    "中": "屮", "有": "冇", "图": "囫", "在": "茬", "什": "汁", "么": "幺", "大": "犬", "脑": "恼", "肝": "肟", "病": "疠",
}  # fmt: skip
_FOREIGN: Final = (
    "Les poumons sont clairs et le cœur est de taille normale, sans épanchement pleural visible.",
    "Die Lunge ist beidseits frei und das Herz ist nicht vergrößert, ein Erguss ist nicht zu sehen.",
    "No se observa derrame pleural y el corazón es de tamaño normal en esta imagen del tórax.",
    "Nella immagine si vede una lesione della parte sinistra che non è presente nel controllo precedente.",
    "A imagem mostra uma lesão do lado esquerdo que não foi vista no exame anterior da paciente.",
)
_FOREIGN_ZH: Final = (
    "両側の肺野に異常な陰影は認められません。",
    "The lungs are clear on both sides and the heart is of normal size.",
    "Les poumons sont clairs et le cœur est de taille normale.",
)
_RATES: Final = {1: 0.02, 2: 0.05, 3: 0.10}


def _target(record: Record) -> int:
    """The longer of question and answer; captions are damaged in what they say."""
    answer, question = last_answer(record), first_question(record)
    if answer < 0 or record.task in CAPTION_LIKE or question < 0:
        return max(answer, question if answer < 0 else answer)
    return answer if len(record.response) > len(record.question) else question


def misread_bytes(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Markup left in the text, or a wrong character table; `severity` places."""
    index = _target(record)
    text = record.messages[index].text if index >= 0 else ""
    if len(text.strip()) < 2:
        return None
    if chinese(text):
        table = "gbk" if random.random() < 0.5 else "latin-1"
        damaged = text.encode("utf-8").decode(table, errors="replace")
        return Corrupted(with_turn(record, index, damaged))
    words = text.split(" ")
    for _ in range(severity):
        at = int(random.integers(len(words)))
        if random.random() < 0.5:
            words[at] = pick(random, _TAGS).format(words[at])
        else:
            sign = _MISREAD[int(random.integers(len(_MISREAD)))][1]
            words[at] += " " + sign.encode("utf-8").decode("cp1252", errors="replace")
    return Corrupted(with_turn(record, index, " ".join(words)))


def misread_letters(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Errors of character recognition in 2, 5 or 10 % of the letters, at least one."""
    index = _target(record)
    text = record.messages[index].text if index >= 0 else ""
    letters = [i for i, c in enumerate(text) if c in _CONFUSED or c in _ZH_CONFUSED]
    if len(letters) < 4:
        return None
    count = max(1, round(_RATES[severity] * len(text)))
    made = list(text)
    for at in random.permutation(len(letters))[:count]:
        place = letters[int(at)]
        options = _CONFUSED.get(text[place]) or _ZH_CONFUSED[text[place]]
        whole = options in ("rn", "cl", "vv", "lc")
        made[place] = options if whole else options[int(random.integers(len(options)))]
        if random.random() < 0.1:
            made[place] = ""
    damaged = "".join(made)
    return None if damaged == text else Corrupted(with_turn(record, index, damaged))


def blurred(pixels: Pixels, random: np.random.Generator, severity: int) -> Pixels:
    """Gaussian or motion blur, JPEG quality 10, or a copy of 64 pixels blown up again."""
    import cv2

    height, width = pixels.shape[:2]
    side = min(height, width)
    kind = int(random.integers(4))
    if kind == 0:
        sigma = side * {1: 0.009, 2: 0.014, 3: 0.025}[severity]
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)
    if kind == 1:
        reach = max(5, round(side * {1: 0.035, 2: 0.055, 3: 0.09}[severity])) | 1
        kernel = np.zeros((reach, reach), np.float32)
        angle = float(random.uniform(0, np.pi))
        dx, dy = np.cos(angle) * reach / 2, np.sin(angle) * reach / 2
        middle = reach / 2
        cv2.line(
            kernel,
            (round(middle - dx), round(middle - dy)),
            (round(middle + dx), round(middle + dy)),
            1.0,
            1,
        )
        return np.asarray(cv2.filter2D(pixels, -1, kernel / kernel.sum()), np.uint8)
    if kind == 2:
        quality = {1: 10, 2: 7, 3: 4}[severity]
        data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.ascontiguousarray(
            np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1]
        )
    small = {1: 64, 2: 48, 3: 32}[severity]
    low = cv2.resize(pixels, (small, small), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(low, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def blur(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Spoil one image."""
    if not record.images:
        return None
    number = image_number(record, random)
    return Corrupted(
        record, {number: blurred(context.pixels(record.images[number]), random, severity)}
    )


def repeat_or_translate(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The end of a text repeated like a stuck generator, or the answer in another language."""
    text = record.response.strip()
    if last_answer(record) < 0 or not text or record.task == "choice":
        return None
    zh = chinese(text) or chinese(record.question)
    if record.task in CAPTION_LIKE | {"open"} and random.random() < 0.4:
        return Corrupted(
            with_turn(record, last_answer(record), pick(random, _FOREIGN_ZH if zh else _FOREIGN))
        )
    pieces = list(text) if chinese(text) else text.split()
    size = int(random.integers(min(3, len(pieces)), min(8, len(pieces)) + 1))
    tail = pieces[-size:]
    joint = "" if chinese(text) else " "
    looped = joint.join([*pieces, *tail * (severity + 2)])
    return Corrupted(with_turn(record, last_answer(record), looped))


OPERATORS: Final = (
    Operator(25, "mojibake or markup", ("readability",), "text", misread_bytes, held_out=True),
    Operator(26, "character recognition noise", ("readability",), "text", misread_letters),
    Operator(27, "blur, JPEG q10, 64 pixels, motion", ("readability",), "image", blur),
    Operator(28, "repetition or wrong language", ("readability",), "text", repeat_or_translate),
)
