"""What a user may write as a model, and the named baselines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.data.record import Message
from infimed.evaluation import baseline, opening
from infimed.evaluation.opening import Options, find, opened
from infimed.inference.prompting import CHOICE, SHORT, SHORT_ZH
from tests.conftest import REPOSITORY
from tests.inference.hub_checkpoints import gemma3, llava_qwen2, qwen3
from tests.inference.stub_server import said, serving


def test_a_word_is_recognised_without_loading_anything(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    theirs = tmp_path / "Their Model!"
    theirs.mkdir()
    (theirs / "config.json").write_text("{}")
    kinds = {
        str(tmp_path / "run"): ("own", tmp_path / "run" / "evaluation-eval"),
        str(tmp_path / "nowhere"): ("own", tmp_path / "nowhere" / "evaluation-eval"),
        str(theirs): ("folder", Path("evaluation-Their-Model")),
        "http://127.0.0.1:8000/v1": ("endpoint", Path("evaluation-http-127.0.0.1-8000-v1")),
        "stub:constant:yes": ("stub", Path("evaluation-stub-constant-yes")),
    }
    for text, (kind, answers) in kinds.items():
        found = find(text)
        assert (found.kind, found.answers) == (kind, answers), text
    found = find("medgemma-4b", Options(weights=theirs))
    assert (found.kind, found.folder) == ("baseline", theirs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("medgema-4b", "did you mean: medgemma-4b"),
        ("stub:oracle", "no such stub"),
        ("medgemma-4b", "--weights DIR"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(text)


def test_every_baseline_states_who_says_so_and_the_page_is_the_list() -> None:
    known = baseline.baselines()
    assert {
        "qwen2.5-vl-3b",
        "medgemma-4b",
        "medgemma-27b",
        "huatuogpt-vision-7b",
        "lingshu-7b",
        "infimed-foundation-4b",
    } <= set(known)
    page = (REPOSITORY / "docs" / "baselines.md").read_text(encoding="utf-8")
    assert page == baseline.markdown()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hub:", "hubb:", "unknown key"),
        ("value: MIT, source: head of its model card", "value: MIT", "source"),
        ("b98aecd41dfd9d7545a6b8e2f4743ae8471bd7a9", "main", "a full commit"),
        ("title:", "title: [", "not valid YAML"),
    ],
)
def test_a_baseline_that_hides_something_is_refused(old: str, new: str, message: str) -> None:
    file = Path(baseline.__file__).parent / "baselines" / "lingshu_7b.yaml"
    text = file.read_text(encoding="utf-8")
    assert baseline.parse_baseline(text, "x").name == "lingshu-7b" and old in text
    with pytest.raises(DataError, match=message):
        baseline.parse_baseline(text.replace(old, new, 1), "x")


def test_listing_models_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv=['infimed','eval','--models']\n"
        "from infimed.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "medgemma-27b" in done.stdout


def test_the_weights_of_another_model_are_not_taken_for_a_baseline(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    folder = qwen3(tmp_path / "qwen3")
    options = Options(weights=folder)
    with (
        pytest.raises(DataError, match="not the weights of medgemma-4b"),
        opened(find("medgemma-4b", options), options),
    ):
        pass


def test_a_baseline_is_asked_as_its_authors_ask_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    options = Options(weights=llava_qwen2(tmp_path / "huatuo"))
    with opened(find("huatuogpt-vision-7b", options), options) as model:
        turns = (
            Message("user", (0, "Which organ? ")),
            Message("assistant", ("The lung.",)),
            Message("user", ("Which side?",)),
        )
        assert model.prompts.text(turns) == (
            "<|user|>\n<image>\nWhich organ?\n<|assistant|>\nThe lung. \n"
            "<|user|>\nWhich side?\n<|assistant|>\n"
        )


def test_number_types_are_float32_here_and_named_ones_elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    folder = str(gemma3(tmp_path / "gemma"))
    with opened(find(folder)) as model:
        assert str(model.model.dtype) == "torch.float32"
    with opened(find(folder), Options(dtype="float16")) as model:
        assert str(model.model.dtype) == "torch.float16"
    with (
        pytest.raises(UsageError, match="no such number type"),
        opened(find(folder), Options(dtype="int8")),
    ):
        pass


def test_weights_are_fetched_at_the_pinned_revision_only_when_asked(tmp_path, monkeypatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    calls = []
    monkeypatch.setattr(
        hub, "snapshot_download", lambda name, **k: (calls.append((name, k)), k["local_dir"])[1]
    )
    one = baseline.baseline("lingshu-7b")
    place = opening.fetch(one, tmp_path)
    ((name, settings),) = calls
    assert name == one.hub and settings["revision"] == one.pinned
    assert place.is_relative_to(tmp_path) and "*.py" not in settings["allow_patterns"]
    with pytest.raises(UsageError, match="--hub to fetch"):
        find("lingshu-7b")
    assert find("lingshu-7b", Options(hub=True)).folder is None


def test_the_only_served_model_is_taken_and_of_several_one_must_be_named() -> None:
    pytest.importorskip("httpx")
    with serving(lambda call, _: said("x"), models=("a",)) as stub, opened(find(stub.url)) as model:
        assert model.endpoint.model == "a"
    with serving(lambda call, _: said("x"), models=("a", "b")) as stub:
        with pytest.raises(UsageError, match="choose with --model"), opened(find(stub.url)):
            pass
        options = Options(name="b")
        with opened(find(stub.url, options), options) as model:
            assert model.endpoint.model == "b"


def test_a_foreign_model_is_told_how_to_answer_in_the_language_of_the_question(
    tmp_path, monkeypatch
) -> None:
    from infimed.evaluation.sample import make_request, make_samples
    from infimed.evaluation.spec import load_task
    from tests.evaluation.fakes import clinic, radiology

    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    shards = clinic(4)
    told = {}
    with opened(find(str(gemma3(tmp_path / "gemma")))) as model:
        for task in ("closed", "choice", "report"):
            spec = load_task(task)
            (sample, *_) = make_samples([r for r in shards if r.task == task], spec)
            told[task] = make_request(sample, spec, model, shards).messages[-1].text
        vqa = load_task("vqa_rad")
        (sample, *_) = make_samples([r for r in radiology(2) if r.task == "open"], vqa)
        told["vqa_rad"] = make_request(sample, vqa, model, shards).messages[-1].text
        assert model.instruction("open", (Message("user", ("这是什么？",)),)) == SHORT_ZH
    assert told["closed"].endswith(f"\n{SHORT}")
    assert told["choice"].endswith(f"\n{CHOICE}") and "\nA. " in told["choice"]
    assert told["report"] == "Write the report with Findings and Impression."
    assert told["vqa_rad"].count(SHORT) == 1  # the task says so itself


def test_a_link_of_a_baseline_names_a_model_and_no_file(tmp_path) -> None:
    for one in baseline.baselines().values():
        assert json.dumps(one.model_dump(mode="json"))
        assert "/" in one.hub and "://" not in one.hub
