"""Leakage of one data set against another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infimed.data.record import Message, Record
from infimed.matching.leakage import counts, find_leaks, read_side, worst_by_row
from tests.curation.clinic import Memory, picture

LONG = (
    "A 61-year-old woman has had back pain for six weeks. Laboratory tests show anaemia and a raised "
    "protein; a film of the skull shows punched-out lesions. Which investigation confirms the diagnosis?"
)


def benchmark() -> Memory:
    memory = Memory()
    memory.ask((memory.image(picture(1)),), "Is there a pleural effusion?", "yes")
    memory.ask((memory.image(picture(2)),), "Where is the lesion?", "left lobe", "open")
    memory.ask((memory.image(picture(3)),), "Is the heart enlarged?", "no")
    memory.records.append(
        text_record("text", LONG, ("bone marrow biopsy", "lumbar puncture", "echo"))
    )
    return memory


def text_record(id: str, question: str, choices: tuple[str, ...]) -> Record:
    return Record(
        id=id,
        images=(),
        messages=(Message("user", (question,)), Message("assistant", (choices[0],))),
        task="choice",
        choices=choices,
        answer=choices[0],
    )


def crop(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels[6:-6, 4:-8])


def test_images_questions_and_both_are_told_apart() -> None:
    data = Memory()
    data.ask((data.image(picture(50)),), "Is there a pleural effusion?", "no")
    data.ask((data.image(picture(1)[:, ::-1].copy()),), "Can a pleural effusion be seen?", "yes")
    data.ask((data.image(crop(picture(2))),), "Which plane is this?", "axial", "open")
    data.ask((data.image(picture(3), "another file"),), "Is the heart enlarged?", "no")
    reworded = LONG.replace("has had", "complains of").replace("confirms", "proves")
    data.records.append(
        text_record("t", reworded, ("echo", "bone marrow biopsy", "lumbar puncture"))
    )
    leaks = find_leaks(read_side(data), read_side(benchmark()))
    assert [(leak.row, leak.other_row, leak.kind, leak.image, leak.question) for leak in leaks] == [
        (1, 0, "image and question", "mirrored", "paraphrased"),
        (2, 1, "image", "cropped", ""),
        (3, 2, "image and question", "same pixels", "same question"),
        (4, 3, "question", "", "paraphrased"),
    ]
    assert counts(leaks) == {
        "image": 1,
        "question": 1,
        "image and question": 2,
        "data records": 4,
        "benchmark records": 4,
    }


def test_an_everyday_question_about_another_image_is_no_leak() -> None:
    data = Memory()
    data.ask((data.image(picture(60)),), "Is there a pleural effusion?", "yes")
    assert find_leaks(read_side(data), read_side(benchmark())) == []


def test_the_strongest_leak_of_a_record_speaks() -> None:
    data = Memory()
    shown = (data.image(picture(1)), data.image(picture(3)))
    data.ask(shown, "Is the heart enlarged?", "no")
    leaks = find_leaks(read_side(data), read_side(benchmark()))
    assert [leak.kind for leak in leaks] == ["image", "image and question"]
    assert worst_by_row(leaks)[0].other_row == 2


def test_an_unreadable_image_is_counted_and_takes_no_part() -> None:
    data = benchmark()
    data.fail[data.records[0].images[0].sha256] = "the image data ends too early"
    side = read_side(data)
    assert side.unreadable == 1 and len(side.images) == 2
    found = find_leaks(side, read_side(benchmark()))
    assert {leak.row for leak in found} == {1, 2, 3}
