"""Urgent signs are found in the user's words and nowhere else; denied ones are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infimed.serving.applications.urgent import SIGNS, escalation, urgent_signs

URGENT = [
    ("I have chest pain.", "chest_pain"),
    ("My chest hurts when I walk up the stairs", "chest_pain"),
    ("there is a pressure in my chest since this morning", "chest_pain"),
    ("My father has crushing chest pain and he is sweating", "chest_pain"),
    ("No fever, chest pain since yesterday.", "chest_pain"),
    ("No, I have chest pain", "chest_pain"),
    ("I do not smoke but I have chest tightness", "chest_pain"),
    ("I can't sleep because of the chest pain", "chest_pain"),
    ("The chest pain does not go away", "chest_pain"),
    ("not only chest pain but also sweating", "chest_pain"),
    ("The chest pain went away but came back an hour ago", "chest_pain"),
    ("I’m not sure whether this is chest pain", "chest_pain"),
    ("I think I am having a heart attack", "chest_pain"),
    ("I can't breathe properly", "breathing"),
    ("She cannot catch her breath", "breathing"),
    ("shortness of breath at rest", "breathing"),
    ("My son has trouble breathing and his lips are turning blue", "breathing"),
    ("HE IS GASPING FOR AIR", "breathing"),
    ("her face is drooping on one side", "stroke"),
    ("Since an hour he has slurred speech", "stroke"),
    ("sudden weakness in my right arm", "stroke"),
    ("I suddenly can't move my left arm", "stroke"),
    ("numbness on one side of my body... on the left side, numb on the left side", "stroke"),
    ("the wound won't stop bleeding", "bleeding"),
    ("I am coughing up blood", "bleeding"),
    ("I vomited blood twice", "bleeding"),
    ("I have had black tarry stools for two days", "bleeding"),
    ("My wife fainted in the kitchen", "consciousness"),
    ("he had a seizure and is now sleepy", "consciousness"),
    ("grandma is unresponsive", "consciousness"),
    ("This is the worst headache of my life", "headache"),
    ("fever and a stiff neck", "headache"),
    ("my throat is closing after eating peanuts", "allergy"),
    ("swollen tongue after the new pill", "allergy"),
    ("I want to kill myself", "self_harm"),
    ("Sometimes I feel suicidal", "self_harm"),
    ("I would be better off dead", "self_harm"),
    ("She took too many pills", "poisoning"),
    ("my toddler swallowed a battery", "poisoning"),
    ("sudden loss of vision in the right eye", "vision"),
    ("I have severe abdominal pain and a fever", "abdomen"),
    ("I'm 20 weeks pregnant and I'm bleeding", "pregnancy"),
    ("I lost control of my bladder and have back pain", "cord"),
    ("my 3-week-old baby has a fever", "infant_fever"),
    ("he was hit by a car", "injury"),
    ("I take no medicine. Chest pain on the left.", "chest_pain"),
    ("I never had this before: chest pain", "chest_pain"),
    ("我胸痛两个小时了", "chest_pain"),
    ("胸口很痛，出冷汗", "chest_pain"),
    ("没有发烧，胸痛一天了", "chest_pain"),
    ("不明原因胸痛三天", "chest_pain"),
    ("没吃早饭就胸痛", "chest_pain"),
    ("虽然没有发热，但是胸闷得厉害", "chest_pain"),
    ("胸痛一直没有缓解", "chest_pain"),
    ("不仅胸痛，还出汗", "chest_pain"),
    ("我喘不过气来", "breathing"),
    ("孩子呼吸困难", "breathing"),
    ("無法呼吸", "breathing"),
    ("爸爸突然说不出话，嘴角歪斜", "stroke"),
    ("左侧肢体无力", "stroke"),
    ("咳血两次", "bleeding"),
    ("流血，血止不住", "bleeding"),
    ("奶奶昏迷了", "consciousness"),
    ("孩子刚才抽搐", "consciousness"),
    ("突发剧烈头痛", "headache"),
    ("吃了花生后喉咙肿起来了", "allergy"),
    ("我不想活了", "self_harm"),
    ("想自殺", "self_harm"),
    ("他吃了很多安眠药", "poisoning"),
    ("眼睛突然看不见了", "vision"),
    ("剧烈腹痛", "abdomen"),
    ("怀孕五个月出血", "pregnancy"),
    ("大小便失禁", "cord"),
    ("新生儿发烧", "infant_fever"),
    ("他出了车祸", "injury"),
]

CALM = [
    "I have no chest pain.",
    "No chest pain",
    "There is no chest pain and no shortness of breath",
    "I don't have chest pain",
    "I do not have any chest pain",
    "He denies chest pain",
    "She denied chest pain, palpitations or shortness of breath.",
    "I have no fever, chest pain or cough",
    "No fever, chest pain, or shortness of breath",
    "Without chest pain or fainting",
    "never had chest pain",
    "I haven't had a seizure",
    "He didn't lose consciousness",
    "He did not faint and has not passed out",
    "no signs of difficulty breathing",
    "I am not coughing up blood",
    "There wasn't any slurred speech",
    "neither chest pain nor shortness of breath",
    "negative for chest pain",
    "chest pain: none",
    "Chest pain - no",
    "The chest pain is gone now",
    "My chest pain has completely resolved",
    "I no longer have chest pain",
    "I don’t have trouble breathing",
    "It isn't the worst headache",
    "I am not suicidal",
    "no black stools",
    "no swelling of the face",
    "Is a pleural effusion visible?",
    "What does this chest radiograph show?",
    "My knee hurts after running",
    "I have had a cough for a week",
    "a mild headache since Monday",
    "My left ankle is swollen",
    "The rash on my arm itches",
    "I feel tired and my nose is running",
    "How large is the renal cyst?",
    "Should I stop taking aspirin before the operation?",
    "The chest X-ray was normal",
    "Is the finding on the left side?",
    "my stomach is a bit upset",
    "I sleep badly",
    "I have a stiff shoulder",
    "what is the dose of ibuprofen for adults?",
    "没有胸痛",
    "无胸痛",
    "我没有胸痛，也没有呼吸困难",
    "否认胸痛、咯血",
    "没有发热、胸痛和咳血",
    "没有出现抽搐",
    "未出现昏迷",
    "没有感到呼吸困难",
    "胸痛：无",
    "胸痛已经缓解",
    "胸痛消失了",
    "从不胸闷",
    "没有自杀的想法",
    "无发热或胸痛",
    "并无黑便",
    "咳嗽一周",
    "膝盖疼",
    "请看一下这张胸片",
    "头有点痛",
    "肚子有点不舒服",
    "流鼻涕，喉咙痛",
    "左脚踝扭伤后肿了",
    "这个结节有多大？",
    "最近睡不好",
    "皮肤发痒三天",
]


def test_both_lists_have_at_least_forty_sentences():
    assert len(URGENT) >= 40 and len(CALM) >= 40
    assert {key for _, key in URGENT} == {sign.key for sign in SIGNS}


@pytest.mark.parametrize(("text", "key"), URGENT)
def test_an_urgent_sentence_names_its_sign(text, key):
    assert key in [one.sign.key for one in urgent_signs(text)]


@pytest.mark.parametrize("text", CALM)
def test_a_calm_sentence_names_none(text):
    assert urgent_signs(text) == []


def test_what_was_said_is_a_part_of_the_text():
    (one,) = urgent_signs("Since noon I have CHEST  PAIN, is that bad?")
    assert one.said == "chest pain" and one.sign.name["zh"] == "胸痛"


def test_signs_come_once_and_in_a_fixed_order():
    said = "I can't breathe, I have chest pain, my chest hurts, I fainted"
    keys = [one.sign.key for one in urgent_signs(said)]
    assert keys == ["chest_pain", "breathing", "consciousness"]


def test_a_denied_sign_beside_a_stated_one_hides_neither():
    assert [one.sign.key for one in urgent_signs("No chest pain, but I can't breathe")] == [
        "breathing"
    ]
    assert [one.sign.key for one in urgent_signs("No chest pain. Chest pain!")] == ["chest_pain"]


def test_the_escalation_names_the_signs_and_a_number():
    found = urgent_signs("chest pain and I fainted")
    text = escalation(found, "en")
    assert text is not None and "chest pain, loss of consciousness" in text and "112" in text
    assert escalation([], "en") is None
    zh = escalation(urgent_signs("不想活了"), "zh")
    assert (
        zh is not None
        and "120" in zh
        and "12356" in zh
        and "988" in (escalation(urgent_signs("suicidal"), "en") or "")
    )


@given(st.text(max_size=300))
def test_any_text_is_read(text):
    urgent_signs(text)


def test_a_long_text_is_read_in_time_that_grows_with_its_length():
    # Patterns that backtrack would take for ever on these; the suite's time limit is the check.
    pieces = (
        "no ",
        "chest ",
        "没有",
        "没有、",
        "pregnant ",
        "a,",
        "胸",
        "no chest pain ",
        "没有胸痛、",
        "no a, ",
    )
    for piece in pieces:
        urgent_signs(piece * (60_000 // len(piece)) + "chest pain 胸痛")
